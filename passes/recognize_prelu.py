"""Functions of one slope above zero and another below it, written out, become one node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import Match, Refusal, is_float, rewrite
from qcompiler.passes._edit import constant, operand
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_ROOTS = frozenset(("Add", "Div", "Max", "Min", "Mul", "Sub", "Where"))
_COMPARISONS = {
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
_STEPS = _ROOTS | _COMPARISONS.keys() | {"Abs", "Clip", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu", "Transpose"}
_OPERANDS = {"Add": 2, "Div": 2, "Mul": 2, "PRelu": 2, "Sub": 2, "Where": 3} | dict.fromkeys(_COMPARISONS, 2)
"""Inputs without which no runtime takes an operator, where that is more than one."""
_DEEPEST, _FURTHEST = 6, 24
"""Nodes on one path, and tensors on all of them, that are looked at for where a function begins."""


@dataclass(frozen=True)
class RecognizePRelu(Pass):
    """What is computed from one tensor ``x`` by operators that keep its multiples (Add, Sub, Max, Min, Abs, Neg, Relu,
    products with constants, Where by the sign of ``x``; Transposes between) is a line above zero and another below it,
    and its values at 1 and at -1 are all there is to know. Where it is ``x`` above zero, it becomes

    1. ``Relu(x)``, where it is 0 below;
    2. ``LeakyRelu(x)``, where it is one multiple of x below;
    3. ``PRelu(x, slope)`` (He et al. 2015, equation 1), where the multiple is another by channel or by place.

    Keras writes ``relu(x) - a · relu(-x)``, others ``max(x, a · x)`` and ``(1 + a) / 2 · x + (1 - a) / 2 · |x|``: up to
    five passes over memory in floats, and none of them fused in 8 bits.

    Refused: patterns of which a part is used elsewhere. Left alone: slopes that would enlarge x.
    """

    name: ClassVar[str] = "recognize-prelu"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)
        return rewrite(graph, lambda node: _attempt(node, namer))


@dataclass(frozen=True)
class _Lines:
    """A function of the source: its values at 1 and at -1, which broadcast to the tensor; how the tensor's axes are
    those of the source, where that is not as they are; the nodes that compute it."""

    above: np.ndarray
    below: np.ndarray
    axes: tuple[int, ...] | None
    nodes: frozenset[ir.Node]


def _attempt(node: ir.Node, namer: ir.Namer) -> Iterator[Match | Refusal]:
    if node.op not in _ROOTS or node.domain or len(node.outputs) != 1:
        return
    root = node.outputs[0]
    for source in _sources(node):
        found = _lines(root, source, {}, _DEEPEST)
        if found is None or len(found.nodes) < 2:
            continue
        slope = -found.below
        if found.axes is None and np.allclose(found.above, 1.0, rtol=1e-6) and _fits(slope, source):
            if not np.allclose(slope, 1.0, rtol=1e-6):
                yield Match(root, found.nodes, _Build(source, slope, namer))
            return


def _sources(node: ir.Node) -> list[ir.Tensor]:
    """The float tensors that the node is made from by the operators in question, the nearest first."""
    found: dict[ir.Tensor, None] = {}
    frontier = [node]
    for _ in range(_DEEPEST):
        ahead = [tensor for one in frontier for tensor in one.inputs if tensor.name and not ir.is_constant(tensor)]
        fresh = [tensor for tensor in dict.fromkeys(ahead) if tensor not in found]
        found.update(dict.fromkeys(fresh))
        if not fresh or len(found) > _FURTHEST:
            break
        makers = [ir.producer(tensor) for tensor in fresh]
        frontier = [maker for maker in makers if maker is not None and maker.op in _STEPS and not maker.domain]
    return [tensor for tensor in found if is_float(tensor.dtype)]


def _lines(tensor: ir.Tensor, source: ir.Tensor, known: dict[ir.Tensor, _Lines | None], depth: int) -> _Lines | None:
    if tensor is source:
        return _Lines(np.float64(1.0), np.float64(-1.0), None, frozenset())
    if tensor not in known:
        known[tensor] = None
        node = ir.producer(tensor)
        if node is not None and depth > 0 and node.op in _STEPS and not node.domain and len(node.outputs) == 1:
            read = node.inputs[:1] if node.op == "Clip" else node.inputs
            known[tensor] = _step(node, [_operand(one, source, known, depth) for one in read])
    return known[tensor]


def _operand(
    tensor: ir.Tensor, source: ir.Tensor, known: dict[ir.Tensor, _Lines | None], depth: int
) -> _Lines | np.ndarray | None:
    values = constant(tensor)
    return _lines(tensor, source, known, depth - 1) if values is None else values.astype(np.float64)


def _step(node: ir.Node, operands: list[_Lines | np.ndarray | None]) -> _Lines | None:
    """What the node computes; None where that is no such function."""
    functions = [one for one in operands if isinstance(one, _Lines)]
    numbers = [one for one in operands if isinstance(one, np.ndarray)]
    if not functions or len(functions) + len(numbers) != len(operands) or len(operands) < _OPERANDS.get(node.op, 1):
        return None
    if any(one.axes != functions[0].axes for one in functions):
        return None
    if node.op == "Transpose":
        return _transposed(node, functions[0])
    if not _keeps_multiples(node, operands):
        return None
    with np.errstate(all="ignore"):
        try:
            above, below = (
                _value(node, [one if isinstance(one, np.ndarray) else getattr(one, side) for one in operands])
                for side in ("above", "below")
            )
        except ValueError:  # constants that do not broadcast
            return None
    if not (np.all(np.isfinite(above)) and np.all(np.isfinite(below))):
        return None
    return _Lines(above, below, functions[0].axes, frozenset((node,)).union(*(one.nodes for one in functions)))


def _keeps_multiples(node: ir.Node, operands: list[_Lines | np.ndarray | None]) -> bool:
    """Whether the node's result, of twice its functions, is twice what it was."""
    numbers = [one for one in operands if isinstance(one, np.ndarray)]
    if node.op in ("Mul", "Div", "PRelu"):
        return len(numbers) == 1 and (node.op == "Mul" or isinstance(operands[1], np.ndarray))
    if node.op == "Clip":
        return _bounds(node) == (0.0, None)
    return not any(np.any(one) for one in numbers)


def _value(node: ir.Node, values: list[np.ndarray]) -> np.ndarray:
    first = values[0]
    if node.op in ("Add", "Sub", "Mul", "Div"):
        ufunc = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[node.op]
        return ufunc(first, values[1])
    if node.op in ("Max", "Min"):
        result = first
        for value in values[1:]:
            result = np.maximum(result, value) if node.op == "Max" else np.minimum(result, value)
        return result
    if node.op in _COMPARISONS:
        return _COMPARISONS[node.op](first, values[1])
    if node.op == "Where":
        return np.where(first, values[1], values[2])
    if node.op == "Abs":
        return np.abs(first)
    if node.op == "Neg":
        return -first
    if node.op in ("Relu", "Clip"):
        return np.maximum(first, 0.0)
    if node.op in ("LeakyRelu", "PRelu"):
        slope = values[1] if node.op == "PRelu" else float(node.attrs.get("alpha", 0.01))
        return np.where(first < 0.0, slope * first, first)
    return first  # Identity


def _bounds(node: ir.Node) -> tuple[float | None, float | None]:
    """What a Clip holds its values between; nan where that is not known."""
    found: list[float | None] = []
    for place, attribute in ((1, "min"), (2, "max")):
        tensor = operand(node, place)
        values = None if tensor is None else constant(tensor)
        if tensor is not None:
            found.append(float(values.reshape(-1)[0]) if values is not None and values.size == 1 else float("nan"))
        else:
            given = node.attrs.get(attribute)
            found.append(None if given is None else float(given))
    return found[0], found[1]


def _transposed(node: ir.Node, function: _Lines) -> _Lines | None:
    order = node.attrs.get("perm")
    if order is None:
        return None
    order = tuple(int(axis) for axis in order)
    axes = function.axes if function.axes is not None else tuple(range(len(order)))
    if len(axes) != len(order) or max(function.above.ndim, function.below.ndim) > len(order):
        return None
    above, below = (
        side.reshape((1,) * (len(order) - side.ndim) + side.shape).transpose(order) if side.ndim else side
        for side in (function.above, function.below)
    )
    turned = tuple(axes[axis] for axis in order)
    return _Lines(above, below, None if turned == tuple(range(len(order))) else turned, function.nodes | {node})


def _fits(slope: np.ndarray, source: ir.Tensor) -> bool:
    """Whether slopes broadcast to the source and leave it as large as it is."""
    if slope.size == 1:
        return slope.ndim == 0 or (source.shape is not None and slope.ndim <= len(source.shape))
    if source.shape is None or slope.ndim > len(source.shape):
        return False
    pairs = zip(slope.shape[::-1], source.shape[::-1])
    return all(size == 1 or size == own for size, own in pairs)


@dataclass(frozen=True)
class _Build:
    source: ir.Tensor
    slope: np.ndarray
    namer: ir.Namer

    def __call__(self) -> list[ir.Node]:
        if not np.any(self.slope):
            return [ir.Node("Relu", inputs=[self.source])]
        first = self.slope.reshape(-1)[0]
        if np.all(self.slope == first):
            return [ir.Node("LeakyRelu", attrs={"alpha": float(first)}, inputs=[self.source])]
        dtype = np.dtype(self.source.dtype)
        slopes = ir.Constant(self.namer(f"{self.source.name}_slopes"), self.slope.astype(dtype))
        return [ir.Node("PRelu", inputs=[self.source, slopes])]
