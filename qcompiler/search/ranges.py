"""Ranges of activations by what they do to the outputs, instead of to the values themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

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
    """For the tensors that make the most noise, tied ones together: a range that measurably makes less, and the noise
    that is left.

    An observer weighs every value alike; what a cut value means to the outputs, only the outputs can tell. ``runs``:
    how often the model may run, about.
    """
    quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin == "calibration"}
    noise: dict[frozenset[str], float] = {}
    for name in quants:
        group = plan.group(name)
        noise[group] = noise.get(group, 0.0) + activations.get(name, 0.0)
    total = sum(activations.values())
    noisy = [group for group in noise if group <= quants.keys() and noise[group] > WORTH_A_RANGE * total]
    noisy = sorted(noisy, key=lambda group: (-noise[group], min(group)))[: min(MOST_RANGES, runs // TRIALS)]
    options = [
        (group, ends)
        for group in noisy
        for ends in (ends_of(quants[min(group)]), *other_ranges(quants[min(group)], seen_of(group, statistics)))
    ]
    trials = []
    for group, (low, high) in options:
        trial = {}
        for name in group:
            scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), quants[name].scheme)
            trial[name] = quants[name].solved(scale, zero_point, "calibration")
        trials.append(trial)
    if not trials:
        return {}
    found: dict[frozenset[str], list[tuple[float, Range]]] = {}
    for (group, ends), part in zip(options, contributions(graph, plan, trials, list(points), feeds, runs)):
        found.setdefault(group, []).append((together(part, points), ends))
    best = {group: (min(tried, key=lambda one: one[0]), tried[0][0]) for group, tried in found.items()}
    return {
        name: (ends, activations.get(name, 0.0) * least / first)
        for group, ((least, ends), first) in best.items()
        if least < LEAST_GAIN * first
        for name in group
    }


def seen_of(group: frozenset[str], statistics: Statistics) -> TensorStatistics:
    """What is known of the values of tied tensors together."""
    return reduce(TensorStatistics.merge, (statistics.tensors[name] for name in sorted(group)))
