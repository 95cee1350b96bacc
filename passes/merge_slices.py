"""What is computed of one slice after another alike is computed of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.inspect import STANDARD_DOMAINS
from qcompiler.passes._edit import constant, frozen, integers, rank
from qcompiler.passes._replacing import OLDEST, Replaced
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log"),
        *("Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
    }
)
ALONG_LAST = frozenset({"LogSoftmax", "Softmax"})
PRODUCTS = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True)
class MergeSlices(Pass):
    """``Concat(f(x[0]), f(x[1]), …)`` becomes ``f(x)``: recurrent networks that are written out and layers that are
    applied at each step (Keras's TimeDistributed, a loop in PyTorch) are exported as as many small operators as there
    are steps, which take longer to begin than to compute.

    1. Slices of one axis, one behind another, by Slice, Gather with a number, or Split, with or without the axis; they
       are put together along the same one. They need not be the whole tensor.
    2. In between are operators that look at each element, or along the last axis, and products with constant weights,
       the same ones for every slice: bit for bit.

    Left alone: slices along the last axis, unless all constants are single numbers; factors of Gemm; what is read in
    between; operator sets before 13.
    """

    name: ClassVar[str] = "merge-slices"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < OLDEST:
            return PassResult()
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op == "Concat" and node.domain in STANDARD_DOMAINS and len(node.inputs) > 1:
                found = _found(node, inner)
                if found is not None:
                    _merge(Replaced(node, inner, namer, graph.opset), *found)
                    rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
            ir.sort(graph)
            ir.infer_shapes(graph)
        return PassResult(rewrites)


@dataclass(frozen=True)
class _Slice:
    """``length`` entries of an axis of the source from ``start`` on. ``apart``: one entry, without the axis."""

    source: ir.Tensor
    axis: int
    start: int
    length: int
    apart: bool = False


def _found(concat: ir.Node, graph: ir.Graph) -> tuple[_Slice, list[ir.Node]] | None:
    """What is put together, as one slice, and the operators of the first of its parts in the order of computation."""
    axes = rank(concat.inputs[0])
    if not axes or "axis" not in concat.attrs:
        return None
    axis, joined = int(concat.attrs["axis"]) % axes, False
    steps: list[ir.Node] = []
    tensors: list[ir.Tensor] = list(concat.inputs)
    while True:
        nodes = _alike(tensors, graph)
        if nodes is None:
            return None
        first = nodes[0]
        if first.op == "Unsqueeze" and not steps and not joined:
            if integers(first, "axes", 1) not in ([axis], [axis - axes]):
                return None
            joined = True
        elif first.op in ("Slice", "Gather", "Split", "Squeeze"):
            whole = _whole([_slice(tensor) for tensor in tensors])
            fits = whole is not None and (whole.axis, whole.apart, rank(whole.source)) == (axis, joined, axes)
            return (whole, steps[::-1]) if whole is not None and fits and steps else None
        elif _by_slice(first, axis, axes, joined):
            steps.append(first)
        else:
            return None
        computed = next(i for i, tensor in enumerate(first.inputs) if tensor.name and not ir.is_constant(tensor))
        tensors = [node.inputs[computed] for node in nodes]


def _alike(tensors: Sequence[ir.Tensor], graph: ir.Graph) -> list[ir.Node] | None:
    """The nodes that make these, where they do the same with one tensor each and nobody else reads what they make."""
    nodes = [node for node in map(ir.producer, tensors) if node is not None]
    returned = {id(tensor) for tensor in graph.outputs}
    if len(nodes) < len(tensors) or any(node.domain not in STANDARD_DOMAINS for node in nodes):
        return None
    if nodes[0].op in ("Slice", "Gather", "Split", "Squeeze"):
        return nodes if len({node.op for node in nodes}) == 1 else None
    if any(len(tensor.outputs) != 1 or id(tensor) in returned for tensor in tensors):
        return None
    if any(sum(bool(t.name) and not ir.is_constant(t) for t in node.inputs) != 1 for node in nodes):
        return None
    same: dict[int, object] = {}  # weights of all steps are one tensor, mostly

    def known(tensor: ir.Tensor) -> object:
        if not ir.is_constant(tensor):
            return bool(tensor.name)
        if id(tensor) not in same:
            same[id(tensor)] = frozen(tensor)
        return same[id(tensor)]

    def content(node: ir.Node) -> object:
        return node.op, frozen(sorted(node.attrs.items())), [known(tensor) for tensor in node.inputs]

    one = content(nodes[0])
    return nodes if all(content(node) == one for node in nodes[1:]) else None


def _by_slice(node: ir.Node, axis: int, axes: int, apart: bool) -> bool:
    """Whether the operator does with all slices together what it does with each."""
    own = axes - apart
    behind = axes - 1 - axis
    constants = [np.asarray(tensor.values) for tensor in node.inputs if ir.is_constant(tensor)]
    if node.op in ELEMENTWISE:

        def fits(values: np.ndarray) -> bool:
            if values.size == 1 or apart:
                return values.ndim <= (own if values.size == 1 else behind)
            return values.ndim <= axes and (values.ndim <= behind or values.shape[values.ndim - behind - 1] == 1)

        return all(map(fits, constants))
    if not behind:
        return False
    if node.op in ALONG_LAST:
        return int(node.attrs.get("axis", -1)) in (-1, own - 1)
    if node.op not in PRODUCTS or not ir.is_constant(node.inputs[1]) or constants[0].ndim != 2:
        return False
    plain = (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0), node.attrs.get("transA", 0)) == (1.0, 1.0, 0)
    return plain and all(values.ndim <= 1 or len(values) == 1 for values in constants[1:])


def _slice(tensor: ir.Tensor) -> _Slice | None:
    node = ir.producer(tensor)
    if node is None or node.domain not in STANDARD_DOMAINS or not node.inputs:
        return None
    source = node.inputs[0]
    axes = rank(source)
    if node.op == "Squeeze":
        inner, dropped = _slice(source), integers(node, "axes", 1)
        single = inner is not None and axes is not None and inner.length == 1 and not inner.apart
        if inner is None or not single or dropped not in ([inner.axis], [inner.axis - (axes or 0)]):
            return None
        return _Slice(inner.source, inner.axis, inner.start, 1, apart=True)
    if not axes:
        return None
    if node.op == "Gather":
        index = constant(node.inputs[1])
        if index is None or index.size != 1 or index.ndim > 1 or index < 0:
            return None
        return _Slice(source, int(node.attrs.get("axis", 0)) % axes, int(index.reshape(())), 1, apart=not index.ndim)
    if node.op == "Slice":
        starts, ends, along, by = (integers(node, name, i + 1) for i, name in enumerate(("starts", "ends", "axes", "")))
        if starts is None or ends is None or along is None or len(along) != 1 or (len(node.inputs) > 4 and by != [1]):
            return None
        if not -axes <= along[0] < axes or len(starts) != 1 or len(ends) != 1:
            return None
        start, end = starts[0], ends[0]
        size = None if source.shape is None else source.shape[along[0]]
        if isinstance(size, int):
            start, end = (min(max(place + size if place < 0 else place, 0), size) for place in (start, end))
        return _Slice(source, along[0] % axes, start, end - start) if 0 <= start < end < 1 << 31 else None
    if node.op == "Split":
        axis = int(node.attrs.get("axis", 0)) % axes
        sizes = [output.shape[axis] if rank(output) == axes else None for output in node.outputs]
        place = next(i for i, output in enumerate(node.outputs) if output is tensor)
        before = [size for size in sizes[: place + 1] if isinstance(size, int)]
        if len(before) <= place:
            return None
        return _Slice(source, axis, sum(before[:-1]), before[-1])
    return None


def _whole(parts: Sequence[_Slice | None]) -> _Slice | None:
    """The parts as one, where one begins where the other ends."""
    first = parts[0]
    if first is None:
        return None
    end = first.start
    for part in parts:
        if part is None or part.source is not first.source or part.start != end:
            return None
        if (part.axis, part.apart) != (first.axis, first.apart):
            return None
        end += part.length
    return _Slice(first.source, first.axis, first.start, end - first.start, first.apart)


def _merge(old: Replaced, whole: _Slice, steps: Sequence[ir.Node]) -> None:
    x, shape = whole.source, whole.source.shape
    if whole.start or shape is None or shape[whole.axis] != whole.length:
        limits = (np.array([number]) for number in (whole.start, whole.start + whole.length, whole.axis))
        x = old.write("Slice", x, *limits)
    for place, step in enumerate(steps):
        result = old.output(0) if place == len(steps) - 1 else None
        inputs = [tensor if ir.is_constant(tensor) or not tensor.name else x for tensor in step.inputs]
        if step.op == "Gemm" and whole.apart:  # which takes matrices only
            weight = np.asarray(inputs[1].values)
            turned = np.ascontiguousarray(weight.T) if step.attrs.get("transB", 0) else inputs[1]
            bias = inputs[2] if len(inputs) > 2 and inputs[2].name else None
            x = old.write("MatMul", x, turned, result=None if bias is not None else result)
            if bias is not None:
                x = old.write("Add", x, np.asarray(bias.values).reshape(-1), result=result)
        else:
            attributes = dict(step.attrs, axis=-1) if step.op in ALONG_LAST else dict(step.attrs)
            x = old.write(step.op, *inputs, result=result, **attributes)
