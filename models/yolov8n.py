"""NudeNet 320n: YOLOv8n, trained to find body parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models import images
from models.packages import Package
from models.recipe import Recipe, Sample

NUDENET = Package("pypi", "nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331")


def model() -> Path:
    return NUDENET.member("nudenet/320n.onnx", "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f")


def samples(split: str) -> Iterator[Sample]:
    for photograph in images.photographs(split):
        yield Sample({"images": images.planes(photograph, 320)})


RECIPE = Recipe(
    name="yolov8n",
    licence="AGPL-3.0: for measuring only",
    note="opset 17, 58 SiLU, Concat, Split; boxes (0 … 320) and class scores (0 … 1) share one output",
    model=model,
    samples=samples,
    scores=(slice(None), slice(4, None)),
)
