"""How far a compiled model's outputs are from the float model's, gathered sample by sample in fixed memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from qcompiler.runtime import Feed, run, side_by_side


@dataclass(frozen=True)
class OutputError:
    """Agreement of one output over all samples.

    ``sqnr``: 10 log10(Σ float² / Σ (float - compiled)²) in dB; ``cosine``: of the two outputs read as vectors;
    ``top1``: how often the largest entry along the last axis is the same one, None where the output does not look
    like scores; ``largest``: the largest absolute difference.
    """

    name: str
    sqnr: float
    cosine: float
    top1: float | None
    largest: float


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0
    largest: float = 0.0
    same: int = 0
    rows: int = 0
    classes: int | None = None
    broken: bool = False


class Comparison:
    """Gathers the agreement of the named outputs, sample by sample."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._sums: dict[str, _Sums] = {}

    def add(self, wanted: Sequence[object], actual: Sequence[object]) -> None:
        """The outputs of one sample, as the reference and as the compiled model returned them."""
        for name, a, b in zip(self.names, wanted, actual):
            if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.dtype.kind not in "fiub":
                continue
            one = self._sums.setdefault(name, _Sums())
            if a.shape != b.shape:
                one.broken = True
                continue
            x, y = a.astype(np.float64), b.astype(np.float64)
            known, also = np.isfinite(x), np.isfinite(y)
            one.broken |= not (np.array_equal(known, also) and np.array_equal(x[~known], y[~known], equal_nan=True))
            x, y = np.where(known, x, 0.0), np.where(also, y, 0.0)
            one.signal += float(np.sum(x * x))
            one.power += float(np.sum(y * y))
            one.product += float(np.sum(x * y))
            one.noise += float(np.sum((x - y) ** 2))
            one.largest = max(one.largest, float(np.max(np.abs(x - y), initial=0.0)))
            same_classes = a.ndim >= 2 and one.classes in (None, a.shape[-1])
            if a.dtype.kind == "f" and same_classes and a.shape[-1] >= 3:
                one.classes = a.shape[-1]
                one.same += int(np.sum(x.argmax(-1) == y.argmax(-1)))
                one.rows += x.size // x.shape[-1]
            else:
                one.classes = -1

    def errors(self) -> list[OutputError]:
        """One entry for each numeric output, in the order of the names."""
        return [_error(name, self._sums[name]) for name in self.names if name in self._sums]


def compare(
    reference: ort.InferenceSession, compiled: ort.InferenceSession, feeds: Iterable[Feed]
) -> list[OutputError]:
    """Runs both over the feeds; one entry for each numeric output, in the reference's order."""
    found = Comparison([output.name for output in reference.get_outputs()])
    for wanted, actual in side_by_side(lambda feed: (run(reference, feed), run(compiled, feed, found.names)), feeds):
        found.add(wanted, actual)
    return found.errors()


def _error(name: str, one: _Sums) -> OutputError:
    if one.broken:
        sqnr = -math.inf
    elif one.noise == 0.0:
        sqnr = math.inf
    else:
        sqnr = 10.0 * math.log10(one.signal / one.noise) if one.signal > 0.0 else -math.inf
    length = math.sqrt(one.signal * one.power)
    cosine = one.product / length if length else float(one.noise == 0.0)
    scores = one.classes is not None and one.classes > 0 and one.rows > 0
    return OutputError(name, sqnr, cosine, one.same / one.rows if scores else None, one.largest)
