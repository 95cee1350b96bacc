"""Weights whose products with 8-bit codes this kind of CPU cannot sum without cutting them off."""

from __future__ import annotations

import numpy as np

from qcompiler import ir
from qcompiler.target import Target

_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_CODED = {
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1,
}  # fmt: skip
"""Products of codes, with the place of their weight."""


def overflowing(graph: ir.Graph, target: Target) -> list[str]:
    """The nodes that multiply 8-bit codes with int8 weights that use more bits than the target's CPU has room for; none
    where it has room for all eight."""
    most = target.weight.code_range[1]
    if target.weight.dtype != "int8" or most == np.iinfo(np.int8).max:
        return []
    return [
        node.name
        for _, node in ir.all_nodes(graph)
        if (weight := _weight(node)) is not None and np.abs(weight.astype(np.int16)).max(initial=0) > most + 1
    ]


def _weight(node: ir.Node) -> np.ndarray | None:
    """int8, of a product that reads codes on both sides."""
    if node.op in _PRODUCTS and not node.domain and len(node.inputs) > 1:
        sides = [ir.producer(tensor) for tensor in node.inputs[:2]]
        if any(side is None or side.op != "DequantizeLinear" for side in sides):
            return None
        tensor = sides[1].inputs[0] if sides[1] is not None else None
    elif node.op in _CODED and len(node.inputs) > _CODED[node.op]:
        tensor = node.inputs[_CODED[node.op]]
    else:
        return None
    coded = tensor is not None and ir.is_constant(tensor) and tensor.values.dtype == np.int8
    return tensor.values if coded and tensor is not None else None
