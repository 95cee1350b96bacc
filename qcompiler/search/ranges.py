"""Ranges of activations by what they do to the outputs, instead of to the values themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce

import numpy as np

from qcompiler import ir, numerics
from qcompiler.calibrate import Statistics, TensorStatistics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed
from qcompiler.search.points import together
from qcompiler.search.sensitivity import Switchboard

Range = tuple[float, float]

WORTH_A_RANGE = 0.01
"""Share of all noise that makes a tensor worth trying other ranges for."""
MOST_RANGES = 12
TRIALS = 6
"""Ranges of a tensor that are measured, about."""
HELPING = 0.95
"""Noise that a step leaves, of that of the plan's range, for the next one the same way to be measured."""
LEAST_GAIN = 0.8
"""Noise that another range leaves, of that before, to be taken."""


def ranges_around(own: Range, seen: TensorStatistics) -> dict[str, Range]:
    """Ranges that may serve better than the plan's ``own``: out to the extremes, halfway there, and cut closer on both
    sides or on one."""
    (low, high), far = own, (min(seen.smallest, own[0]), max(seen.largest, own[1]))
    return {
        "own": own,
        "halfway": ((low + far[0]) / 2, (high + far[1]) / 2),
        "far": far,
        "closer": (0.8 * low, 0.8 * high),
        "little closer": (0.9 * low, 0.9 * high),
        "much closer": (0.65 * low, 0.65 * high),
        "closer below": (0.65 * low, high),
        "closer above": (low, 0.65 * high),
    }


def least(noise: Callable[[str], float]) -> tuple[str, float]:
    """Which of ``ranges_around`` makes the least noise, and what is left of its own range's; one way is only followed
    further where the first step helps."""
    own = noise("own")
    if not own:
        return "own", 1.0
    tried = {"own": 1.0}

    def helps(name: str) -> bool:
        tried[name] = noise(name) / own
        return tried[name] < HELPING

    if helps("halfway"):
        helps("far")
    else:
        further = ["little closer", "much closer"] if helps("closer") else []
        for name in (*further, "closer below", "closer above"):
            helps(name)
    return min(tried.items(), key=lambda one: one[1])


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
    if not noisy:
        return {}
    options = [
        (group, name, ends)
        for group in noisy
        for name, ends in ranges_around(ends_of(quants[min(group)]), seen_of(group, statistics)).items()
    ]
    trials = []
    for group, _, (low, high) in options:
        trial = {}
        for name in group:
            scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), quants[name].scheme)
            trial[name] = quants[name].solved(scale, zero_point, "calibration")
        trials.append(trial)
    places = {(group, name): index for index, (group, name, _) in enumerate(options)}
    feeds = feeds[: max(1, runs // (TRIALS * len(noisy)))]
    found: dict[str, tuple[Range, float]] = {}
    with Switchboard(graph, plan, trials, list(points), feeds) as board:

        def noise_of(group: frozenset[str], name: str) -> float:
            return together(board.noise([places[group, name]]), points)

        for group in noisy:
            best, left = least(partial(noise_of, group))
            if left < LEAST_GAIN:
                _, _, ends = options[places[group, best]]
                found.update({name: (ends, activations.get(name, 0.0) * left) for name in group})
    return found


def seen_of(group: frozenset[str], statistics: Statistics) -> TensorStatistics:
    """What is known of the values of tied tensors together."""
    return reduce(TensorStatistics.merge, (statistics.tensors[name] for name in sorted(group)))
