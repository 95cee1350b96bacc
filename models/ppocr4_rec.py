"""PP-OCRv4, the recognizer: a picture of one text line to its characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from models import text
from models.packages import Package
from models.recipe import Recipe, Sample

RAPIDOCR = Package(
    "pypi", "rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
)
HEIGHT, WIDTH = 48, 320


def model() -> Path:
    return RAPIDOCR.member(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    )


def samples(split: str) -> Iterator[Sample]:
    for line, rng in text.lines(split):
        yield Sample({"x": _input(text.drawn(line, rng))}, line)


def _input(image: Image.Image) -> np.ndarray:
    """float32 [1, 3, 48, 320], BGR in −1 … 1; what the line leaves free on the right is 0, as in the package."""
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    x = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    x[0, :, :, :width] = (pixels[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return x


@cache
def characters() -> list[str]:
    """The character of each class: class 0 is CTC's blank, the last one the space."""
    for entry in onnx.load(model(), load_external_data=False).metadata_props:
        if entry.key == "character":
            return ["", *entry.value.splitlines(), " "]
    raise ValueError(f"{model()}: no metadata entry 'character'; fetch the model again")


def decode(probabilities: np.ndarray) -> str:
    """The characters of [1, steps, classes]: best class of each step, repetitions and blanks dropped (CTC)."""
    best = probabilities[0].argmax(-1)
    kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return "".join(characters()[index] for index in kept).strip()  # a wide margin is read as a space


def edits(read: str, written: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions from one string to the other."""
    row = list(range(len(written) + 1))
    for i, a in enumerate(read, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(written, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def score(outputs: Sequence[np.ndarray], labels: Sequence[str]) -> float:
    wrong = sum(edits(decode(output), label) for output, label in zip(outputs, labels))
    return 100 * wrong / sum(map(len, labels))


RECIPE = Recipe(
    name="ppocr4-rec",
    licence="Apache-2.0",
    note="opset 12, weights in Constant nodes, dynamic shapes, HardSwish written out, attention, CTC head",
    model=model,
    samples=samples,
    metric="character error rate in percent, lower is better",
    score=score,
)
