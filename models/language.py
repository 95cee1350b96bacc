"""What the recipes of language models share: both forms in the cache, and the score of their samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from models import llama
from models.generation import surprise
from models.llama import Llama
from models.packages import cache, written_beside

LENGTH = 64  # tokens of a sample

METRIC = "perplexity of the next token, lower is better"


def written(name: str, digest: str, cached: bool, read: Callable[[], tuple[Llama, Mapping[str, np.ndarray]]]) -> Path:
    """The ONNX file of one form, from the cache when it was written before; `read` says what of, `digest` which."""
    form = "cached" if cached else "plain"
    target = cache() / "exports" / f"{name}-{digest[:16]}-opset{llama.OPSET}-{form}" / f"{name}.onnx"
    if not target.is_file():
        shape, weights = read()
        with written_beside(target) as beside:
            onnx.save(llama.model(shape, weights, cached, name), beside)
    return target


def score(outputs: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """exp of the mean surprise; each label is the tokens that follow those of the sample, [1, sequence]."""
    surprises = [surprise(output, label) for output, label in zip(outputs, labels)]
    return float(np.exp(np.mean(np.concatenate(surprises, axis=None))))
