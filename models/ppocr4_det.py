"""PP-OCRv4, the detector: a picture of a page to the places of its text lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from models import text
from models.ppocr4_rec import RAPIDOCR
from models.recipe import Recipe, Sample

SIDE = 320
THRESHOLD, UNCLIP = 0.3, 1.6  # the package's own: what counts as text, and how far a region is grown back

Box = tuple[float, float, float, float]  # left, top, right, bottom


def model() -> Path:
    return RAPIDOCR.member(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    )


def samples(split: str) -> Iterator[Sample]:
    lines = text.lines(split)
    while True:
        image, boxes = _page(lines)
        pixels = np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1)
        yield Sample({"x": np.ascontiguousarray((pixels / 255 - 0.5) / 0.5)[None]}, boxes)


def _page(lines: Iterator[tuple[str, np.random.Generator]]) -> tuple[Image.Image, list[Box]]:
    """One RGB page of 320 × 320 with lines of several sizes, and the box of each line."""
    line, rng = next(lines)
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ink, paper = (dark, light) if rng.random() < 0.8 else (light, dark)
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in paper))
    pen = ImageDraw.Draw(image)
    boxes: list[Box] = []
    y = int(rng.integers(6, 40))
    while True:
        face = text.font(rng, int(rng.integers(13, 31)))
        left, top, right, bottom = face.getbbox(line)
        width, height = right - left, bottom - top
        if y + height > SIDE - 6:
            break
        if width <= SIDE - 12:
            x = int(rng.integers(6, SIDE - 5 - int(width)))
            pen.text((x - left, y - top), line, tuple(int(value) for value in ink), face)
            boxes.append((x, y, x + width, y + height))
            y += int(height) + int(rng.integers(10, 36))
        line, rng = next(lines)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 10), (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), boxes


def regions(probabilities: np.ndarray) -> list[Box]:
    """The boxes of the connected regions of [height, width] above the threshold, grown as the package grows them."""
    rows, columns = np.nonzero(probabilities > THRESHOLD)
    left_over = set(zip(rows.tolist(), columns.tolist()))
    boxes: list[Box] = []
    while left_over:
        first = left_over.pop()
        region, frontier = [first], [first]
        while frontier:
            row, column = frontier.pop()
            for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if neighbour in left_over:
                    left_over.remove(neighbour)
                    region.append(neighbour)
                    frontier.append(neighbour)
        (top, left), (bottom, right) = np.min(region, 0), np.max(region, 0) + 1
        width, height = right - left, bottom - top
        if min(width, height) >= 3:
            grown = UNCLIP * width * height / (2 * (width + height))
            boxes.append((left - grown, top - grown, right + grown, bottom + grown))
    return boxes


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def score(outputs: Sequence[np.ndarray], labels: Sequence[list[Box]]) -> float:
    matched = found = there = 0
    for output, boxes in zip(outputs, labels):
        regions_found = regions(output[0, 0])
        found += len(regions_found)
        there += len(boxes)
        # Lines do not overlap, so no region can match two of them at one half.
        matched += sum(any(_overlap(region, box) >= 0.5 for region in regions_found) for box in boxes)
    return 100 * 2 * matched / max(found + there, 1)


RECIPE = Recipe(
    name="ppocr4-det",
    licence="Apache-2.0",
    note="opset 12, weights in Constant nodes, dynamic shapes, segmentation head with ConvTranspose",
    model=model,
    samples=samples,
    metric="text lines found at an overlap of one half, F1 in percent, higher is better",
    score=score,
)
