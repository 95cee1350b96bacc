"""The tensors that quantizing hurts most, with what they held and where their codes end."""

from __future__ import annotations

import math

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Statistics, TensorStatistics, clipped, spread, without_sentinels
from qcompiler.calibrate.observers import Cost, histogram
from qcompiler.plan import Plan, TensorQuant
from qcompiler.report import HistogramRecord

MOST_TENSORS = 12
BINS = 64


def worst_tensors(graph: ir.Graph, plan: Plan, statistics: Statistics) -> list[HistogramRecord]:
    """Of the observed tensors with one scale, those whose rounding and clipping leave the fewest decibels; the worst
    first. What an error does to the outputs is another matter: see ``explain``."""
    makers = {tensor.name: node.name for _, node in ir.all_nodes(graph) for tensor in node.outputs}
    found: list[tuple[float, str, TensorQuant]] = []
    for site, quant in plan.sites.items():
        seen = statistics.tensors.get(site.tensor)
        plain = quant.scale is not None and quant.scale.ndim == 0 and quant.scheme.spaced_evenly
        if plain and seen is not None and seen.finite:
            found.append((fidelity(seen, quant), site.tensor, quant))
    worst: dict[str, tuple[float, TensorQuant]] = {}
    for sqnr, name, quant in sorted(found, key=lambda item: item[:2]):
        if len(worst) < MOST_TENSORS and sqnr < math.inf:
            worst.setdefault(name, (sqnr, quant))
    return [
        _record(name, makers.get(name, ""), statistics.tensors[name], quant, sqnr)
        for name, (sqnr, quant) in worst.items()
    ]


def ends_of(quant: TensorQuant) -> tuple[float, float]:
    """The values of the first and the last code, of one scale."""
    assert quant.scale is not None and quant.zero_point is not None
    first, last = quant.scheme.code_range
    step, zero = float(quant.scale), int(quant.zero_point)
    return (first - zero) * step, (last - zero) * step


def fidelity(seen: TensorStatistics, quant: TensorQuant) -> float:
    """Expected SQNR in dB of what was seen, sentinels aside, in the codes of one scale; see ``observers.Cost``. The
    infinity where nothing is lost."""
    assert quant.scale is not None
    values = histogram(without_sentinels(seen)[0])
    cost = Cost(values, quant.scheme)
    low, high = ends_of(quant)
    noise = float(cost(np.array(low), np.array(high), np.array(float(quant.scale))))
    signal = float(cost.sums[2][-1])
    return 10.0 * math.log10(signal / noise) if noise > 0.0 and signal > 0.0 else math.inf


def _record(name: str, node: str, seen: TensorStatistics, quant: TensorQuant, sqnr: float) -> HistogramRecord:
    kept = without_sentinels(seen)[0]
    clip_low, clip_high = ends_of(quant)
    low, high = min(kept.smallest, clip_low), max(kept.largest, clip_high)
    counts = spread(kept, np.linspace(low, high, BINS + 1))
    return HistogramRecord(
        name, node, low, high, [round(count) for count in counts.tolist()],
        clip_low, clip_high, clipped(kept, clip_low, clip_high), sqnr,
    )  # fmt: skip
