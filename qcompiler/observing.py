"""Which observer's ranges keep most of a model's outputs: tried on a few samples, as a user would by hand.

An observer weighs every value of a tensor alike. What a cut value means to the outputs differs from model to model by
more than any one observer can know: the best one of one model is 3 to 15 dB behind on another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcompiler import ir
from qcompiler.plan import Plan
from qcompiler.points import measuring_points
from qcompiler.runtime import Feed
from qcompiler.sensitivity import Switchboard

BEST = "best"
"""In place of an observer's name: the one that measures best."""
USUAL = "mse"
"""Where there are no samples to measure on."""
WIDEST_FIRST = ("minmax", "percentile", "mse", "entropy")
SURE = 1.0
"""Decibels that a narrower range must gain: what it cuts off other samples is not seen on these."""
SAMPLES = 16


def best_observer(graph: ir.Graph, plans: Mapping[str, Plan], feeds: Sequence[Feed]) -> str:
    """The name of the plan with the best ranges for computed tensors; weights are not rounded. ``plans``: of the
    cleaned float ``graph``, solved, each by the observer of its name, and otherwise alike. ``USUAL`` where no output is
    computed in floats."""
    points = measuring_points(graph)
    if not points:
        return USUAL
    tensors = ir.all_tensors(graph)
    trials = [
        {site.tensor: quant for site, quant in plan.sites.items() if not ir.is_constant(tensors[site.tensor])}
        for plan in plans.values()
    ]
    with Switchboard(graph, next(iter(plans.values())), trials, list(points), feeds) as board:
        kept = {name: _decibels(board.noise([index]), points) for index, name in enumerate(plans)}
    return chosen(kept)


def chosen(decibels: Mapping[str, float]) -> str:
    """The observer that keeps most, but a wider one where a narrower one is not surely better."""
    best, *narrower = (name for name in WIDEST_FIRST if name in decibels)
    for name in narrower:
        if decibels[name] - decibels[best] >= SURE:
            best = name
    return best


def _decibels(noise: Mapping[str, float], points: Mapping[str, float]) -> float:
    """Of the worst point, with what each is allowed."""
    return min(-10 * math.log10(power) + points[name] if power else math.inf for name, power in noise.items())
