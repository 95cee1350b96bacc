"""A table for each channel lets every channel of an activation reach equally far, at no cost to speak of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._elementwise import Function, function_of
from qcompiler.passes._smoothing import best_factor, check_factors, even_factor
from qcompiler.passes.smooth_conv import channels_of, equalizable, is_depthwise, multiply, smoothable, taps_of
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan


@dataclass(frozen=True)
class EvenChannels(RowsPass):
    """``Conv(h(x), W)`` becomes ``Conv(h(x) · f, W / f)`` with one factor f for each channel, where h is an elementwise
    function that a table computes: the product becomes part of it, as a table for each channel. For a target that
    looks such functions up; ``smooth-conv`` does the same where the product is free, or in float.

    1. Only convolutions in codes read ``h(x)``: such as sum over its channels, or such as convolve each alone.
    2. A plan that has factors already is applied as it is.

    Only from ``least_gain`` dB on: with channels last, which is how ONNX Runtime lays codes out, a lookup in a table
    for each channel takes 0.3 ns an element and one in a single table 0.05.
    """

    name: ClassVar[str] = "even-channels"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC
    least_gain: float = 3.0

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        return {tensor.name: 1 for tensor in _places(graph, plan)}

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan = ctx.plan or Plan()
        symmetric = ctx.target is not None and ctx.target.activation.symmetric
        namer, factors, diagnostics = ir.Namer(graph), {}, []
        for tensor, readers in _places(graph, plan).items():
            factor, rows = plan.smoothing.get(tensor.name), (ctx.rows or {}).get(tensor.name)
            if factor is None and rows is not None:
                found, gain = _factor(rows, readers, symmetric)
                if gain >= self.least_gain:
                    factor = found
                    remark = f"channels evened out, {gain:.1f} dB less noise expected"
                    diagnostics.append(Diagnostic(tensor.name, remark))
            if factor is not None:
                check_factors(factor, channels_of(readers[0]), tensor.name)
                multiply(graph, tensor, readers, factor, namer)
                factors[tensor.name] = factor
        plan = replace(plan, smoothing={**plan.smoothing, **factors})
        return PassResult(len(factors), tuple(diagnostics), plan)


def _places(graph: ir.Graph, plan: Plan) -> dict[ir.Variable, list[ir.Node]]:
    """Results of elementwise functions of codes that only convolutions in codes read, with these."""
    known = _functions(graph, plan)
    return {
        tensor: readers
        for tensor, readers in smoothable(graph, depthwise=True).items()
        if equalizable(tensor) is None
        and (
            (tensor in known and all(node.name in plan.intended for node in readers))
            # Of a plan that is given, where the function stays in float after all.
            or (tensor.name in plan.smoothing and is_depthwise(readers[0]))
        )
    }


def _functions(graph: ir.Graph, plan: Plan) -> dict[ir.Tensor, Function]:
    """What nodes of the plan compute, element by element, of one tensor in codes."""
    tensors = ir.all_tensors(graph)  # a plan that is given knows of tensors that later passes make
    sites = [(site, tensors[site.tensor]) for site in plan.sites if site.tensor in tensors]
    coded = {site.tensor for site, tensor in sites if not ir.is_constant(tensor)}
    products = {site.node for site, tensor in sites if ir.is_constant(tensor)}
    moved = {name for tie in plan.ties for name in tie}
    known: dict[ir.Tensor, Function] = {}

    def part(tensor: ir.Tensor) -> Function | None:
        return known.get(tensor) or (Function(tensor) if tensor.name in coded else None)

    for node in graph.nodes:
        if node.name in plan.intended and node.name not in products:
            function = function_of(node, part)
            result = node.outputs[0]
            if function is not None and result.name not in moved and result.shape == function.source.shape:
                known[result] = function
    return known


def _factor(rows: Rows, readers: list[ir.Node], symmetric: bool) -> tuple[np.ndarray, float]:
    """(factor for each channel, gain in dB)."""
    if is_depthwise(readers[0]):
        factor, gain, _ = even_factor(rows, symmetric=symmetric)
    else:
        weight = np.concatenate([taps_of(node) for node in readers], axis=1)
        factor, gain, _ = best_factor(rows, weight, (0,), by_row=False, symmetric=symmetric)
    return factor, gain
