"""Relu and Clip behind a product of codes, where floats read them, as Max and Min."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

PRODUCTS = ("Gemm", "MatMul")
OLDEST_OPSET = 13
"""Before, Clip and the types of Max are others."""


@dataclass(frozen=True)
class SpellRectifier(Pass):
    """``Relu(Gemm(DQ(x), DQ(w)))`` becomes ``Max(Gemm(DQ(x), DQ(w)), 0)``, and Clip becomes Max and Min, where what
    reads it is not QuantizeLinear; behind MatMul too. Run it after ``lower``.

    ONNX Runtime 1.32 takes Relu and Clip for the end of what it makes of codes, and looks for QuantizeLinear behind
    them. Where there is none, as before a normalization or a Softmax, it leaves the product in floats, its weight
    dequantized in each run. ``tools/bench_layers.py`` measures what Max is worth.
    """

    name: ClassVar[str] = "spell-rectifier"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < OLDEST_OPSET:
            return PassResult()
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op in ("Relu", "Clip") and not node.domain and _of_codes(node.inputs[0]) and _to_floats(node):
                _spell(node, inner, namer)
                rewrites += 1
        if rewrites:
            ir.sort(graph)
        return PassResult(rewrites)


def _of_codes(tensor: ir.Tensor) -> bool:
    """Whether a product of dequantized codes makes it, for one reader."""
    node = ir.producer(tensor)
    if node is None or node.domain or node.op not in PRODUCTS or len(tensor.outputs) != 1:
        return False
    makers = [ir.producer(side) for side in node.inputs[:2]]
    return all(maker is not None and maker.op == "DequantizeLinear" for maker in makers)


def _to_floats(node: ir.Node) -> bool:
    readers = node.outputs[0].outputs
    return not readers or any(reader.op != "QuantizeLinear" for reader in readers)


def _spell(node: ir.Node, graph: ir.Graph, namer: ir.Namer) -> None:
    source, result = node.inputs[0], node.outputs[0]
    low, high = (node.inputs[place] if len(node.inputs) > place else None for place in (1, 2))
    if node.op == "Relu":
        low = ir.Constant(namer(f"{node.name}_zero"), np.zeros((), source.dtype or np.float32))
    limits = [(op, limit) for op, limit in (("Max", low), ("Min", high)) if limit is not None and limit.name]
    node.op, node.inputs = limits[0][0] if limits else "Identity", [source, *(limit for _, limit in limits[:1])]
    node.attrs.clear()
    if len(limits) > 1:
        between = ir.Variable(namer(f"{node.name}_above"), result.dtype, result.shape)
        node.outputs[0] = between
        graph.nodes.append(ir.Node("Min", namer(f"{node.name}_below"), inputs=[between, high], outputs=[result]))
