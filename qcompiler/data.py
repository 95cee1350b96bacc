"""Samples for a model: from files, folders, the user's own code or memory to feeds that are known to fit.

A feed is ``{input name: array}``. What a source holds is turned into feeds in one of two ways:

* **arrays** (an ``.npz`` file, a dict of arrays). An array with one more axis than the model's input is a stack of
  feeds. Otherwise axis 0 is the batch axis: as many rows at a time as the model fixes or, where it leaves that free,
  ``batch_size`` (1 when not given). An array that makes exactly one feed goes with every feed of the others.
* **whole feeds** (a folder of ``.npz``, a function, a list), taken as they are; shapes may differ.

Nothing is read before it is needed, and no more of it than one feed at a time, whatever the source holds.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qcompiler import ir
from qcompiler.errors import DataError, DependencyError

Feed = dict[str, np.ndarray]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


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


class Samples:
    """Feeds that fit the model; iterate as often as needed, each time from the start.

    ``count`` is how many feeds there are, None while unknown. ``where`` says where they come from.

    Iterating raises DataError at the first feed that does not fit, naming it, and when there is none at all.
    """

    def __init__(
        self,
        inputs: Sequence[ir.Variable],
        feeds: Callable[[], Iterable[Any]],
        *,
        where: str,
        count: int | None = None,
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise DataError(f"a limit of {limit} leaves no sample", where=where, fix="give a limit of 1 or more")
        self.inputs = tuple(inputs)
        self.where = where
        self.limit = limit
        self.count = count if limit is None or count is None else min(count, limit)
        self._feeds = feeds

    def __iter__(self) -> Iterator[Feed]:
        index = -1
        for index, feed in enumerate(islice(self._feeds(), self.limit)):
            yield check_feed(feed, self.inputs, f"{self.where}: sample {index}")
        if index < 0:
            raise DataError("there are no samples", where=self.where, fix="give at least one")
        self.count = index + 1


def open_samples(
    source: object,
    inputs: Sequence[ir.Variable],
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    image_options: ImageOptions | None = None,
) -> Samples:
    """The samples that ``source`` holds for a model with these ``inputs`` (``graph.inputs``).

    ``source``: the path of an ``.npz`` file, of a folder of ``.npz`` files or of images, ``file.py:function``; or a
    dict of arrays, a list or other iterable of feeds, or a function that returns one. A function is called anew for
    each iteration. An iterator can be read only once, so its first ``limit`` feeds are kept in memory: prefer a
    function. ``limit`` counts feeds; ``batch_size`` is for arrays and images, whose feeds are made here.

    Raises:
        DataError: the source is missing, damaged, or holds something else than the model wants.
        DependencyError: images without pillow.
    """
    inputs = tuple(inputs)
    if batch_size is not None and batch_size < 1:
        raise DataError(f"a batch size of {batch_size} is not possible", fix="give 1 or more")
    if isinstance(source, Samples):
        source = source._feeds
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        script, colon, function = text.rpartition(":")
        if colon and script.endswith(".py"):
            _refuse_batch_size(batch_size, text)
            return Samples(inputs, _user_function(Path(script), function), where=text, limit=limit)
        path = Path(source)
        if path.is_dir():
            return _open_folder(path, inputs, batch_size, limit, image_options)
        if path.suffix == ".npz":
            return _open_arrays(_npz_arrays(path), inputs, batch_size, limit, text)
        if path.suffix == ".py":
            raise DataError("names no function", where=text, fix=f"say which one makes the feeds: {text}:NAME")
        raise DataError(
            "is no source of samples" if path.exists() else "no such file",
            where=text,
            fix="give an .npz file, a folder of .npz files or images, or file.py:function",
        )
    if isinstance(source, Mapping):
        arrays = {str(name): _Array.of(value) for name, value in source.items()}
        return _open_arrays(arrays, inputs, batch_size, limit, "the given arrays")
    _refuse_batch_size(batch_size, "the given samples")
    if callable(source):
        name = getattr(source, "__name__", type(source).__name__)
        return Samples(inputs, _guarded(source, f"function '{name}'"), where=f"function '{name}'", limit=limit)
    if isinstance(source, Iterable):
        where = "the given samples"
        if iter(source) is source:
            source = list(islice(source, limit))
        count = len(source) if isinstance(source, Sized) else None
        return Samples(inputs, _guarded(lambda: source, where), where=where, count=count, limit=limit)
    raise DataError(
        f"cannot read samples from {type(source).__name__}",
        fix="give a path, a dict of arrays, an iterable of feeds or a function that returns one",
    )


def random_samples(inputs: Sequence[ir.Variable], count: int, seed: int = 0) -> Samples:
    """Made-up samples, for timing and for comparing two forms of one model; never to take ranges from.

    Floats are drawn from N(0, 1); integers are 0 or 1, which are valid as token, segment and mask alike, and 1 where
    the input is a scalar; booleans are true or false. A free batch axis gets 1: the first, or the only free one after a
    first that is fixed above 1 (a recurrent state). Another free axis gets 32, or 224 if it is one of the last two of
    a four-axis float input (a picture). Axes with the same symbol get the same size.

    Raises:
        DataError: the model does not say how many axes, or which element type, an input has.
    """
    inputs = tuple(inputs)
    shapes = _made_up_shapes(inputs)

    def feeds() -> Iterator[Feed]:
        for index in range(count):
            random = np.random.default_rng([seed, index])
            yield {tensor.name: _draw(random, tensor, shape) for tensor, shape in zip(inputs, shapes)}

    return Samples(inputs, feeds, where="random samples", count=count)


def check_feed(feed: object, inputs: Sequence[ir.Variable], where: str) -> Feed:
    """The feed with every array in the input's own dtype. Raises DataError saying what does not fit.

    Converted are floats to floats of another width, and integers to wider integers. Infinities are let through
    (attention masks have them), NaN is not. An axis of length 0 is let through where the model leaves the axis free
    and it is not the first (an empty cache of a decoder).
    """
    if not isinstance(feed, Mapping):
        raise DataError(f"is a {type(feed).__name__}", where=where, fix="make each sample a dict {input name: array}")
    _check_names(feed, inputs, where)
    return {t.name: _check_array(feed[t.name], t, f"{where}: input '{t.name}'") for t in inputs}


def _check_names(names: Iterable[object], inputs: Sequence[ir.Variable], where: str) -> None:
    known = [str(tensor.name) for tensor in inputs]
    given = [str(name) for name in names]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'" if close else "rename it"
            raise DataError(
                f"the model has no input '{name}'", where=where, why=f"its inputs are {_listed(known)}", fix=hint
            )
    for name in known:
        if name not in given:
            raise DataError(
                f"input '{name}' is missing", where=where, why=f"there are {_listed(given)}", fix=f"add '{name}'"
            )


def _check_array(value: object, tensor: ir.Variable, where: str) -> np.ndarray:
    if tensor.type_proto is not None:
        raise DataError("is no tensor but a sequence or an optional", where=where, fix="such models cannot be fed yet")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError("is no array", where=where, why=str(error)) from None
    array = _converted(array, tensor.dtype, where)
    if tensor.shape is not None:
        if array.ndim != len(tensor.shape):
            raise DataError(
                f"has {array.ndim} axes {list(array.shape)}, the model wants {len(tensor.shape)}: {_shape(tensor)}",
                where=where,
            )
        for axis, (size, wanted) in enumerate(zip(array.shape, tensor.shape)):
            if isinstance(wanted, int) and size != wanted:
                raise DataError(
                    f"axis {axis} has length {size}, the model wants {wanted}",
                    where=where,
                    why=f"given {list(array.shape)}, wanted {_shape(tensor)}",
                )
            if size == 0 and wanted != 0 and axis == 0:
                raise DataError("is empty", where=where, why=f"its shape is {list(array.shape)}")
    elif array.size == 0:
        raise DataError("is empty", where=where, why=f"its shape is {list(array.shape)}")
    if _is_float(array.dtype) and np.isnan(array).any():
        bad = int(np.isnan(array).sum())
        raise DataError(f"holds {bad} NaN", where=where, fix="repair this sample or leave it out")
    return array


def _converted(array: np.ndarray, wanted: Any, where: str) -> np.ndarray:
    if wanted is None or array.dtype == wanted:
        return array
    wanted = np.dtype(wanted)
    if wanted.kind == "O" and array.dtype.kind in "USO":
        return array.astype(object)
    if _is_float(array.dtype) and _is_float(wanted):
        with np.errstate(over="ignore"):
            narrowed = array.astype(wanted)
        if np.isinf(narrowed).sum() != np.isinf(array).sum():
            raise DataError(f"holds values that {wanted} cannot", where=where, why=f"it is {array.dtype}")
        return narrowed
    if array.dtype.kind in "iu" and wanted.kind in "iu" and np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    raise DataError(f"is {array.dtype}, the model wants {wanted}", where=where, fix=f"convert it to {wanted}")


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or "float" in dtype.name  # numpy does not count bfloat16 and the 8-bit floats


# Arrays ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Array:
    """An array that is read a few rows at a time: ``rows(n)`` yields it in runs of ``n`` along axis 0."""

    shape: tuple[int, ...]
    whole: Callable[[], np.ndarray]
    rows: Callable[[int], Iterator[np.ndarray]]

    @staticmethod
    def of(value: object) -> _Array:
        array = np.asarray(value)

        def rows(step: int) -> Iterator[np.ndarray]:
            return (array[start : start + step] for start in range(0, len(array), step))

        return _Array(array.shape, lambda: array, rows)


def _open_arrays(
    arrays: Mapping[str, _Array], inputs: Sequence[ir.Variable], batch_size: int | None, limit: int | None, where: str
) -> Samples:
    _check_names(arrays, inputs, where)
    if not inputs:
        return Samples(inputs, lambda: [{}], where=where, count=1, limit=limit)
    cuts: dict[str, Callable[[], Iterator[np.ndarray]]] = {}
    counts: dict[str, int] = {}
    batch_used = batch_size is None
    for tensor in inputs:
        array, shape, at = arrays[tensor.name], tensor.shape, f"{where}: input '{tensor.name}'"
        rank = len(array.shape)
        if shape is not None and rank not in (len(shape), len(shape) + 1):
            raise DataError(
                f"has {rank} axes {list(array.shape)}, the model wants {len(shape)}: {_shape(tensor)}",
                where=at,
                fix="one more axis makes a stack of feeds",
            )
        if rank and array.shape[0] == 0:
            raise DataError("there are no samples", where=at, why=f"its shape is {list(array.shape)}")
        if rank == 0:
            cuts[tensor.name], counts[tensor.name] = _once(array), 1
        elif shape is not None and rank == len(shape) + 1:
            cuts[tensor.name], counts[tensor.name] = _stacked(array), array.shape[0]
        else:
            fixed = shape[0] if shape is not None and isinstance(shape[0], int) else None
            batch_used = batch_used or fixed is None or fixed == batch_size
            step = fixed or batch_size or 1
            count = -(-array.shape[0] // step)
            whole_only = array.shape[0] // step
            if fixed is not None and count != whole_only and not (limit is not None and limit <= whole_only):
                raise DataError(
                    f"{array.shape[0]} rows do not fill feeds of {fixed}",
                    where=at,
                    why="the model fixes its batch size",
                    fix=f"leave out {array.shape[0] % fixed} or add {fixed - array.shape[0] % fixed}",
                )
            cuts[tensor.name], counts[tensor.name] = _batches(array, step), count
    if not batch_used:
        raise DataError(
            f"a batch size of {batch_size} is not possible", where=where, why="the model, or a stack of feeds, fixes it"
        )
    count = max(counts.values())
    for name, other in counts.items():
        if other not in (1, count):
            longest = max(counts, key=counts.__getitem__)
            raise DataError(
                f"input '{name}' makes {other} feeds and input '{longest}' makes {count}",
                where=where,
                fix="give each input the same number of rows",
            )

    def feeds() -> Iterator[Feed]:
        constant = {name: next(iter(cut())) for name, cut in cuts.items() if counts[name] == 1}
        streams = {name: cut() for name, cut in cuts.items() if counts[name] > 1}
        for _ in range(count):
            yield {**constant, **{name: next(stream) for name, stream in streams.items()}}

    return Samples(inputs, feeds, where=where, count=count, limit=limit)


def _once(array: _Array) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter([array.whole()])


def _stacked(array: _Array) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (rows[0] for rows in array.rows(1))


def _batches(array: _Array, step: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: array.rows(step)


def _npz_arrays(path: Path) -> dict[str, _Array]:
    """The arrays of an .npz file by name. Only their headers are read here."""
    with _reading_npz(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        if not members:
            raise DataError("holds no arrays", where=str(path), fix="write it with numpy.savez(path, INPUT=array)")
        return {member[: -len(".npy")]: _npz_array(path, archive, member) for member in members}


def _npz_array(path: Path, archive: zipfile.ZipFile, member: str) -> _Array:
    with archive.open(member) as file:
        shape, fortran, dtype = _npy_header(file)
    if dtype.hasobject:
        raise DataError(f"array '{member[:-4]}' holds Python objects", where=str(path), fix="store numbers or strings")

    def whole() -> np.ndarray:
        with _reading_npz(path), np.load(path, allow_pickle=False) as arrays:
            return arrays[member[: -len(".npy")]]

    def rows(step: int) -> Iterator[np.ndarray]:
        if fortran:  # its rows do not lie together
            yield from _Array.of(whole()).rows(step)
            return
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _npy_header(file)
            for start in range(0, shape[0], step):
                size = min(step, shape[0] - start)
                data = file.read(size * row_bytes)
                if len(data) != size * row_bytes:
                    raise EOFError("the array is cut short")
                yield np.frombuffer(data, dtype).reshape(size, *shape[1:])

    def guarded(step: int) -> Iterator[np.ndarray]:
        with _reading_npz(path):
            yield from rows(step)

    return _Array(shape, whole, guarded)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


class _reading_npz:
    """Turns what zipfile and numpy raise on a bad file into one DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        where = str(self.path)
        if isinstance(error, FileNotFoundError):
            raise DataError("no such file", where=where, fix="check the path") from None
        if isinstance(error, (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError)):
            raise DataError(
                "is no .npz file, or damaged", where=where, why=str(error), fix="write it again with numpy.savez"
            ) from None


# Folders --------------------------------------------------------------------------------------------------------


def _open_folder(
    path: Path, inputs: Sequence[ir.Variable], batch_size: int | None, limit: int | None, options: ImageOptions | None
) -> Samples:
    where = str(path)
    files = sorted((f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")), key=_natural)
    arrays = [f for f in files if f.suffix.lower() == ".npz"]
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise DataError("holds .npz files and images", where=where, fix="keep one kind, or move it to its own folder")
    if arrays:
        _refuse_batch_size(batch_size, where)
        return Samples(inputs, lambda: map(_npz_feed, arrays), where=where, count=len(arrays), limit=limit)
    if images:
        return _open_images(images, inputs, batch_size, limit, options or ImageOptions(), where)
    raise DataError("holds neither .npz files nor images", where=where, why=f"it has {len(files)} files")


def _npz_feed(path: Path) -> Feed:
    with _reading_npz(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _open_images(
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
        names = _listed([tensor.name for tensor in inputs])
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

    def feeds() -> Iterator[Feed]:
        for start in range(0, len(files), step):
            yield {tensor.name: np.stack([maker(file) for file in files[start : start + step]])}

    return Samples(inputs, feeds, where=where, count=-(-len(files) // step), limit=limit)


def _image_maker(tensor: ir.Variable, options: ImageOptions, where: str) -> Callable[[Path], np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    if tensor.shape is not None and len(tensor.shape) != 4:
        raise DataError(f"is no picture: its shape is {_shape(tensor)}", where=where, fix="give .npz files")
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
        why = f"its shape is {_shape(tensor)}"
        raise DataError("the model leaves the picture's size free", where=where, why=why, fix="give an image size")
    height, width = options.size or sides
    dtype = np.dtype(tensor.dtype or np.float32)
    for name, numbers in (("mean", options.mean), ("std", options.std)):
        if len(numbers) not in (1, 1 if gray else 3):
            fix = "give one number, or one a channel"
            raise DataError(f"image option '{name}' has {len(numbers)} numbers", where=where, fix=fix)
    mean, std = np.asarray(options.mean, np.float32), np.asarray(options.std, np.float32)
    scale = np.float32(options.scale if options.scale is not None else 1 / 255 if _is_float(dtype) else 1)

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
        if not _is_float(dtype):
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


# The user's own code --------------------------------------------------------------------------------------------


def _user_function(path: Path, name: str) -> Callable[[], Iterator[Any]]:
    where = f"{path}:{name}"
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="check the path")
    spec = importlib.util.spec_from_file_location(f"qcompiler_samples_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as for a script, so that the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataError("cannot be imported", where=str(path), why=_said(error)) from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, name, None)
    if not callable(function):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DataError(f"has no function '{name}'", where=str(path), why=f"it has {_listed(defined)}")
    return _guarded(function, where)


def _guarded(function: Callable[[], Any], where: str) -> Callable[[], Iterator[Any]]:
    """Calls foreign code and iterates over what it returns; whatever it raises becomes a DataError."""

    def feeds() -> Iterator[Any]:
        try:
            returned = function()
            iterator = iter(returned) if isinstance(returned, Iterable) and not isinstance(returned, Mapping) else None
        except Exception as error:
            raise DataError("raised an error", where=where, why=_said(error)) from error
        if iterator is None:
            raise DataError(f"returned a {type(returned).__name__}", where=where, fix="return an iterable of feeds")
        index = 0
        while True:
            try:
                feed = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(f"raised an error at sample {index}", where=where, why=_said(error)) from error
            yield feed
            index += 1

    return feeds


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


# Random samples -------------------------------------------------------------------------------------------------


def _made_up_shapes(inputs: Sequence[ir.Variable]) -> list[tuple[int, ...]]:
    symbols: dict[str, int] = {}
    shapes = []
    for tensor in inputs:
        if tensor.shape is None or tensor.dtype is None or tensor.type_proto is not None:
            unknown = "element type" if tensor.dtype is None else "number of axes"
            raise DataError(
                f"the model does not say which {unknown} input '{tensor.name}' has", fix="give samples with --data"
            )
        picture = len(tensor.shape) == 4 and _is_float(np.dtype(tensor.dtype))
        free = [axis for axis, size in enumerate(tensor.shape) if not isinstance(size, int)]
        batch = free[0] if len(free) == 1 and tensor.shape[0] != 1 else 0
        shape = []
        for axis, size in enumerate(tensor.shape):
            if not isinstance(size, int):
                default = 1 if axis == batch else 224 if picture and axis >= 2 else 32
                size = symbols.setdefault(size, default) if isinstance(size, str) else default
            shape.append(size)
        shapes.append(tuple(shape))
    return shapes


def _draw(random: np.random.Generator, tensor: ir.Variable, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(tensor.dtype)
    if _is_float(dtype):
        return np.asarray(random.standard_normal(shape, dtype=np.float32)).astype(dtype)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0, 2, shape) if shape else 1, dtype)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape), bool)
    raise DataError(f"cannot make up values of {dtype} for input '{tensor.name}'", fix="give samples with --data")


def _refuse_batch_size(batch_size: int | None, where: str) -> None:
    if batch_size is not None:
        raise DataError("a batch size cannot be chosen", where=where, why="these samples are whole feeds already")


def _shape(tensor: ir.Variable) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in tensor.shape or []) + "]"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(f"'{name}'" for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
