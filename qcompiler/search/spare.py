"""Which few nodes rounding ruins: they are left in float where no clock is at hand to say what that costs.

The noise that each node's rounding makes alone is measured (``sensitivity``), and the loudest are spared one by one,
until the outputs are faithful with all others rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcompiler import ir
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed
from qcompiler.search.points import before_softmax, measuring_points
from qcompiler.search.sensitivity import Switchboard
from qcompiler.search.settle import FAITHFUL

SAMPLES = 16
"""How many samples tell whether the outputs are faithful: behind a Softmax one decision that turns is most of the noise
of a few."""
ALONE_SAMPLES = 4
"""How many tell what a node does alone."""
MARGIN = 1.0
"""Decibels beyond ``FAITHFUL`` that are aimed at: the samples here are few."""
MOST = 0.2
"""Share of the nodes that may be spared."""
WORTH = 3.0
"""Decibels that must be won where the outputs do not become faithful."""


def ruined(graph: ir.Graph, plan: Plan, feeds: Sequence[Feed]) -> dict[str, float]:
    """The nodes to leave in float, the loudest first, each with its share of all nodes' noise. None where the outputs
    are faithful with all of them rounded, or would not get better by much.

    ``plan``: solved, without scales that are found in each run. ``feeds``: a few samples.
    """
    names, trials = _trials(graph, plan)
    outputs = measuring_points(graph)
    loud = before_softmax(graph, outputs)
    most = max(1, int(MOST * len(names)))
    if not names or not outputs or not feeds or any(q.scheme.scaled_twice for trial in trials for q in trial.values()):
        return {}
    with Switchboard(graph, plan, trials, [*dict.fromkeys((*outputs, *loud))], feeds) as board:
        first = _short(board.noise(range(len(names))), outputs)
        if first <= 0.0:
            return {}
        parts = [board.noise([index], ALONE_SAMPLES) for index in range(len(names))]
        alone = [sum(part[name] for name in loud) for part in parts]
        order = sorted(range(len(names)), key=lambda index: -alone[index])
        for count in range(1, most + 1):
            left = _short(board.noise(order[count:]), outputs, MARGIN)
            if left <= 0.0 or count == most:
                break
    if left > 0.0 and first - left + MARGIN < WORTH:
        return {}
    total = sum(alone)
    return {names[index]: alone[index] / total for index in order[:count]}


def _trials(graph: ir.Graph, plan: Plan) -> tuple[list[str], list[Mapping[str, TensorQuant]]]:
    """The nodes that are meant to work on codes, in order of computation, and what is rounded for each: what only they
    read in codes; what several do counts for the first of them."""
    found: dict[str, dict[str, TensorQuant]] = {}
    taken: set[str] = set()
    by_node: dict[str, list[tuple[str, TensorQuant]]] = {}
    for site, quant in plan.sites.items():
        by_node.setdefault(site.node, []).append((site.tensor, quant))
    for _, node in ir.all_nodes(graph):
        if node.name in plan.intended:
            own = {tensor: quant for tensor, quant in by_node.get(node.name, ()) if tensor not in taken}
            taken.update(own)
            if own:
                found[node.name] = own
    return list(found), list(found.values())


def _short(noise: Mapping[str, float], outputs: Mapping[str, float], margin: float = 0.0) -> float:
    """By how many decibels the worst output falls short of being faithful; negative where none does."""
    return max(FAITHFUL + margin - allowed - _decibels(noise[name]) for name, allowed in outputs.items())


def _decibels(noise: float) -> float:
    return -10.0 * math.log10(noise) if noise > 0.0 else math.inf
