"""A folder of pictures as feeds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qcompiler import ir
from qcompiler.data.samples import Feed, Samples, is_float, listed, shape_text
from qcompiler.errors import DataError, DependencyError


@dataclass(frozen=True)
class ImageOptions:
    """How pictures become input arrays: ``(pixel * scale - mean) / std``, channel by channel.

    ``size``: (height, width) in pixels; the model's own when None. ``mean`` and ``std``: one number, or one a channel,
    in the order of ``channels``. ``layout``: where the channel axis is; seen from the model's shape when None.
    ``scale``: 1/255 for models with float inputs and 1 for others when None. ``resize``: ``stretch`` to the size,
    ``crop`` the middle after fitting the shorter side, or ``pad`` with black after fitting the longer side.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float | None = None
    resize: Literal["stretch", "crop", "pad"] = "stretch"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("layout", (None, "nchw", "nhwc")),
            ("channels", ("rgb", "bgr")),
            ("resize", ("stretch", "crop", "pad")),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(value for value in allowed if value)
                raise DataError(f"image option '{name}' is {getattr(self, name)!r}", fix=f"use one of {choices}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DataError(f"image option 'size' is {self.size}", fix="give a height and a width in pixels")
        if not all(self.std):
            raise DataError("image option 'std' holds a zero", fix="give the divisors that the model was trained with")


def open_images(
    files: list[Path],
    inputs: Sequence[ir.Variable],
    batch_size: int | None,
    limit: int | None,
    options: ImageOptions,
    where: str,
) -> Samples:
    if importlib.util.find_spec("PIL") is None:
        raise DependencyError("images need pillow", where=where, fix="pip install 'qcompiler-onnx[images]'")
    if len(inputs) != 1:
        names = listed([tensor.name for tensor in inputs])
        raise DataError(
            f"images can feed a model with one input, this one has {len(inputs)}",
            where=where,
            why=f"its inputs are {names}",
            fix="give .npz files",
        )
    tensor = inputs[0]
    maker = _image_maker(tensor, options, f"{where}: input '{tensor.name}'")
    fixed = tensor.shape[0] if tensor.shape and isinstance(tensor.shape[0], int) else None
    if fixed is not None and batch_size not in (None, fixed):
        why = f"the model fixes it at {fixed}"
        raise DataError(f"a batch size of {batch_size} is not possible", where=where, why=why)
    step = fixed or batch_size or 1
    if fixed is not None and len(files) % fixed and not (limit is not None and limit <= len(files) // fixed):
        raise DataError(
            f"{len(files)} images do not fill feeds of {fixed}",
            where=where,
            why="the model fixes its batch size",
            fix=f"leave out {len(files) % fixed} or add {fixed - len(files) % fixed}",
        )

    count = -(-len(files) // step)

    def at(index: int) -> Feed:
        return {tensor.name: np.stack([maker(file) for file in files[index * step : (index + 1) * step]])}

    return Samples(inputs, lambda: map(at, range(count)), where=where, count=count, limit=limit, at=at)


def _image_maker(tensor: ir.Variable, options: ImageOptions, where: str) -> Callable[[Path], np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    if tensor.shape is not None and len(tensor.shape) != 4:
        raise DataError(f"is no picture: its shape is {shape_text(tensor)}", where=where, fix="give .npz files")
    shape = tensor.shape or [None] * 4
    layout = options.layout or ("nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw")
    channels, *sides = (shape[3], shape[1], shape[2]) if layout == "nhwc" else (shape[1], shape[2], shape[3])
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(
            f"has {channels} channels as {layout}, images have 1 or 3",
            where=where,
            fix="choose the other layout, or give .npz files",
        )
    gray = channels == 1
    if options.size is None and not all(isinstance(side, int) for side in sides):
        why = f"its shape is {shape_text(tensor)}"
        raise DataError("the model leaves the picture's size free", where=where, why=why, fix="give an image size")
    height, width = options.size or sides
    dtype = np.dtype(tensor.dtype or np.float32)
    for name, numbers in (("mean", options.mean), ("std", options.std)):
        if len(numbers) not in (1, 1 if gray else 3):
            fix = "give one number, or one a channel"
            raise DataError(f"image option '{name}' has {len(numbers)} numbers", where=where, fix=fix)
    mean, std = np.asarray(options.mean, np.float32), np.asarray(options.std, np.float32)
    scale = np.float32(options.scale if options.scale is not None else 1 / 255 if is_float(dtype) else 1)

    def make(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as opened:
                picture = _resized(opened.convert("L" if gray else "RGB"), height, width, options.resize)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError("is no readable image", where=str(file), why=str(error), fix="remove it") from None
        pixels = np.asarray(picture, np.float32).reshape(height, width, -1)
        if options.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        pixels = (pixels * scale - mean) / std
        if not is_float(dtype):
            limits = np.iinfo(dtype)
            pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        return np.ascontiguousarray(pixels if layout == "nhwc" else pixels.transpose(2, 0, 1), dtype=dtype)

    return make


def _resized(picture: Any, height: int, width: int, mode: str) -> Any:
    from PIL import Image, ImageOps

    if mode == "crop":
        return ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    if mode == "pad":
        return ImageOps.pad(picture, (width, height), Image.Resampling.BILINEAR)
    return picture.resize((width, height), Image.Resampling.BILINEAR)
