"""How a graph is smoothed before anything is solved, and its weights are rounded, as samples show it or as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import calibrate, ir
from qcompiler.errors import PlanError
from qcompiler.memory import give_back
from qcompiler.pipeline import MomentsPass, PassContext, RowsPass
from qcompiler.plan import Plan
from qcompiler.runtime import one_thread_each
from qcompiler.search.attempts import attempted

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation


def smoothed(
    compilation: Compilation, ctx: PassContext, earlier: calibrate.Statistics | None, *, skip_bad: bool = False
) -> PassContext:
    """The context after smoothing the compilation's graph, placement of what came of it, and rounding of its weights;
    as ``earlier`` statistics have it where they are given.

    Raises:
        PlanError: these are of another model.
    """
    assert ctx.plan is not None
    if earlier is not None:
        _check_known(earlier.smoothing, compilation.graph, "the statistics belong")
        plan = replace(ctx.plan, smoothing=earlier.smoothing, rounding=earlier.rounding)
        ctx = replace(ctx, plan=plan)
        for one in (*_tried(compilation), *_decided(compilation)):
            with one_thread_each():  # as when it was decided: sums are then the same to the bit
                ctx = compilation.run_pass(one, compilation.graph, ctx)
            ctx = compilation.placed(ctx)
        return ctx
    if compilation.options.improve == "none":
        return ctx
    if tried := _tried(compilation):
        ctx = attempted(compilation, ctx, tried, skip_bad=skip_bad)
        give_back()
    for one in _decided(compilation):
        assert ctx.plan is not None
        feeds = compilation.samples.all().good() if skip_bad else compilation.samples.all()
        wanted = one.wanted(compilation.graph, ctx.plan)
        rows = calibrate.sample_rows(
            compilation.graph, wanted, feeds, most=one.rows, samples=one.samples, skip_bad=skip_bad
        )
        with one_thread_each():
            ctx = compilation.run_pass(one, compilation.graph, replace(ctx, rows=rows))
        ctx = compilation.placed(ctx)
    for rounding in compilation.passes("round"):
        if isinstance(rounding, MomentsPass):
            assert ctx.plan is not None
            readers = rounding.wanted(compilation.graph, ctx.plan)
            if readers:
                typical = compilation.samples.typical(skip_bad=skip_bad)
                moments = calibrate.second_moments(compilation.graph, readers, typical)
                give_back()
                ctx = compilation.run_pass(rounding, compilation.graph, replace(ctx, moments=moments))
    return replace(ctx, rows=None, moments=None)


def repeated(compilation: Compilation, plan: Plan) -> None:
    """Smooths the compilation's graph as a plan that is given has it.

    Raises:
        PlanError: the plan is of another model.
    """
    _check_known(plan.smoothing, compilation.graph, "the plan belongs")
    for one in (*_tried(compilation), *_decided(compilation)):
        with one_thread_each():
            compilation.run_pass(one, compilation.graph, PassContext(compilation.target, plan))


def _check_known(smoothing: Mapping[str, np.ndarray], graph: ir.Graph, what: str) -> None:
    """Raises PlanError where the graph lacks a tensor that is smoothed. ``what`` holds it: "the plan belongs"."""
    tensors = ir.all_tensors(graph)
    for key in smoothing:
        name = key if key in tensors else key.partition(": ")[2] or key  # PASS: TENSOR of those that are tried
        if name not in tensors:
            raise PlanError(
                f"{what} to another model", why=f"it has no tensor '{name}'", fix="make it anew for this model"
            )


def _tried(compilation: Compilation) -> list[RowsPass]:
    """Those that are kept where the outputs gain by it."""
    return _of_rows(compilation, "try") if compilation.kind.quantize == "static" else []


def _decided(compilation: Compilation) -> list[RowsPass]:
    """Those that are believed by what they expect."""
    return _of_rows(compilation, "scale" if compilation.kind.quantize == "weights" else "decide")


def _of_rows(compilation: Compilation, stage: str) -> list[RowsPass]:
    return [one for one in compilation.passes(stage) if isinstance(one, RowsPass)]
