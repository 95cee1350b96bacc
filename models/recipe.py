"""What a recipe for a real model offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.tokenizers import Tokenizer

Feed = dict[str, np.ndarray]


class Sample(NamedTuple):
    """One feed with batch size 1, and what the model should say to it where that is known."""

    feed: Feed
    label: Any = None


@dataclass(frozen=True)
class Recipe:
    """A published float model, with data to calibrate and to judge its quantized form.

    model     fetches (or exports) the float ONNX file and returns its path in the cache.
    samples   `samples(split)` yields Samples of the split "calibration" or "evaluation"; no text line, photograph,
              clip or file is in both. The same call yields the same samples on every machine.
    metric    what `score` measures, with its unit and direction; None where only agreement with float can be had.
    score     `score(outputs, labels)`: one number from the first output of each sample and the sample's label.
    scores    index expression of the class scores in the first output, where it mixes them with other quantities.
    batched   whether the first axis of every input is its batch axis, so that feeds can be joined into larger ones.
    extra     the optional dependency of the project that `model` needs, None when it needs nothing but a client.
    cached    of a language model: the same in the form that takes past keys and values, for generating text.
    tokenizer of a language model.
    """

    name: str
    licence: str
    note: str
    model: Callable[[], Path]
    samples: Callable[[str], Iterator[Sample]]
    metric: str | None = None
    score: Callable[[Sequence[np.ndarray], Sequence[Any]], float] | None = None
    scores: tuple[slice, ...] | None = None
    batched: bool = True
    extra: str | None = None
    cached: Callable[[], Path] | None = None
    tokenizer: Callable[[], Tokenizer] | None = None

    def calibration(self, count: int) -> Iterator[Feed]:
        """At most `count` feeds {input name: array} to observe ranges on."""
        return (sample.feed for sample in islice(self.samples("calibration"), count))

    def evaluation(self, count: int) -> Iterator[Feed]:
        """At most `count` held-out feeds."""
        return (sample.feed for sample in islice(self.samples("evaluation"), count))

    def labels(self, count: int) -> list[Any]:
        """The labels of `evaluation(count)`, in the same order; None for a sample that has none."""
        return [sample.label for sample in islice(self.samples("evaluation"), count)]
