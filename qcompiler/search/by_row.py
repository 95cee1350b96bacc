"""Products that quantize what they read as they run, each row by itself: tried, and kept where that pays.

A range that is taken anew for each row is closer than any that holds for all samples, and our own operator
(``MatMulInt8``) takes it in the time that others take to put codes into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from qcompiler import ir
from qcompiler.plan import Plan, Site
from qcompiler.search.improve import worth
from qcompiler.target import OPS, Target

if TYPE_CHECKING:
    from qcompiler.search.refine import Candidate, Refiner


TIMES = 3
"""So often the two are timed side by side; what is between the others counts."""
UNSURE = 0.02
"""Share of a run by which two ways must differ for one to be called faster."""


@dataclass(frozen=True)
class Ways:
    """``best``: the candidate that is worth more; ``other``: what it was compared with, where that is faster or more
    faithful."""

    best: Candidate
    other: Candidate | None = None


def ways(refiner: Refiner, candidate: Candidate) -> Ways:
    """The candidate, and with all products that can quantizing what they read as they run."""
    compilation, plan = refiner.compilation, candidate.plan
    if plan is None or compilation.kind.quantize != "static" or not refiner.points:
        return Ways(candidate)
    if not refiner.effort.built and compilation.options.goal is None:  # nothing is to be spent on fidelity
        return Ways(candidate)
    names = eligible(compilation.graph, plan, compilation.target)
    if not names:
        return Ways(candidate)
    placed = compilation.placed(replace(refiner.ctx, plan=replace(plan, dynamic=names)))
    trial = refiner.fused(refiner.built(compilation.solved(placed)))
    if trial.plan is None or not names & trial.plan.intended:
        return Ways(candidate)
    before, after = refiner.fidelity(candidate), refiner.fidelity(trial)
    faster = median(refiner.ratio(candidate, trial) for _ in range(TIMES))
    if worth(after, 1.0 if abs(faster - 1.0) < UNSURE else 1.0 / faster) <= worth(before, 1.0):
        return Ways(candidate, trial if after > before or faster > 1.0 + UNSURE else None)
    reason = f"{after:.1f} dB and {before:.1f} with ranges from samples, at {faster:.2f}x the speed"
    decided = trial.plan.deciding(sorted(names & trial.plan.intended), "quantized row by row as they run", reason)
    return Ways(replace(trial, plan=decided), candidate if before > after or faster < 1.0 - UNSURE else None)


def eligible(graph: ir.Graph, plan: Plan, target: Target) -> frozenset[str]:
    """The plan's products with a constant matrix that read an activation of their own in codes."""
    if target.ops == OPS[0]:
        return frozenset()
    makers: Mapping[str, str] = {t.name: node.name for _, node in ir.all_nodes(graph) for t in node.outputs}
    found = set()
    for _, node in ir.all_nodes(graph):
        entry = target.operator(node)
        if node.name not in plan.intended or entry is None or not entry.dynamic or entry.weight is None:
            continue
        read = Site(node.inputs[0].name, node.name)
        if read in plan.sites and makers.get(read.tensor, "") not in plan.intended:
            found.add(node.name)
    return frozenset(found)
