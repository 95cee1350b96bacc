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

WORTH_A_RANGE = 0.005
"""Share of all noise that makes a tensor worth trying other ranges for."""
MOST_RANGES = 16
CLOSER = ((0.7, 0.7), (0.45, 0.45), (1.0, 0.5), (0.5, 1.0))
"""How the two ends of the plan's range are moved to begin with."""
NEAR = ((0.85, 0.85), (1.2, 1.2), (1.0, 0.8), (0.8, 1.0))
"""And how those of the best range so far."""
TRIALS = 2 + len(CLOSER)
"""Of a tensor at first: its own range, the extremes, closer ones."""
LEAST_GAIN = 0.8
"""Noise that another range leaves, of that before, to be taken."""


def other_ranges(quant: TensorQuant, seen: TensorStatistics) -> list[Range]:
    """Ranges around the plan's: out to the extremes, and cut closer on both sides or on one."""
    low, high = ends_of(quant)
    far = min(seen.smallest, low), max(seen.largest, high)
    return [far, *((low * left, high * right) for left, right in CLOSER)]


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

    An observer weighs every value alike; what a cut value means to the outputs, only the outputs can tell: nothing
    where an activation behind it cuts off the same values, say. First ranges of other sizes are tried, then those near
    the best, with each end moved by itself. ``runs``: how often the model may run, about.
    """
    tied = {name for tie in plan.ties for name in tie}
    quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin == "calibration"}
    total = sum(activations.values())
    noisy = [n for n in quants if n not in tied and activations.get(n, 0.0) > WORTH_A_RANGE * total]
    each = max(1, runs // 2)  # of the two times that ranges are tried
    noisy = sorted(noisy, key=lambda n: (-activations[n], n))[: min(MOST_RANGES, each // TRIALS)]
    feeds = feeds[: max(1, each // max(1, TRIALS * len(noisy)))]
    best = {name: ends_of(quants[name]) for name in noisy}
    first: dict[str, float] = {}
    least: dict[str, float] = {}

    def tried(options: Sequence[tuple[str, Range]]) -> None:
        """Measures the options, and keeps those that make less noise than what is best so far."""
        trials = []
        for name, (low, high) in options:
            scheme = quants[name].scheme
            scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), scheme)
            trials.append({name: quants[name].solved(scale, zero_point, "calibration")})
        parts = contributions(graph, plan, trials, list(points), feeds, each)
        for (name, ends), part in zip(options, parts):
            noise = together(part, points)
            if name not in first:  # the plan's own range comes first
                first[name] = least[name] = noise
            elif noise < least[name]:
                least[name], best[name] = noise, ends

    if not noisy:
        return {}
    tried(
        [(name, ends) for name in noisy for ends in (best[name], *other_ranges(quants[name], statistics.tensors[name]))]
    )
    tried([(name, (best[name][0] * low, best[name][1] * high)) for name in noisy for low, high in NEAR])
    return {
        name: (best[name], activations[name] * least[name] / first[name])
        for name in noisy
        if least[name] < LEAST_GAIN * first[name]
    }
