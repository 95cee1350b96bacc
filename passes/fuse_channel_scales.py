"""A tensor of codes times one code for each of its channels is computed by an operator of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, tables
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class FuseChannelScales(Pass):
    """``QuantizeLinear(DequantizeLinear(x) * DequantizeLinear(s))`` becomes ``qcompiler::TableLookup2(x, s)``, where s
    has one code for each channel of x, of four axes: what squeeze-and-excite blocks end in. Run it after ``lower`` and
    before ``tables-channels-last``, which lays the codes out as the convolutions around have them.

    The operator rounds as ONNX Runtime's QLinearMul does, but for ties, which its float32 may take for none, and takes
    half of the time or less.

    Left alone: other shapes; codes of two types; a product that somebody reads in float.
    """

    name: ClassVar[str] = "fuse-channel-scales"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        returned, rewrites = ir.output_tensors(graph), 0
        for inner in ir.all_graphs(graph):
            for product in list(inner.nodes):
                parts = _parts(product, returned)
                if parts is None:
                    continue
                whole, scale, quantize = parts
                steps = [tensor for node in parts for tensor in node.inputs[1:]]
                result = quantize.outputs[0]
                inputs = [whole.inputs[0], scale.inputs[0], *steps]
                quantize.outputs.clear()
                product.outputs.clear()
                inner.nodes.append(
                    ir.Node(tables.PRODUCT, product.name, inputs=inputs, outputs=[result], domain=tables.DOMAIN)
                )
                graph.domains.setdefault(tables.DOMAIN, 1)
                rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _parts(product: ir.Node, returned: set[ir.Tensor]) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """(DequantizeLinear of the tensor, that of one code a channel, QuantizeLinear of what they make)."""
    if product.op != "Mul" or product.domain or len(product.outputs[0].outputs) != 1 or product.outputs[0] in returned:
        return None
    sides = [ir.producer(tensor) for tensor in product.inputs]
    (quantize,) = product.outputs[0].outputs
    first, second = sides
    if first is None or second is None or [first.op, second.op] != ["DequantizeLinear"] * 2:
        return None
    if quantize.op != "QuantizeLinear" or not all(per_tensor(node) for node in (first, second, quantize)):
        return None
    if len({node.inputs[2].values.dtype for node in (first, second, quantize)}) != 1:
        return None
    with np.errstate(over="ignore"):
        if not np.isfinite(first.inputs[1].values * second.inputs[1].values / quantize.inputs[1].values):
            return None
    for whole, scale in ((first, second), (second, first)):
        if _by_channel(whole.outputs[0].shape, scale.outputs[0].shape):
            return whole, scale, quantize
    return None


def _by_channel(whole: Sequence[object] | None, scale: Sequence[object] | None) -> bool:
    """Whether a tensor of the shape ``scale`` has one element for each channel of one of the shape ``whole``."""
    if whole is None or scale is None or len(whole) != 4 or len(scale) != 4:
        return False
    return isinstance(whole[1], int) and list(scale) in ([whole[0], whole[1], 1, 1], [1, whole[1], 1, 1])
