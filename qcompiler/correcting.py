"""How biases are corrected once all is solved, as samples show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qcompiler import calibrate
from qcompiler.pipeline import PassContext, RowsPass, ShiftsPass
from qcompiler.plan import Plan
from qcompiler.runtime import Feed

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation


def corrected(compilation: Compilation, plan: Plan, feeds: Sequence[Feed] = ()) -> Plan:
    """The solved plan with biases corrected for what rounding does to means, as samples, or these feeds, show it."""
    if compilation.data is None:
        return plan
    graph = compilation.graph
    for one in compilation.passes("correct"):
        ctx = PassContext(compilation.target, plan)
        if isinstance(one, RowsPass):
            rows = calibrate.sample_rows(graph, one.wanted(graph, plan), compilation.samples.all(), most=one.rows)
            ctx = replace(ctx, rows=rows)
        elif isinstance(one, ShiftsPass):
            wanted = one.wanted(graph, plan)
            coded = compilation.rounded(replace(plan, shifts={}))
            ranks, shown = dict(wanted.values()), feeds or compilation.samples.typical()
            told = {} if feeds else compilation.samples.means.setdefault(graph, {})
            found = calibrate.mean_shifts(graph, coded, ranks, shown, optimize=compilation.optimize, told=told)
            shifts = {bias: found[tensor] for bias, (tensor, _) in wanted.items() if tensor in found}
            ctx = replace(ctx, shifts=shifts)
        plan = compilation.run_pass(one, graph, ctx).plan or plan
    return plan
