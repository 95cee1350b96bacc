"""A one-hot tensor times a matrix is the lookup of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, is_float32, rank
from qcompiler.passes._replacing import Replaced
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""What older operator sets have other forms of, such as Squeeze, is not written."""


@dataclass(frozen=True)
class RecognizeEmbedding(Pass):
    """``MatMul(one-hot of i, W)`` with a constant matrix W becomes ``Gather(W, i)``: TensorFlow's and JAX's embeddings
    are often written as products. Entries that are no row, of which the product is zero, look up a row of zeros.

    1. OneHot along the last axis, with the values 0 and 1; negative entries count from the end.
    2. ``Cast(Equal(i, [0, 1, …]))``.
    3. Either behind a Reshape to a matrix.

    Left alone: weights that are not finite, which make products of zero that are not zero; operator sets before 13.
    """

    name: ClassVar[str] = "recognize-embedding"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op != "MatMul" or node.domain or graph.opset < OLDEST_OPSET:
                continue
            weight = constant(node.inputs[1])
            found = _hot(node.inputs[0])
            if found is None or weight is None or weight.ndim != 2 or weight.dtype != np.float32:
                continue
            if len(weight) != found.depth or not np.isfinite(weight).all():
                continue
            _look_up(Replaced(node, inner, namer, graph.opset), found, weight)
            rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
            ir.sort(graph)
            ir.infer_shapes(graph)
        return PassResult(rewrites)


@dataclass(frozen=True)
class _Hot:
    """Which entry of the last axis is one. ``apart``: the indices have a last axis of size 1; ``flat``: they become one
    axis; ``wraps``: negative ones count from the end."""

    indices: ir.Tensor
    depth: int
    apart: bool = False
    flat: bool = False
    wraps: bool = False


def _hot(tensor: ir.Tensor) -> _Hot | None:
    node = ir.producer(tensor)
    if node is None or node.domain or not is_float32(tensor):
        return None
    if node.op == "Reshape" and rank(tensor) == 2:
        before = ir.producer(node.inputs[0])  # remove-identities leaves no Reshape before a Reshape
        found = None if before is None or before.op == "Reshape" else _hot(node.inputs[0])
        same = found is not None and tensor.shape is not None and tensor.shape[1] == found.depth
        return _Hot(found.indices, found.depth, found.apart, True, found.wraps) if found is not None and same else None
    if node.op == "OneHot":
        depth, values = constant(node.inputs[1]), constant(node.inputs[2])
        last = rank(tensor) is not None and node.attrs.get("axis", -1) in (-1, (rank(tensor) or 0) - 1)
        if depth is None or values is None or not last or values.tolist() != [0, 1] or not _whole(node.inputs[0]):
            return None
        return _Hot(node.inputs[0], int(depth.reshape(-1)[0]), wraps=True)
    equal = ir.producer(node.inputs[0]) if node.op == "Cast" else None
    if equal is None or equal.op != "Equal" or equal.domain:
        return None
    for indices, places in (equal.inputs, reversed(equal.inputs)):
        numbers, shape = constant(places), indices.shape
        if numbers is None or shape is None or numbers.ndim > len(shape) or not _whole(indices) or not numbers.size:
            continue
        if shape[-1] == 1 and numbers.shape[-1:] == (numbers.size,) and np.array_equal(
            numbers.reshape(-1), np.arange(numbers.size)
        ):
            return _Hot(indices, numbers.size, apart=True)
    return None


def _whole(tensor: ir.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iu"


def _look_up(old: Replaced, found: _Hot, weight: np.ndarray) -> None:
    zero, depth = np.array(0, np.int64), np.array(found.depth, np.int64)
    row: ir.Tensor = old.cast(found.indices, np.int64)
    if found.apart:
        row = old.write("Squeeze", row, np.array([-1]))
    if found.flat:
        row = old.write("Reshape", row, np.array([-1]))
    if found.wraps:
        row = old.write("Where", old.write("Less", row, zero), old.write("Add", row, depth), row)
    inside = old.write("And", old.write("GreaterOrEqual", row, zero), old.write("Less", row, depth))
    row = old.write("Where", inside, row, depth)
    rows = np.concatenate([weight, np.zeros((1, weight.shape[1]), np.float32)])
    old.write("Gather", rows, row, result=old.output(0), axis=0)
