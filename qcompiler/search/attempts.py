"""Passes that help one model and harm another: each is tried, and kept where the outputs gain by it.

What a pass makes of the graph is taken all the way, on a few samples: ranges from some of them, weights rounded, biases
corrected; others of them tell how far the outputs then are from those of the graph as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qcompiler import calibrate, ir
from qcompiler.correcting import corrected
from qcompiler.data import open_samples
from qcompiler.pipeline import PassContext, RowsPass
from qcompiler.runtime import Feed, one_thread_each, run, session, side_by_side
from qcompiler.search.free import overall
from qcompiler.search.points import measuring_points
from qcompiler.search.sensitivity import with_outputs
from qcompiler.verify import numbers

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

SAMPLES = 48
"""Every third of them is calibrated on, the others are judged by."""
LEAST_GAIN = 0.5
"""Decibels that a pass must gain: the samples are few."""


def attempted(
    compilation: Compilation, ctx: PassContext, passes: Sequence[RowsPass], *, skip_bad: bool = False
) -> PassContext:
    """The context after those of the passes that the outputs gain enough by, with the compilation's graph as they leave
    it. Each is tried on what the ones before it left."""
    assert ctx.plan is not None
    plain, plan = compilation.graph, ctx.plan
    points = measuring_points(plain)
    if not points or not any(one.wanted(plain, plan) for one in passes):
        return ctx
    feeds = compilation.samples.typical(skip_bad=skip_bad, count=SAMPLES)
    if len(feeds) < 3:
        return ctx
    fitted, judged = feeds[::3], [feed for index, feed in enumerate(feeds) if index % 3]

    def told(graph: ir.Graph, found: PassContext) -> float:
        compilation.graph = graph
        errors = _errors(plain, _rounded(compilation, found, fitted), list(points), judged, compilation.optimize)
        return overall([error.sqnr + points[error.name] for error in errors])

    decibels: float | None = None  # of the graph as it is, once that is asked for
    for one in passes:
        assert ctx.plan is not None
        before, wanted = compilation.graph, one.wanted(compilation.graph, ctx.plan)
        if not wanted:
            continue
        compilation.graph = ir.clone(before)
        rows = calibrate.sample_rows(
            compilation.graph, wanted, feeds, most=one.rows, samples=one.samples, skip_bad=skip_bad
        )
        with one_thread_each():
            found = compilation.run_pass(one, compilation.graph, replace(ctx, rows=rows))
        assert found.plan is not None
        if found.plan.smoothing.keys() == ctx.plan.smoothing.keys():
            compilation.graph = before
            continue
        found, after = compilation.placed(replace(found, rows=None)), compilation.graph
        decibels = told(before, ctx) if decibels is None else decibels
        changed = told(after, found)
        reason = f"{changed:.1f} dB, and {decibels:.1f} without, on {len(judged)} samples"
        kept = changed >= decibels + LEAST_GAIN
        if kept:
            ctx, decibels = found, changed
        compilation.graph = after if kept else before
        assert ctx.plan is not None
        ctx = replace(ctx, plan=ctx.plan.deciding([one.name], "kept" if kept else "tried and not kept", reason))
    return ctx


def _rounded(compilation: Compilation, ctx: PassContext, feeds: Sequence[Feed]) -> ir.Graph:
    """The compilation's graph in codes, with ranges from these samples and corrected biases."""
    assert ctx.plan is not None
    counted = calibrate.Calibration(
        compilation.graph, compilation.watched(ctx.plan), scheduler=calibrate.Threads()
    )
    statistics = counted.run(open_samples(feeds, compilation.source.inputs))
    plan = compilation.solved(replace(ctx, statistics=statistics))
    return compilation.rounded(corrected(compilation, plan, feeds))


def _errors(
    plain: ir.Graph, coded: ir.Graph, names: Sequence[str], feeds: Sequence[Feed], optimize: str
) -> list[numbers.OutputError]:
    """Of the coded graph at these points. Outputs are not kept: the plain graph runs again for each coded one."""
    found = numbers.Comparison(names)
    with session(with_outputs(plain, names)) as one, session(with_outputs(coded, names), optimize=optimize) as other:
        for wanted, actual in side_by_side(lambda feed: (run(one, feed, names), run(other, feed, names)), feeds):
            found.add(wanted, actual)
    return found.errors()
