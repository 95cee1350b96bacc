"""Says where the noise at a model's outputs comes from, for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.plan import Plan
from qcompiler.runtime import Feed
from qcompiler.search.improve import groups_of, weight_noise
from qcompiler.search.points import measuring_points
from qcompiler.search.sensitivity import contributions


def loudest(
    graph: ir.Graph, plan: Plan, statistics: Statistics | None, feeds: Sequence[Feed], runs: int
) -> list[tuple[str, float]]:
    """The nodes at which rounding disturbs the outputs, loudest first, each with its share of all noise.

    What a node computes in codes counts for it, and the weight that it reads; an input of the model counts under its
    own name. ``graph`` is the cleaned float graph of the solved ``plan``; ``runs``: how often the model may run, about.
    """
    points = list(measuring_points(graph))
    groups = groups_of(graph, plan)
    if not points or not groups:
        return []
    quants = {site.tensor: quant for site, quant in plan.sites.items()}
    trials = [{name: quants[name] for name in group} for group in groups]
    parts = contributions(graph, plan, trials, points, feeds, runs)
    power = {name: sum(part.values()) / len(group) for group, part in zip(groups, parts) for name in group}
    makers = {tensor.name: node.name for _, node in ir.all_nodes(graph) for tensor in node.outputs}
    places: dict[str, float] = defaultdict(float)
    for name, noise in power.items():
        places[makers.get(name, name)] += noise
    if statistics is not None:
        readers = {site.tensor: site.node for site in plan.sites}
        for name, noise in weight_noise(graph, plan, statistics, power).items():
            places[readers[name]] += noise
    total = sum(places.values())
    shares = [(name, noise / total) for name, noise in places.items() if noise > 0.0]
    return sorted(shares, key=lambda item: (-item[1], item[0]))
