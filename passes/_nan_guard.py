"""Guards against softmax of nothing: where exporters write them, and what can be told of the numbers before them."""

from __future__ import annotations

import math

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_LARGEST_PRODUCT = 2.0**64
"""What products are taken to stay below; float32 ends at 2¹²⁸."""
_INPUTS = {"Add": 2, "Div": 2, "Mul": 2, "Sub": 2, "Where": 3}
_MOST_LOOKED_AT = 100
"""Tensors between a mask's parts and the Softmax, and more."""
_MOVED = ("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
"""Operators whose values are those of their first input."""


def guarded(node: ir.Node) -> ir.Node | None:
    """The Softmax whose result the node returns with other numbers in place of what is none."""
    if node.op != "Where" or node.domain or len(node.inputs) != 3:
        return None
    question, instead, result = node.inputs
    asked, softmax = ir.producer(question), ir.producer(result)
    if asked is None or asked.op != "IsNaN" or not any(tensor is result for tensor in asked.inputs):
        return None
    if softmax is None or softmax.op != "Softmax" or softmax.domain or not softmax.inputs:
        return None
    other = constant(instead)
    return softmax if other is not None and other.size == 1 else None


def masked(softmax: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add before a softmax over the last axis, and which of its inputs are scores that are finite, and stay so when
    the lowest number is added; the other one is the mask."""
    x, axis = softmax.inputs[0], int(softmax.attrs.get("axis", -1))
    add = ir.producer(x)
    if add is None or add.op != "Add" or add.domain or len(add.inputs) != 2:
        return None
    if axis != -1 and (x.shape is None or axis != len(x.shape) - 1):
        return None
    for place, scores in enumerate(add.inputs):
        if not ir.is_constant(scores) and is_finite(scores, float(np.finfo(np.float32).max)):
            return add, place
    return None


def is_finite(tensor: ir.Tensor, added: float = 0.0) -> bool:
    """Whether no value can be infinite, or none when a number of this size is added."""
    kind = np.dtype(tensor.dtype if tensor.dtype is not None else np.float32)
    if kind.kind != "f":
        return False
    # What exceeds the largest number by less than half a step is rounded to it.
    end = float(np.finfo(kind).max)
    return bound(tensor, {}) + added <= end + end * float(np.finfo(kind).eps) / 4.0


def bound(tensor: ir.Tensor, known: dict[ir.Tensor, float]) -> float:
    """A number that no value of the tensor exceeds in size; infinite where none is known. ``known``: those on the way
    to it, each of which is looked at once."""
    if tensor not in known:
        known[tensor] = math.inf if len(known) >= _MOST_LOOKED_AT else _computed(tensor, known)
    return known[tensor]


def _computed(tensor: ir.Tensor, known: dict[ir.Tensor, float]) -> float:
    values = constant(tensor)
    if values is not None:
        numbers = values.dtype.kind in "biuf" and values.size
        return float(np.max(np.abs(values.astype(np.float64)))) if numbers else math.inf
    node = ir.producer(tensor)
    if node is None or node.domain or len(node.inputs) < _INPUTS.get(node.op, 1):
        return math.inf
    if node.op in _PRODUCTS:
        return _LARGEST_PRODUCT
    if node.op == "Cast" and node.inputs[0].dtype is not None and np.dtype(node.inputs[0].dtype).kind in "biu":
        return 1.0 if np.dtype(node.inputs[0].dtype).kind == "b" else 2.0**64
    if node.op == "Div":
        divisor = constant(node.inputs[1])
        least = 0.0 if divisor is None or not divisor.size else float(np.min(np.abs(divisor)))
        return bound(node.inputs[0], known) / least if least > 0.0 else math.inf
    bounds = [bound(source, known) for source in node.inputs[: 1 if node.op in _MOVED else 3]]
    if node.op in _MOVED:
        return bounds[0]
    if node.op in ("Add", "Sub"):
        return sum(bounds)
    if node.op == "Mul":
        return math.prod(bounds) if all(bounds) else 0.0
    return max(bounds[1:]) if node.op == "Where" else math.inf
