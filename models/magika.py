"""Magika, standard_v3_3: the first and the last kilobyte of a file to its type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from models import images, text
from models.packages import Package
from models.ppocr4_rec import RAPIDOCR
from models.recipe import Recipe, Sample
from models.silero_vad import SPEECH

MAGIKA = Package(
    "pypi",
    "magika",
    "1.0.3",
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    "manylinux_2_28_x86_64",
)
BOOTSTRAP = Package("npm", "bootstrap", "5.3.3", "38cee936dbd80138de6775683149f22e9226fc2d654392337a921f53000c789e")
PACKAGES = (images.PHOTOGRAPHS, images.LABELLED, SPEECH, RAPIDOCR, MAGIKA, BOOTSTRAP, text.SANS, text.SERIF)

# What an ending says for sure. `.h` and `.txt`, for example, say too little.
TYPES = {
    ".c": "c",
    ".css": "css",
    ".gif": "gif",
    ".gz": "gzip",
    ".jpg": "jpeg",
    ".js": "javascript",
    ".json": "json",
    ".md": "markdown",
    ".mp4": "mp4",
    ".onnx": "onnx",
    ".otf": "otf",
    ".pdf": "pdf",
    ".png": "png",
    ".py": "python",
    ".scss": "scss",
    ".sh": "shell",
    ".svg": "svg",
    ".ttf": "ttf",
    ".wav": "wav",
    ".woff": "woff",
    ".woff2": "woff2",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zip": "zip",
}
BLOCK, LENGTH, PADDING = 4096, 1024, 256
SMALLEST = 64  # bytes
MOST = 40  # files of one type, so that no type fills the sample


def model() -> Path:
    return MAGIKA.member(
        "magika/models/standard_v3_3/model.onnx", "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
    )


@cache
def types() -> list[str]:
    """The type of each class."""
    with MAGIKA.open("magika/models/standard_v3_3/config.min.json") as file:
        return json.load(file)["target_labels_space"]


def features(content: bytes) -> np.ndarray:
    """int32 [1, 2048]: what stands at both ends of the file without the blanks around it; 256 where nothing stands."""
    first, last = content[:BLOCK].lstrip()[:LENGTH], content[-BLOCK:].rstrip()[-LENGTH:]
    numbers = np.full((1, 2 * LENGTH), PADDING, np.int32)
    numbers[0, : len(first)] = np.frombuffer(first, np.uint8)
    numbers[0, 2 * LENGTH - len(last) :] = np.frombuffer(last, np.uint8)
    return numbers


def samples(split: str) -> Iterator[Sample]:
    """Every second file of each type, of all packages, in an order that mixes the types."""
    rng = np.random.default_rng(0)
    own = [
        (content, kind)
        for kind, files in _files().items()
        for content in [files[index] for index in rng.permutation(len(files))[: 2 * MOST]][split == "evaluation" :: 2]
    ]
    for index in rng.permutation(len(own)):
        content, kind = own[index]
        yield Sample({"bytes": features(content)}, types().index(kind))


@cache
def _files() -> dict[str, list[bytes]]:
    """Both ends of every file that is long enough to show what it is, by type; none twice."""
    by_type: dict[str, dict[bytes, None]] = {}
    for package in PACKAGES:
        kinds = {name: TYPES.get(PurePosixPath(name).suffix) for name in package.names()}
        named = sorted(package.contents(name for name, kind in kinds.items() if kind).items())
        for name, content in named:
            if len(content) >= SMALLEST:
                ends = content if len(content) <= 2 * BLOCK else content[:BLOCK] + content[-BLOCK:]
                by_type.setdefault(str(kinds[name]), {})[ends] = None
    return {kind: list(files) for kind, files in by_type.items()}


def score(outputs: Sequence[np.ndarray], labels: Sequence[int]) -> float:
    return 100 * float(np.mean([output[0].argmax() == label for output, label in zip(outputs, labels)]))


RECIPE = Recipe(
    name="magika",
    licence="Apache-2.0",
    note="opset 15, int32 input, the bytes one-hot encoded",
    model=model,
    samples=samples,
    metric="files whose type is recognized, in percent, higher is better",
    score=score,
)
