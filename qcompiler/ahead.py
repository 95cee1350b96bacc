"""Compiling for a machine that this is not: the target's own builder is asked ahead of time, no clock is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.errors import QCompilerError
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.refine import Candidate
from qcompiler.report import OutputRecord
from qcompiler.runtime import Feed, session
from qcompiler.settle import Measured, unfaithful
from qcompiler.verify import numbers, tensorrt

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

MOST_ROUNDS = 4
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

    def refined(self) -> Candidate:
        assert self.ctx.plan is not None
        candidate = self.built(self.ctx.plan)
        for _ in range(0 if self.replayed else MOST_ROUNDS):
            left = candidate.unfused()
            if not left:
                break
            candidate = self.without(candidate, left)
        return candidate

    def built(self, plan: Plan) -> Candidate:
        graph = self.compilation.lowered(plan)
        if not tensorrt.installed():
            self.unasked = "TensorRT-RTX is not installed: what the builder makes of it is not known"
            return Candidate(graph, plan)
        feeds = self.compilation.feeds()[:PROFILE_FEEDS]
        self.engine = tensorrt.build(graph, self.compilation.gpu, self.compilation.source.inputs, feeds)
        return Candidate(graph, plan, self.engine.fates(plan.intended), self.engine.histogram())

    def without(self, candidate: Candidate, left: dict[str, str]) -> Candidate:
        """The candidate without codes around what the builder computes in float anyway."""
        assert candidate.plan is not None
        reason = "the builder leaves it in float"
        plan = candidate.plan.without_nodes({name: f"{reason}: {why}" for name, why in left.items()})
        plan = plan.deciding(sorted(left), "left in float", reason)
        ctx = self.compilation.placed(replace(self.ctx, plan=plan))
        return self.built(self.compilation.solved(ctx))


def measured(compilation: Compilation, graph: ir.Graph, feeds: Sequence[Feed]) -> tuple[Measured, str]:
    """The numbers of the graph run in ONNX Runtime beside the source, and why there are none where there are none."""
    if not feeds:
        return Measured([], None, 0), ""
    try:
        with compilation.stages("measure"), session(compilation.source) as source, session(graph) as compiled:
            outputs = [OutputRecord(**vars(error)) for error in numbers.compare(source, compiled, feeds)]
    except QCompilerError as error:
        return Measured([], None, 0), f"agreement is not measured: ONNX Runtime does not run it on a CPU ({error})"
    return Measured(outputs, None, len(feeds)), ""


def finished(
    compilation: Compilation, builder: Builder, candidate: Candidate, statistics: Statistics | None
) -> tuple[Candidate, Measured, list[str]]:
    """What is handed out, with what it measures and what the user should be warned of."""
    found, unmeasured = measured(compilation, candidate.graph, compilation.feeds())
    warnings = [text for text in (builder.unasked, unmeasured) if text]
    return candidate, found, warnings + unfaithful(compilation, candidate.plan, statistics, found)
