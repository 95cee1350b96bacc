"""Moves the reach of outlying channels into the convolutions that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._smoothing import EXACT_ENOUGH, around_zero, best_factor, check_factors, even_factor, inverse
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan


@dataclass(frozen=True)
class SmoothConv(RowsPass):
    """``Conv(x, W)`` becomes ``Conv(x · f, W / f)`` with one factor f for each input channel, all readers alike; see
    ``smooth-matmul``. Only where every reader of ``x`` is such a convolution.

    1. ``x`` comes from a convolution, through Relu or LeakyRelu perhaps: f goes into that convolution's weights and
       bias and costs nothing (cross-layer equalization, Nagel et al. 2019, section 4.1). Worth it from ``least_gain``
       dB on.
    2. Anything else is multiplied by f in float, as is what computes it from the last product on. That costs time, so
       it must save ``least_gain_of_a_product`` dB where rounding makes more noise than well-behaved values do.
    3. With ``depthwise``, readers that convolve each channel alone too: their weights have a scale a channel, so that
       all channels can be made to reach equally far. Costs what 2 costs.
    4. A plan that has smoothing already is applied as it is.
    """

    name: ClassVar[str] = "smooth-conv"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC
    least_gain: float = 1.0
    least_gain_of_a_product: float = 4.0
    depthwise: bool = False

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        """Tensors read by nothing but convolutions that are quantized, along axis 1."""
        return {
            tensor.name: 1
            for tensor, readers in smoothable(graph, self.depthwise).items()
            if all(node.name in plan.intended for node in readers)
        }

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan = ctx.plan or Plan()
        places = {tensor.name: (tensor, readers) for tensor, readers in smoothable(graph, self.depthwise).items()}
        factors, diagnostics = {n: f for n, f in plan.smoothing.items() if n in places}, []
        for name, rows in (ctx.rows or {}).items():
            tensor, readers = places[name]
            symmetric = around_zero(plan, name)
            if is_depthwise(readers[0]):
                factor, gain, noise = even_factor(rows, symmetric=symmetric)
            else:
                taps = np.concatenate([taps_of(node) for node in readers], axis=1)
                factor, gain, noise = best_factor(rows, taps, (0,), by_row=False, symmetric=symmetric)
            free = equalizable(tensor) is not None
            if gain >= (self.least_gain if free else self.least_gain_of_a_product) and (free or noise > EXACT_ENOUGH):
                factors[name] = factor
                diagnostics.append(Diagnostic(name, f"smoothed, {gain:.1f} dB less noise expected"))
        namer, kept = ir.Namer(graph), {}
        for name, factor in factors.items():
            tensor, readers = places[name]
            check_factors(factor, channels_of(readers[0]), name)
            kept.update(multiply(graph, tensor, readers, factor, namer))
        plan = replace(plan, smoothing={**plan.smoothing, **factors}, kept={**plan.kept, **kept})
        return PassResult(len(factors), tuple(diagnostics), plan)


def smoothable(graph: ir.Graph, depthwise: bool = False) -> dict[ir.Variable, list[ir.Node]]:
    """Tensors of the outermost graph that only convolutions read, with these."""
    returned = ir.output_tensors(graph)
    found: dict[ir.Variable, list[ir.Node]] = {}
    for node in graph.nodes:
        tensor = node.inputs[0] if node.inputs else None
        if node.op != "Conv" or tensor is None or ir.is_constant(tensor) or tensor in returned or tensor in found:
            continue
        readers = list(dict.fromkeys(tensor.outputs))
        alone = depthwise and all(_reads(reader, tensor, True) for reader in readers)
        if alone or all(_reads(reader, tensor) for reader in readers):
            found[tensor] = readers
    return found


def is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1].values
    return bool(node.attrs.get("group", 1) == weight.shape[0] > 1 and weight.shape[1] == 1)


def channels_of(node: ir.Node) -> int:
    """How many channels the convolution reads."""
    return int(node.inputs[1].values.shape[1] * node.attrs.get("group", 1))


def _reads(node: ir.Node, tensor: ir.Tensor, depthwise: bool = False) -> bool:
    return (
        node.op == "Conv"
        and [index for index, own in enumerate(node.inputs) if own is tensor] == [0]
        and ir.is_constant(node.inputs[1])
        and node.inputs[1].values.dtype == np.float32
        and (is_depthwise(node) if depthwise else node.attrs.get("group", 1) == 1)
    )


def taps_of(node: ir.Node) -> np.ndarray:
    """The weight ``[O, C, ...]`` as a matrix ``[C, O · taps]``: each tap of the kernel is a product of its own."""
    weight = node.inputs[1].values
    return np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)


def equalizable(tensor: ir.Tensor) -> ir.Node | None:
    """The convolution that can take the factors in, since only what scales along is between it and the tensor."""
    node = ir.producer(tensor)
    while node is not None and node.op in ("Relu", "LeakyRelu") and len(node.inputs[0].outputs) == 1:
        node = ir.producer(node.inputs[0])
    if node is None or node.op != "Conv" or not all(ir.is_constant(t) or not t.name for t in node.inputs[1:]):
        return None
    return node if node.inputs[1].values.dtype == np.float32 else None


def multiply(
    graph: ir.Graph, tensor: ir.Variable, readers: list[ir.Node], factor: np.ndarray, namer: ir.Namer
) -> dict[str, str]:
    """Edits the graph; returns the nodes to keep in float, with the reason."""

    def constant(hint: str, values: np.ndarray) -> ir.Constant:
        return ir.Constant(namer(f"{tensor.name}_{hint}"), values.astype(np.float32))

    for node in readers:
        weight = node.inputs[1]
        shape = [-1 if axis == (0 if is_depthwise(node) else 1) else 1 for axis in range(weight.values.ndim)]
        node.inputs[1] = constant(f"{weight.name}_smoothed", weight.values * inverse(factor).reshape(shape))
    source = equalizable(tensor)
    if source is not None:
        weight = source.inputs[1]
        shape = [-1] + [1] * (weight.values.ndim - 1)
        source.inputs[1] = constant(f"{weight.name}_equalized", weight.values * factor.reshape(shape))
        if len(source.inputs) > 2 and source.inputs[2].name:
            source.inputs[2] = constant(f"{source.inputs[2].name}_equalized", source.inputs[2].values * factor)
        return {}
    rank = readers[0].inputs[1].values.ndim
    smoothed = ir.Variable(namer(f"{tensor.name}_smoothed"), tensor.dtype, tensor.shape)
    product = ir.Node(
        "Mul",
        namer(f"{tensor.name}_smoothed"),
        inputs=[tensor, constant("smoothing", factor.reshape([-1] + [1] * (rank - 2)))],
        outputs=[smoothed],
    )
    graph.nodes.append(product)
    for node in readers:
        node.inputs[0] = smoothed
    return {product.name: "smoothed in float before it is rounded"}
