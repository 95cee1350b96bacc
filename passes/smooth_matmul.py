"""Moves the reach of outlying activation channels into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._linear import laid_out
from qcompiler.passes._smoothing import APART, around_zero, best_factor, check_factors, inverse
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan


@dataclass(frozen=True)
class SmoothMatMul(RowsPass):
    """``MatMul(x, W)`` becomes ``MatMul(x · f, W / f)`` with one factor f for each of the K channels, all readers of
    ``x`` alike (SmoothQuant, Xiao et al. 2022, equation 3, where s = 1/f). These are easier to round than x and W.

    f_k = largest|W_k|^(1-a) / largest|x_k|^a. Where that is not enough, the few channels that reach farthest get the
    factor 0 and are multiplied in float beside the rest (LLM.int8(), Dettmers et al. 2022):
    ``MatMul(x · f, W / f) + MatMul(x[farthest], W[farthest])``.

    The strength ``a`` and the number of such channels are searched for each tensor: both sides are rounded on some rows
    of ``x``, and the product's error is judged row by row against the row's own size, since normalization behind it
    makes every row count alike.

    1. MatMul and Gemm (transB = 0) with a constant [K, N] weight, where the context has rows of ``x``.
    2. A plan that has smoothing already is applied as it is.
    """

    name: ClassVar[str] = "smooth-matmul"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC
    least_gain: float = 1.0
    most_apart: int = APART[-1]
    """How many channels may be multiplied in float."""
    behind_attention: bool = True
    """Whether what quantized attention returns is smoothed: a product behind it may split a kernel."""

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        """Tensors computed in float and read by products that are quantized, along their last axis."""
        return {
            tensor.name: -1
            for tensor, readers in smoothable(graph).items()
            if all(node.name in plan.intended for node in readers) and not _in_codes(tensor, plan)
            if self.behind_attention or not _attended(tensor, plan)
        }

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan = ctx.plan or Plan()
        places = {tensor.name: (tensor, readers) for tensor, readers in smoothable(graph).items()}
        factors, diagnostics = {n: f for n, f in plan.smoothing.items() if n in places}, []
        for name, rows in (ctx.rows or {}).items():
            weight = np.concatenate([node.inputs[1].values for node in places[name][1]], axis=1)
            symmetric = around_zero(plan, name)
            counts = [count for count in APART if count <= self.most_apart]
            factor, gain, _ = best_factor(rows, weight, counts, by_row=True, symmetric=symmetric)
            if gain >= self.least_gain:
                factors[name] = factor
                apart = int(np.sum(factor == 0.0))
                beside = f" with {apart} channels in float beside it" if apart else ""
                diagnostics.append(Diagnostic(name, f"smoothed{beside}, {gain:.1f} dB less noise expected"))
        namer = ir.Namer(graph)
        for name, factor in factors.items():
            check_factors(factor, len(places[name][1][0].inputs[1].values), name, zero=True)
            _smooth(graph, *places[name], factor, namer)
        return PassResult(len(factors), tuple(diagnostics), replace(plan, smoothing={**plan.smoothing, **factors}))


def _attended(tensor: ir.Tensor, plan: Plan) -> bool:
    """Whether a quantized product of two computed tensors makes it."""
    node = laid_out(tensor)
    product = node is not None and node.op == "MatMul" and not any(ir.is_constant(side) for side in node.inputs)
    return node is not None and product and node.name in plan.intended


def _in_codes(tensor: ir.Tensor, plan: Plan) -> bool:
    """Whether the tensor comes out of a quantized node, through a Relu or Clip perhaps."""
    node = ir.producer(tensor)
    while node is not None and node.op in ("Relu", "Clip"):
        node = ir.producer(node.inputs[0])
    return node is not None and node.name in plan.intended


def smoothable(graph: ir.Graph) -> dict[ir.Variable, list[ir.Node]]:
    """Tensors of the outermost graph with the products that read them and could be smoothed.

    A weight that several products share (layers alike) would need a copy for each: a model must not grow.
    """
    found: dict[ir.Variable, list[ir.Node]] = {}
    shared: set[ir.Variable] = set()
    for node in graph.nodes:
        if node.op not in ("MatMul", "Gemm") or node.attrs.get("transB", 0) or node.attrs.get("transA", 0):
            continue
        tensor, weight = node.inputs[0], node.inputs[1]
        if ir.is_constant(tensor) or not ir.is_constant(weight) or weight.values.ndim != 2:
            continue
        if weight.values.dtype != np.float32:
            continue
        found.setdefault(tensor, []).append(node)
        if len(weight.outputs) > 1:
            shared.add(tensor)
    return {tensor: readers for tensor, readers in found.items() if tensor not in shared}


def _smooth(
    graph: ir.Graph, tensor: ir.Variable, readers: list[ir.Node], factor: np.ndarray, namer: ir.Namer
) -> None:
    def add(
        op: str, hint: str, inputs: list[ir.Tensor], output: ir.Variable | None = None, **attrs: int
    ) -> ir.Variable:
        output = output or ir.Variable(namer(f"{tensor.name}_{hint}"), tensor.dtype)
        graph.nodes.append(ir.Node(op, namer(f"{tensor.name}_{hint}"), attrs, inputs=inputs, outputs=[output]))
        return output

    def constant(hint: str, values: np.ndarray) -> ir.Constant:
        return ir.Constant(namer(f"{tensor.name}_{hint}"), values)

    smoothed = add("Mul", "smoothed", [tensor, constant("smoothing", factor)])
    smoothed.shape = tensor.shape
    apart = np.flatnonzero(factor == 0.0)
    if len(apart):
        farthest = add("Gather", "farthest", [tensor, constant("farthest_channels", apart.astype(np.int64))], axis=-1)
    for node in readers:
        weight = node.inputs[1]
        node.inputs[0] = smoothed
        node.inputs[1] = constant(f"{weight.name}_smoothed", weight.values * inverse(factor)[:, None])
        if len(apart):
            result = node.outputs[0]
            main = ir.Variable(namer(f"{result.name}_smoothed"), result.dtype, result.shape)
            node.outputs[0] = main
            beside = add("MatMul", "beside", [farthest, constant(f"{weight.name}_farthest", weight.values[apart])])
            add("Add", "joined", [main, beside], result)
