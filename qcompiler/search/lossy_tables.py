"""Takes back tables that lose more than they are worth.

With tables 8 bits spread through whatever is computed of one tensor, and some of that does not bear them: of squares of
which the root is taken, the small ones all have the code zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import networkx as nx

from qcompiler import ir
from qcompiler.plan import Plan
from qcompiler.search import improve
from qcompiler.search.free import overall
from qcompiler.target import OPS

if TYPE_CHECKING:
    from qcompiler.search.refine import Candidate, Refiner

SHARE = 0.3
"""Of all noise, what tables must bring for them to be looked at."""
PART = 0.1
"""Of all noise, what the tables that belong together must bring to be taken back."""
LEAST_GAIN = 1.0
"""Decibels that it must bring."""


def without_lossy_tables(
    refiner: Refiner, candidate: Candidate, before: list[float], noise: Mapping[str, float]
) -> Candidate | None:
    """The candidate without tables that lose more than they are worth; None where there are none. ``before``: what its
    outputs keep, in dB; ``noise``: what rounding each tensor brings at them."""
    compilation, plan = refiner.compilation, candidate.plan
    if compilation.target.ops == OPS[0] or plan is None:
        return None
    standard = refiner.unsolved(plan, replace(compilation.target, ops=OPS[0]))
    parts = brought_by_tables(compilation.graph, plan, standard)
    total = sum(noise.values())
    brought = {nodes: sum(noise.get(name, 0.0) for name in tensors) for nodes, tensors in parts.items()}
    if sum(brought.values()) < SHARE * total:
        return None
    lossy = {name: "" for nodes, power in brought.items() if power > PART * total for name in nodes}
    if not lossy:
        return None
    trial = refiner.fused(refiner.without(candidate, lossy, "left in float", "a table of it costs too much fidelity"))
    after = refiner.decibels(trial)
    if overall(after) < overall(before) + LEAST_GAIN:
        return None
    if compilation.options.timing:
        slower = 1.0 / refiner.ratio(candidate, trial)
        if improve.worth(min(after), slower) < improve.worth(min(before), 1.0):
            return None
    return trial


def brought_by_tables(graph: ir.Graph, plan: Plan, standard: Plan) -> dict[frozenset[str], frozenset[str]]:
    """Nodes that work on codes in the plan and not in the ``standard`` one, those together that hand one another
    tensors, with the tensors that are rounded for them alone."""
    extra, tensors = plan.intended - standard.intended, ir.all_tensors(graph)
    before = standard.tensors()
    links: nx.Graph = nx.Graph()
    links.add_nodes_from(extra)
    rounded: dict[str, set[str]] = {name: set() for name in extra}
    for name, sites in plan.tensors().items():
        maker = ir.producer(tensors[name])
        users = {site.node for site in sites} | ({maker.name} if maker is not None else set())
        nx.add_path(links, sorted(users & extra))
        if name not in before and not ir.is_constant(tensors[name]):
            for user in users & extra:
                rounded[user].add(name)
    return {
        frozenset(nodes): frozenset().union(*(rounded[name] for name in nodes))
        for nodes in nx.connected_components(links)
    }
