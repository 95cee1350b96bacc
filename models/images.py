"""Photographs, and how they become a model's input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from models.packages import Package
from models.recipe import Sample

PHOTOGRAPHS = Package("pypi", "mvtb-data", "1.6.1", "0ca9c30e100fa272421068a167ea6529085ff8f4afdca72e5fad681c52cabdbf")
LABELLED = Package("pypi", "foolbox", "3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What the package has besides photographs: drawings, masks, calibration boards and the frames of an animation.
NOT_A_PHOTOGRAPH = re.compile(
    r"shark|blobs|segmentation|scale-space|eg-morph|points|wally\.png|apriltag|/calibration/|fisheye"
)


def photographs(split: str) -> Iterator[Image.Image]:
    """Endless crops of about 90 photographs, RGB; neighbours in name (often one scene) fall into the same split.

    The first crop of each photograph is its middle, later ones are drawn at random.
    """
    names = [
        name
        for name in PHOTOGRAPHS.names()
        if name.startswith("mvtbdata/images/") and name.endswith((".png", ".jpg")) and not NOT_A_PHOTOGRAPH.search(name)
    ]
    scenes = sorted({_scene(name) for name in names})
    chosen = set(scenes[split == "evaluation" :: 2])
    own = [name for name in names if _scene(name) in chosen]
    rng = np.random.default_rng(2000 + (split == "evaluation"))
    images = []
    for name in own:
        with PHOTOGRAPHS.open(name) as file:
            image = Image.open(file).convert("RGB")
        image.thumbnail((1024, 1024))
        images.append(image)
        yield squared(image)
    while True:
        image = images[rng.integers(len(images))]
        side = int(min(image.size) * rng.uniform(0.4, 1.0))
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        crop = image.crop((left, top, left + side, top + side))
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _scene(name: str) -> str:
    """The name without its number and side: `aerial-08` and `aerial-10` show one landscape."""
    return re.sub(r"(-[lr]|[-_.]?\d+(-\d+)?)?\.(png|jpg)$", "", name.replace("/holdout", ""))


def labelled() -> Iterator[tuple[Image.Image, int]]:
    """Twenty ImageNet photographs of 224 × 224 with the number of their class (0 … 999)."""
    for name in LABELLED.names():
        if found := re.fullmatch(r"foolbox/data/imagenet_\d+_(\d+)\.jpg", name):
            with LABELLED.open(name) as file:
                yield Image.open(file).convert("RGB"), int(found[1])


def classified(split: str, mean: Sequence[float], deviation: Sequence[float]) -> Iterator[Sample]:
    """Endless inputs for a classifier, 224 × 224; the evaluation begins with the labelled photographs."""
    offset, factor = (np.array(values, np.float32)[None, :, None, None] for values in (mean, deviation))
    if split == "evaluation":
        for photograph, label in labelled():
            yield Sample({"image": (planes(photograph, 224) - offset) / factor}, label)
    for photograph in photographs(split):
        yield Sample({"image": (planes(photograph, 224) - offset) / factor})


def top1(outputs: Sequence[np.ndarray], labels: Sequence[int | None]) -> float:
    """Right first answers in percent of the labelled samples."""
    right = [output[0].argmax() == label for output, label in zip(outputs, labels) if label is not None]
    return 100 * float(np.mean(right)) if right else float("nan")


def squared(image: Image.Image) -> Image.Image:
    """The largest square in the middle of the image."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def planes(image: Image.Image, size: int) -> np.ndarray:
    """float32 [1, 3, size, size], RGB in 0 … 1, resized bilinearly."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
