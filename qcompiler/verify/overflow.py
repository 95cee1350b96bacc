"""Weights whose products with 8-bit codes this kind of CPU cannot sum without cutting them off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompiler import ir, numerics
from qcompiler.lint.rule import coded_constant, dequantizer, quantized
from qcompiler.scheme import MOST_OF_A_PAIR, PerAxis, Scheme
from qcompiler.target import Target

_PRODUCTS = frozenset(("Conv", "Gemm", "MatMul"))
_CODED = {
    "QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
}  # fmt: skip
"""Products of codes, with the place of their weight."""


def overflowing(graph: ir.Graph, target: Target) -> list[str]:
    """The nodes that multiply 8-bit codes with int8 weights of which a pair is too large for the target's CPU; none
    where it has room for any."""
    if not target.weight.paired:
        return []
    return [node.name for node, sums in _sums(graph) if sums.max(initial=0) > MOST_OF_A_PAIR]


def _sums(graph: ir.Graph) -> Iterator[tuple[ir.Node, np.ndarray]]:
    """Products of codes and constant weights, with the largest sum of a pair of each output."""
    for _, node in ir.all_nodes(graph):
        weight = _weight(node)
        if weight is None or weight.ndim < 2:
            continue
        convolves = "Conv" in node.op
        if convolves and node.attrs.get("group", 1) == weight.shape[0] and weight.shape[1] == 1:
            continue  # of each channel alone: summed in 32 bits
        axis = 0 if convolves or node.attrs.get("transB", 0) else weight.ndim - 1
        yield node, numerics.pair_sums(weight.astype(np.int32), Scheme("int8", True, PerAxis(axis), paired=True))


def _weight(node: ir.Node) -> np.ndarray | None:
    """int8, of a product that reads codes on both sides."""
    tensor: ir.Tensor | None = None
    if node.op in _PRODUCTS and not node.domain and quantized(node):
        side = dequantizer(node.inputs[1])
        tensor = coded_constant(side) if side is not None else None
    elif node.op in _CODED and len(node.inputs) > _CODED[node.op]:
        tensor = node.inputs[_CODED[node.op]]
    coded = tensor is not None and ir.is_constant(tensor) and tensor.values.dtype == np.int8
    return tensor.values if coded and tensor is not None else None
