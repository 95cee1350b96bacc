"""The dimensions of what an operator returns, where ONNX's own shape inference leaves one open that is known by
identity and not by number: it gives up at a Reshape to a computed shape, and at sums whose symbols are written twice.

A rule returns the shape of the node's first output, with None for a dimension that it does not know; or None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import has_operand, integers, operand


@dataclass(frozen=True)
class Size:
    """A dimension of unknown size: a symbol of the model's inputs, or an axis of one tensor. Never negative."""

    name: str
    axis: int = -1
    most: int | None = None
    """It is no more than this, at least 2, though the symbol or the axis may be."""


Dim = int | Size | None


class Known(Protocol):
    def dims(self, tensor: ir.Tensor) -> list[int | Size] | None: ...

    def value(self, tensor: ir.Tensor | None) -> np.ndarray | None: ...

    def may_be_zero(self, size: int | Size | None) -> bool: ...


Rule = Callable[[Known, ir.Node], Sequence[Dim] | None]


def dims_of(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    rule = (_BEYOND_ONNX if node.domain else _RULES).get(node.op) if node.inputs else None
    return None if rule is None else rule(known, node)


def broadcast(shapes: Sequence[Sequence[Dim] | None]) -> list[Dim] | None:
    """The shape that they are broadcast to, if they can be."""
    given = [list(shape) for shape in shapes if shape is not None]
    if len(given) < len(shapes):
        return None
    rank = max(map(len, given), default=0)
    aligned = ([*[1] * (rank - len(shape)), *shape] for shape in given)
    return [_together(dims) for dims in zip(*aligned)]


def _together(dims: Sequence[Dim]) -> Dim:
    others = {dim for dim in dims if dim != 1}
    numbers = {dim for dim in others if isinstance(dim, int)}
    if len(numbers) == 1:
        return numbers.pop()  # what goes with it is 1 or as much
    sizes = {dim for dim in others if isinstance(dim, Size)}
    # No more than some number and yet the size itself, or else the two do not go together: the most is not 1.
    whole = {replace(size, most=None) for size in sizes}
    if numbers or None in others or len(whole) > 1:
        return None  # either may be 1
    return 1 if not sizes else sizes.pop() if len(sizes) == 1 else whole.pop() if whole <= sizes else None


def _of(known: Known, node: ir.Node, index: int = 0) -> list[int | Size] | None:
    tensor = operand(node, index)
    return None if tensor is None else known.dims(tensor)


def _same(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    return _of(known, node)


def _broadcast(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    return broadcast([known.dims(tensor) for tensor in node.inputs])


def _matmul(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    left, right = _of(known, node, 0), _of(known, node, 1)
    if left is None or right is None or min(len(left), len(right)) < 2:
        return None
    batch = broadcast([left[:-2], right[:-2]])
    return None if batch is None else [*batch, left[-2], right[-1]]


def _product(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    """With a weight of any layout."""
    dims = _of(known, node)
    return None if dims is None else [*dims[:-1], None]


def _rows_of_first(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    """Of a table in codes, at the places that the first input names."""
    places = _of(known, node)
    return None if places is None else [*places, None]


def _rows_of_second(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    places = _of(known, node, 1)
    return None if places is None else [*places, None]


def _gemm(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    left, right = _of(known, node, 0), _of(known, node, 1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return None
    return [left[1 if node.attrs.get("transA", 0) else 0], right[0 if node.attrs.get("transB", 0) else 1]]


def _transpose(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims = _of(known, node)
    if dims is None:
        return None
    order = [int(axis) for axis in node.attrs.get("perm", reversed(range(len(dims))))]
    return [dims[axis] for axis in order] if sorted(order) == list(range(len(dims))) else None


def _axes(axes: Sequence[int] | None, rank: int) -> set[int] | None:
    """Counted from the front; None where they are not known, or are not axes of so many."""
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        return None
    return {axis % rank for axis in axes}


def _unsqueeze(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims, given = _of(known, node), integers(node, "axes", 1)
    if dims is None or given is None:
        return None
    rank = len(dims) + len(given)
    axes = _axes(given, rank)
    if axes is None or len(axes) < len(given):
        return None
    rest = iter(dims)
    return [1 if axis in axes else next(rest) for axis in range(rank)]


def _squeeze(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims = _of(known, node)
    axes = None if dims is None else _axes(integers(node, "axes", 1), len(dims))
    return None if dims is None or axes is None else [dim for axis, dim in enumerate(dims) if axis not in axes]


def _concat(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    shapes = [known.dims(tensor) for tensor in node.inputs]
    given = [shape for shape in shapes if shape is not None]
    rank = len(given[0]) if given else 0
    axes = _axes([int(node.attrs.get("axis", 0))], rank)
    if axes is None or any(len(shape) != rank for shape in given):
        return None
    made: list[Dim] = []
    for axis in range(rank):
        parts = [shape[axis] for shape in given]
        numbers = [dim for dim in parts if isinstance(dim, int)]
        if axis in axes:
            made.append(sum(numbers) if len(numbers) == len(shapes) else None)
        else:
            made.append(numbers[0] if numbers else parts[0])
    return made


def _gather(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims, places = _of(known, node), _of(known, node, 1)
    axes = None if dims is None else _axes([int(node.attrs.get("axis", 0))], len(dims))
    if dims is None or places is None or axes is None:
        return None
    (axis,) = axes
    return [*dims[:axis], *places, *dims[axis + 1 :]]


def _places(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    return _of(known, node, 1)


def _slice(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims = _of(known, node)
    starts, axes, steps = integers(node, "starts", 1), integers(node, "axes", 3), integers(node, "steps", 4)
    if dims is None or (axes is None and has_operand(node, "axes", 3)):
        return None
    if axes is None:
        axes = list(range(len(starts))) if starts is not None else None
    cut = _axes(axes, len(dims))
    if cut is None or axes is None:
        return None
    made: list[Dim] = [None if axis in cut else dim for axis, dim in enumerate(dims)]
    ends = known.value(operand(node, 2))
    unit = (steps is None and operand(node, 4) is None) or (steps is not None and all(step == 1 for step in steps))
    if ends is None or ends.ndim != 1 or len(ends) != len(axes) or starts != [0] * len(axes) or not unit:
        return made
    for axis, end in zip(axes, ends):
        there = dims[axis]
        if isinstance(end, Size) and end.most is None and isinstance(there, int) and there > 1:
            made[axis] = replace(end, most=there)
        elif end == there:
            made[axis] = there
    return made


def _split(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims = _of(known, node)
    axes = None if dims is None else _axes([int(node.attrs.get("axis", 0))], len(dims))
    if dims is None or axes is None:
        return None
    return [None if axis in axes else dim for axis, dim in enumerate(dims)]


def _expand(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    shape = _listed(known, node, 1)
    return None if shape is None else broadcast([_of(known, node), shape])


def _filled(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    return _listed(known, node, 0)


def _listed(known: Known, node: ir.Node, index: int) -> list[Dim] | None:
    """The operand as a shape."""
    shape = known.value(operand(node, index))
    if shape is None or shape.ndim != 1 or any(isinstance(size, int) and size < 0 for size in shape):
        return None
    return list(shape)


def _range(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    start, limit, step = (known.value(operand(node, index)) for index in range(3))
    if start is None or limit is None or step is None or not start.size == limit.size == step.size == 1:
        return None
    return [limit.item()] if start.item() == 0 and step.item() == 1 and isinstance(limit.item(), Size) else None


def _reshape(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    shape, dims = known.value(operand(node, 1)), _of(known, node)
    if shape is None or shape.ndim != 1:
        return None
    literal = node.attrs.get("allowzero", 0)
    made: list[Dim] = []
    for axis, wanted in enumerate(shape):
        there = dims[axis] if dims is not None and axis < len(dims) else None
        if isinstance(wanted, Size):
            made.append(None if known.may_be_zero(wanted) and not literal else wanted)
        elif wanted is None or wanted < 0:
            made.append(None)
        else:
            made.append(there if wanted == 0 and not literal else wanted)
    if dims is not None and made.count(None) == 1:
        made[made.index(None)] = _left_over(dims, [dim for dim in made if dim is not None])
    return made


def _left_over(dims: Sequence[int | Size], others: Sequence[int | Size]) -> Dim:
    """What times the others are as many elements as the dimensions have: of an empty tensor nobody could say."""
    before, after = (Counter(dim for dim in part if isinstance(dim, Size)) for part in (dims, others))
    if after - before:
        return None
    sizes = list((before - after).elements())
    elements, taken = (math.prod(dim for dim in part if isinstance(dim, int)) for part in (dims, others))
    if not elements or not taken or elements % taken or len(sizes) > 1:
        return None
    return elements // taken if not sizes else sizes[0] if elements == taken else None


def _reduced(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims = _of(known, node)
    axes = None if dims is None else _axes(integers(node, "axes", 1), len(dims))
    if dims is None or not axes:
        return None
    kept = bool(node.attrs.get("keepdims", 1))
    return [1 if axis in axes else dim for axis, dim in enumerate(dims) if kept or axis not in axes]


def _conv(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims, weight = _of(known, node), _of(known, node, 1)
    if dims is None or weight is None or len(dims) != len(weight) or len(dims) < 3:
        return None
    return [dims[0], weight[0], *_windows(node, dims[2:], weight[2:])]


def _pooled(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    dims, kernel = _of(known, node), [int(size) for size in node.attrs.get("kernel_shape", ())]
    return None if dims is None or len(dims) != len(kernel) + 2 else [*dims[:2], *_windows(node, dims[2:], kernel)]


def _windows(node: ir.Node, dims: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    """Those that windows in steps of one leave as they are."""
    axes = len(dims)
    steps, spread = (list(node.attrs.get(name) or [1] * axes) for name in ("strides", "dilations"))
    pads, pad = list(node.attrs.get("pads") or [0] * 2 * axes), node.attrs.get("auto_pad", "NOTSET")
    named = pad.decode() if isinstance(pad, bytes) else pad
    if not len(steps) == len(spread) == axes or len(pads) != 2 * axes or named != "NOTSET":
        return [None] * axes
    return [
        dims[axis]
        if isinstance(size, int) and steps[axis] == 1 and pads[axis] + pads[axis + axes] == spread[axis] * (size - 1)
        else None
        for axis, size in enumerate(kernel)
    ]


def _resized(known: Known, node: ir.Node) -> Sequence[Dim] | None:
    return None if "axes" in node.attrs or node.attrs.get("keep_aspect_ratio_policy") else _listed(known, node, 3)


_LIKE_THE_FIRST = (
    "Abs", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "CumSum", "DequantizeLinear", "Dropout", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Mish", "Neg",
    "Not", "PRelu", "QuantizeLinear", "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu", "Sigmoid",
    "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Trilu",
)  # fmt: skip
BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
"""Elementwise operators whose operands are all broadcast."""
_REDUCED = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_LIKE_THE_FIRST, _same),
    **dict.fromkeys(BROADCAST, _broadcast),
    **dict.fromkeys(_REDUCED, _reduced),
    "AveragePool": _pooled,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _places,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _pooled,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resized,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_BEYOND_ONNX: dict[str, Rule] = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "Gelu", "QuickGelu"), _same),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _matmul),
    **dict.fromkeys(("MatMulInt4", "MatMulInt8", "MatMulNBits"), _product),
    "GatherBlockQuantized": _rows_of_second,
    "GatherInt4": _rows_of_first,
}
"""Operators of ONNX Runtime's own domain and of ours. No name stands for two of them."""
