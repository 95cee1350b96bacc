"""Compiling for a machine that this is not: the target's own builder is asked ahead of time, no clock is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from qcompiler import ir, lint
from qcompiler.calibrate import Statistics
from qcompiler.correcting import corrected
from qcompiler.errors import QCompilerError
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.report import OutputRecord
from qcompiler.runtime import Feed, session
from qcompiler.search import improve, spare
from qcompiler.search.points import before_softmax, measuring_points, together
from qcompiler.search.ranges import better_ranges
from qcompiler.search.refine import Candidate
from qcompiler.search.sensitivity import contributions
from qcompiler.search.settle import Measured, affordable, unfaithful
from qcompiler.verify import numbers, stand_in, tensorrt, tensorrt_culprit

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

HALF = "in float16"
"""The action of a decision to compute nodes in float16 where all else is in float32."""
MOST_ROUNDS = 6
LONGEST = 8
"""Nodes between a product and its Softmax, at most."""
RANGE_SAMPLES = 4
"""Samples that other ranges are tried on."""
RANGE_ROUNDS = 2
"""A better range of one tensor makes another the loudest."""
LEAST_GAIN = 0.9
"""Noise that other ranges leave, of that before, to be worth having."""
RANGE_RUNS = 3
"""Runs of the model for that, in units of those that agreement may take (``settle.AGREEMENT_SECONDS``)."""
JUDGED_SAMPLES = 32
"""Samples that tell whether corrected biases are better."""
PROFILE_FEEDS = 64
"""Samples whose shapes an engine is built for."""


class Builder:
    """Turns a solved plan into one that the target's builder takes, and whose layers it builds in few bits.

    ``replayed``: the plan was given, and is written as it is.
    """

    def __init__(self, compilation: Compilation, ctx: PassContext, replayed: bool) -> None:
        self.compilation = compilation
        self.ctx = ctx
        self.replayed = replayed
        self.engine: tensorrt.Engine | None = None
        self.unasked = ""
        self.halved: set[str] = set()
        target = compilation.target
        entries = {node.name: target.operator(node) for _, node in ir.all_nodes(compilation.graph)}
        self.products = {name for name, entry in entries.items() if entry is not None and entry.attention}

    def refined(self) -> Candidate:
        assert self.ctx.plan is not None
        if self.replayed:
            return self.built(self.ctx.plan)
        candidate = self.settled(self.built(self.ranged(self.ctx.plan)))
        assert candidate.plan is not None
        plan = self.spared(candidate.plan)
        if plan is not candidate.plan:
            candidate = self.settled(self.built(plan))
        return self.corrected(candidate)

    def settled(self, candidate: Candidate) -> Candidate:
        """The candidate with codes only where the builder computes with them."""
        for _ in range(MOST_ROUNDS):
            left = candidate.unfused()
            if not left:
                break
            # Codes between products that do not become one kernel take others apart: they may be all that is wrong.
            split = {name: why for name, why in left.items() if why == tensorrt.SPLIT}
            if split and self.compilation.kind.floats == "float32" and not self.halved:
                candidate = self.in_half(candidate, split)
            else:
                candidate = self.without(candidate, split or left)
        return candidate

    def ranged(self, plan: Plan) -> Plan:
        """The plan with ranges that measurably make less noise at the outputs, where there are such."""
        graph, statistics = self.compilation.graph, self.ctx.statistics
        points = before_softmax(graph, measuring_points(graph))
        if self.compilation.data is None or not points or not isinstance(statistics, Statistics):
            return plan
        first, feeds = plan, improve.spaced(self.compilation.samples.feeds(), RANGE_SAMPLES)
        with session(self.compilation.source) as source:
            runs = RANGE_RUNS * affordable(source, feeds)
        for _ in range(RANGE_ROUNDS):
            quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin == "calibration"}
            if not quants or not all(quant.scheme.spaced_evenly for quant in quants.values()):
                break  # nothing, or floats, which are densest around zero: a cut gains nothing
            trials = [{name: quant} for name, quant in quants.items()]
            parts = contributions(graph, plan, trials, list(points), feeds, runs)
            noise = dict(zip(quants, (together(part, points) for part in parts)))
            found = better_ranges(graph, plan, statistics, feeds, points, noise, runs)
            if not found:
                break
            ranges = {name: ends for name, (ends, _) in found.items()}
            plan = self.solved(replace(plan, ranges={**plan.ranges, **ranges}))
        return plan if plan is first or self.gains(first, plan) else first

    def gains(self, old: Plan, new: Plan) -> bool:
        """Whether the outputs themselves lose less with the new plan's ranges, on more samples than these are from."""
        graph = self.compilation.graph
        outputs = measuring_points(graph)
        trials = [{site.tensor: quant for site, quant in plan.sites.items()} for plan in (old, new)]
        feeds = improve.spaced(self.compilation.samples.feeds(), spare.SAMPLES)
        before, after = contributions(graph, old, trials, list(outputs), feeds)
        return together(after, outputs) < LEAST_GAIN * together(before, outputs)

    def solved(self, plan: Plan) -> Plan:
        """The plan placed and solved anew, for what it now says is kept in float and of ranges."""
        return self.compilation.solved(self.compilation.placed(replace(self.ctx, plan=plan)))

    def spared(self, plan: Plan) -> Plan:
        """The plan without codes around the few nodes that rounding ruins."""
        if self.compilation.data is None:
            return plan
        feeds = improve.spaced(self.compilation.samples.feeds(), spare.SAMPLES)
        found = spare.ruined(self.compilation.graph, plan, feeds)
        if not found:
            return plan
        reasons = {name: f"rounding it makes {share:.0%} of the noise" for name, share in found.items()}
        plan = plan.without_nodes(reasons).deciding(found, "left in float", "; ".join(dict.fromkeys(reasons.values())))
        return self.solved(plan)

    def corrected(self, candidate: Candidate) -> Candidate:
        """The candidate with corrected biases, where its outputs gain by it: its engine has the same layers."""
        assert candidate.plan is not None
        plan = corrected(self.compilation, candidate.plan)
        if not plan.shifts:
            return candidate
        before, after = (self.decibels(self.compilation.rounded(one)) for one in (candidate.plan, plan))
        if after <= before:
            return candidate
        reason = f"{after:.1f} dB, and {before:.1f} with the biases that they had"
        plan = plan.deciding(sorted(plan.shifts), "biases corrected", reason)
        return replace(candidate, graph=self.lowered(plan), plan=plan)

    def decibels(self, graph: ir.Graph) -> float:
        """How faithful the outputs are, in the mean over them, run as they are written."""
        feeds = improve.spaced(self.compilation.samples.feeds(), JUDGED_SAMPLES)
        with session(self.compilation.source) as source, session(graph, optimize="none") as coded:
            return float(np.mean([error.sqnr for error in numbers.compare(source, coded, feeds)]))

    def lowered(self, plan: Plan) -> ir.Graph:
        statistics = self.ctx.statistics
        return self.compilation.lowered(plan, statistics if isinstance(statistics, Statistics) else None)

    def built(self, plan: Plan) -> Candidate:
        graph = self.lowered(plan)
        if not tensorrt.installed():
            self.unasked = "TensorRT-RTX is not installed: what the builder makes of it is not known"
            return Candidate(graph, plan)
        feeds = self.compilation.samples.feeds()[:PROFILE_FEEDS]
        self.engine = tensorrt.build(graph, self.compilation.gpu, self.compilation.source.inputs, feeds)
        self.compilation.runtime = f"tensorrt-rtx {self.engine.version}, built for {self.engine.gpu}"
        return Candidate(graph, plan, self.engine.fates(plan.intended, self.products), self.engine.histogram())

    def in_half(self, candidate: Candidate, split: dict[str, str]) -> Candidate:
        """The candidate with these products, and what is between them, in float16: an attention that is one kernel in
        16 bits is faster than its parts in 8. Without codes in either case."""
        nodes = {node.name: node for _, node in ir.all_nodes(self.compilation.graph)}
        self.halved = set(split)
        plain = self.without(candidate, split)
        assert plain.plan is not None
        inside = sorted(between(self.compilation.graph, [nodes[name] for name in split]))
        trial = self.built(plain.plan.deciding(inside, HALF, "its attention becomes one kernel"))
        assert self.engine is not None
        layers = self.engine.layers_of()
        fused = {name for name in split if any(layer.attention for layer in layers.get(name, ()))}
        return trial if fused == split.keys() else self.built(plain.plan)

    def without(self, candidate: Candidate, left: dict[str, str]) -> Candidate:
        """The candidate without codes around what the builder computes in float anyway."""
        assert candidate.plan is not None
        reason = "the builder leaves it in float"
        plan = candidate.plan.without_nodes({name: f"{reason}: {why}" for name, why in left.items()})
        plan = plan.deciding(sorted(left), "left in float", reason)
        return self.built(self.solved(plan))


def refuse(compilation: Compilation) -> None:
    """Raises, naming the node, when the target cannot take the model: before minutes go into calibration."""
    lint.refuse(compilation.graph, compilation.target, compilation.name)
    graph, feeds = compilation.graph, compilation.samples.feeds()[:PROFILE_FEEDS]
    if not tensorrt.installed():
        return
    try:
        tensorrt.build(graph, compilation.gpu, compilation.source.inputs, feeds, where=compilation.name)
    except tensorrt.BuildError as error:
        raise tensorrt_culprit.named(error, graph, compilation.gpu, feeds, compilation.name) from None


def between(graph: ir.Graph, products: Sequence[ir.Node]) -> set[str]:
    """Names of the products and of the nodes that lie on a path from one to another, by way of a Softmax."""
    order = nx.DiGraph()
    for node in graph.nodes:
        order.add_edges_from((node.name, reader.name) for tensor in node.outputs for reader in tensor.outputs)
    found = {node.name for node in products}
    for softmax in (node.name for node in graph.nodes if node.op == "Softmax" and node.name in order):
        before, after = nx.ancestors(order, softmax), nx.descendants(order, softmax)
        near = {name for name in found if name in before}
        last = max(near, key=lambda name: -nx.shortest_path_length(order, name, softmax), default="")
        ends = [node.name for node in products if node.name in after]
        end = min(ends, key=lambda name: nx.shortest_path_length(order, softmax, name), default="")
        if last and end:
            for first, second in ((last, softmax), (softmax, end)):
                found.update(name for path in nx.all_simple_paths(order, first, second, LONGEST) for name in path)
    return found


def measured(compilation: Compilation, graph: ir.Graph, feeds: Sequence[Feed]) -> tuple[Measured, str]:
    """The numbers of the graph run in ONNX Runtime beside the source, and why there are none where there are none.

    The graph is run as it is written: the runtime's own rewrites are for its own kernels, and those of 1.32 make
    nonsense of Q and DQ in float16.
    """
    if not feeds:
        return Measured([], None, 0), ""
    try:
        with (
            compilation.stages("measure"),
            session(compilation.source) as source,
            session(stand_in.runnable(graph), optimize="none") as compiled,
        ):
            outputs = [OutputRecord(**vars(error)) for error in numbers.compare(source, compiled, feeds)]
    except QCompilerError as error:
        return Measured([], None, 0), f"agreement is not measured: ONNX Runtime does not run it on a CPU ({error})"
    return Measured(outputs, None, len(feeds)), ""


def finished(
    compilation: Compilation, builder: Builder, candidate: Candidate, statistics: Statistics | None
) -> tuple[Candidate, Measured, list[str]]:
    """What is handed out, with what it measures and what the user should be warned of."""
    found, unmeasured = measured(compilation, candidate.graph, compilation.samples.feeds())
    warnings = [text for text in (builder.unasked, unmeasured) if text]
    return candidate, found, warnings + unfaithful(compilation, candidate.plan, statistics, found)
