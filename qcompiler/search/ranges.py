"""Ranges of activations by what they do to the outputs, instead of to the values themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir, numerics
from qcompiler.calibrate import Statistics, TensorStatistics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed
from qcompiler.search.points import together
from qcompiler.search.sensitivity import contributions

Range = tuple[float, float]

WORTH_A_RANGE = 0.01
"""Share of all noise that makes a tensor worth trying other ranges for."""
MOST_RANGES = 12
CLOSER = ((0.9, 0.9), (0.8, 0.8), (0.65, 0.65), (1.0, 0.65), (0.65, 1.0))
"""How the two ends of the plan's range are moved."""
TRIALS = 3 + len(CLOSER)
"""Of a tensor: its own range, the extremes, halfway there, closer ones."""
LEAST_GAIN = 0.8
"""Noise that another range leaves, of that before, to be taken."""


def other_ranges(quant: TensorQuant, seen: TensorStatistics) -> list[Range]:
    """Ranges around the plan's: out to the extremes, halfway there, and cut closer on both sides or on one."""
    low, high = ends_of(quant)
    far = min(seen.smallest, low), max(seen.largest, high)
    return [far, ((low + far[0]) / 2, (high + far[1]) / 2), *((low * left, high * right) for left, right in CLOSER)]


def ends_of(quant: TensorQuant) -> Range:
    """The least and the largest value that codes of the solved quantization stand for."""
    assert quant.scale is not None and quant.zero_point is not None
    first, last = quant.scheme.code_range
    step, offset = float(quant.scale), int(quant.zero_point)
    return (first - offset) * step, (last - offset) * step


def better_ranges(
    graph: ir.Graph,
    plan: Plan,
    statistics: Statistics,
    feeds: Sequence[Feed],
    points: Mapping[str, float],
    activations: Mapping[str, float],
    runs: int,
) -> dict[str, tuple[Range, float]]:
    """For the tensors that make the most noise: a range that measurably makes less, and the noise that is left.

    An observer weighs every value alike; what a cut value means to the outputs, only the outputs can tell. ``runs``:
    how often the model may run, about.
    """
    tied = {name for tie in plan.ties for name in tie}
    quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin == "calibration"}
    total = sum(activations.values())
    noisy = [n for n in quants if n not in tied and activations.get(n, 0.0) > WORTH_A_RANGE * total]
    noisy = sorted(noisy, key=lambda n: (-activations[n], n))[: min(MOST_RANGES, runs // TRIALS)]
    options = [
        (name, ends)
        for name in noisy
        for ends in (ends_of(quants[name]), *other_ranges(quants[name], statistics.tensors[name]))
    ]
    trials = []
    for name, (low, high) in options:
        scheme = quants[name].scheme
        scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), scheme)
        trials.append({name: quants[name].solved(scale, zero_point, "calibration")})
    if not trials:
        return {}
    found: dict[str, list[tuple[float, Range]]] = {}
    for (name, ends), part in zip(options, contributions(graph, plan, trials, list(points), feeds, runs)):
        found.setdefault(name, []).append((together(part, points), ends))
    best = {name: (min(tried, key=lambda one: one[0]), tried[0][0]) for name, tried in found.items()}
    return {
        name: (ends, activations[name] * least / first)
        for name, ((least, ends), first) in best.items()
        if least < LEAST_GAIN * first
    }
