"""What shape arithmetic computes, as far as it is known before the model runs.

The value of a small integer tensor is an object array whose elements are an int, or a ``Size``: a dimension that is
known by identity and not by number (two equal ``Size`` are the same number), or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, integers, operand
from qcompiler.passes._shape_dims import Dim, Size, dims_of

SHAPE_TYPES = ("int64", "int32", "bool")

_SIZED_BY_DATA = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "Scan", "SequenceAt"})
"""Operators whose result may be empty for some data."""

_PLACEHOLDERS = frozenset({"?", "*", "-1", "any", "dynamic", "none", "null", "unk", "unknown"})
"""Symbols, in lower case, that exporters write where they know nothing: two inputs that bear one may differ."""

_LARGEST = 64
"""Elements above which a tensor is no shape."""


class ShapeValues:
    """Shapes inferred anew from the model's inputs and weights, and the values of the shape arithmetic on them, each
    with the help of the other.

    What the file states about tensors between inputs and outputs is not believed where ONNX knows the operator: it goes
    stale when somebody edits an input's shape. A symbol that one input bears on two axes says nothing, nor does one
    that stands for none ("?", "dynamic").
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._declared = {d for tensor in graph.inputs for d in tensor.shape or [] if isinstance(d, str)}
        bare = ir.clone(graph)
        for inner in ir.all_graphs(bare):
            for node in inner.nodes:
                for tensor in node.outputs:
                    # What an earlier inference made up for a dimension stands for another one in this.
                    tensor.shape = self._believed(tensor.shape) if node.domain else None
            for tensor in [] if inner is bare else inner.inputs:
                tensor.shape = None
        ir.infer_shapes(bare)
        self._vague = {
            symbol
            for tensor in graph.inputs
            for symbol, count in Counter(d for d in tensor.shape or [] if isinstance(d, str)).items()
            if count > 1 or symbol.lower() in _PLACEHOLDERS
        }
        self._shapes: dict[str, list[Dim]] = {
            name: [d if isinstance(d, int) else Size(d) if d and d not in self._vague else None for d in t.shape]
            for name, t in ir.all_tensors(bare).items()
            if t.shape is not None
        }
        self._sized_by_data = any(node.domain or node.op in _SIZED_BY_DATA for _, node in ir.all_nodes(graph))
        self._same: dict[Dim, int | Size] = {}
        self._values: dict[ir.Tensor, np.ndarray] = {}
        types = ir.all_tensors(bare)
        for name, tensor in ir.all_tensors(graph).items():
            if isinstance(tensor, ir.Variable) and tensor.dtype is None:
                tensor.dtype = types[name].dtype
        for inner in ir.all_graphs(graph):
            for node in inner.nodes:
                self._infer(node)
                rule = _RULES.get(node.op)
                if rule is not None and not node.domain and node.inputs and len(node.outputs) == 1:
                    value = rule(self, node)
                    if value is not None and value.size <= _LARGEST:
                        self._values[node.outputs[0]] = value

    def _believed(self, shape: list[int | str | None] | None) -> list[int | str | None] | None:
        return None if shape is None else [d if isinstance(d, int) or d in self._declared else None for d in shape]

    def dims(self, tensor: ir.Tensor) -> list[int | Size] | None:
        """The tensor's shape, every dimension an int or a Size; None when not even the rank is known."""
        if isinstance(tensor, ir.Constant):
            return list(tensor.values.shape)
        shape = self._shapes.get(tensor.name)
        if shape is None:
            return None
        return [Size(tensor.name, axis) if d is None else self._same.get(d, d) for axis, d in enumerate(shape)]

    def _infer(self, node: ir.Node) -> None:
        """What ONNX left open of the first output's shape, or has made a symbol of its own for."""
        found = dims_of(self, node)
        if found is None or not node.outputs:
            return
        shape = self._shapes.setdefault(node.outputs[0].name, [None] * len(found))
        if len(shape) != len(found):
            return
        for axis, (old, new) in enumerate(zip(shape, found)):
            if old is None:
                shape[axis] = new
            elif isinstance(old, Size) and new is not None and old.name not in self._declared:
                self._same.setdefault(old, new)

    def value(self, tensor: ir.Tensor | None) -> np.ndarray | None:
        """The tensor's elements as far as they are known."""
        if tensor is None:
            return None
        values = constant(tensor)
        if values is not None:
            small = values.size <= _LARGEST and values.dtype.name in SHAPE_TYPES
            return values.astype(object) if small else None
        return self._values.get(tensor)

    def may_be_zero(self, size: int | Size | None) -> bool:
        """Whether a dimension may be empty. The model's own inputs never are, nor what only their sizes decide."""
        if isinstance(size, Size):
            return self._sized_by_data and size.name not in self._declared
        return not size

    def bytes_of(self, tensor: ir.Tensor) -> int | None:
        """The size of the tensor's data; None when unknown."""
        dims = self.dims(tensor)
        numbers = [d for d in dims or [] if isinstance(d, int)]
        if dims is None or tensor.dtype is None or len(numbers) < len(dims):
            return None
        return int(np.prod(numbers, dtype=object)) * np.dtype(tensor.dtype).itemsize


def broadcasts_into(shape: Sequence[int | Size], known: Sequence[int | Size] | None) -> bool:
    """Whether broadcasting a tensor of shape ``known`` against ``shape`` leaves it as it is."""
    if known is None or len(shape) > len(known):
        return False
    return all(size == 1 or size == there for size, there in zip(reversed(list(shape)), reversed(list(known))))


Rule = Callable[[ShapeValues, ir.Node], "np.ndarray | None"]


def _objects(items: list, shape: tuple[int, ...]) -> np.ndarray:
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made.reshape(shape)


def _shape(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    dims = values.dims(node.inputs[0])
    if dims is None:
        return None
    chosen = dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    return _objects(chosen, (len(chosen),))


def _size(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    dims = values.dims(node.inputs[0])
    if dims is None:
        return None
    numbers = [d for d in dims if isinstance(d, int)]
    count = int(np.prod(numbers, dtype=object)) if len(numbers) == len(dims) else None
    return _objects([count], ())


def _same(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    return values.value(node.inputs[0])


def _cast(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    known = values.value(node.inputs[0])
    into = node.outputs[0].dtype
    if known is None or into is None or np.dtype(into).name not in ("int64", "int32"):
        return None
    limit = np.iinfo(into)
    if any(isinstance(v, int) and not limit.min <= v <= limit.max for v in known.reshape(-1)):
        return None
    return known


def _gather(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    known, places = values.value(node.inputs[0]), operand(node, 1)
    index = None if places is None else constant(places)
    if known is None or index is None or known.ndim != 1 or node.attrs.get("axis", 0) not in (0, -1):
        return None
    if index.size and not (-known.size <= index.min() and index.max() < known.size):
        return None
    return _objects(list(known[index.reshape(-1)]), index.shape)


def _slice(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    known = values.value(node.inputs[0])
    starts, ends = integers(node, "starts", 1), integers(node, "ends", 2)
    steps = integers(node, "steps", 4) if operand(node, 4) is not None else [1]
    if known is None or known.ndim != 1 or starts is None or ends is None or steps is None or len(starts) != 1:
        return None
    # With a positive step ONNX clamps as Python does; with a negative one an end of INT_MIN has no counterpart.
    return known[starts[0] : ends[0] : steps[0]] if steps[0] > 0 else None


def _concat(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    parts: list[np.ndarray] = []
    for tensor in node.inputs:
        known = values.value(tensor)
        if known is None:
            dims = values.dims(tensor)
            if dims is None or len(dims) != 1 or not isinstance(dims[0], int) or dims[0] > _LARGEST:
                return None
            known = _objects([None] * dims[0], (dims[0],))
        if known.ndim != 1:
            return None
        parts.append(known)
    return np.concatenate(parts)


def _flat(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    """Unsqueeze, Squeeze and Reshape between scalars and vectors: the elements stay, the rank follows."""
    known, dims = values.value(node.inputs[0]), values.dims(node.outputs[0])
    if known is None or dims is None or not all(isinstance(d, int) for d in dims):
        return None
    return known.reshape([d for d in dims if isinstance(d, int)])


def _elementwise(compute: Callable[[object, object], object]) -> Rule:
    def rule(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
        left, right = (values.value(operand(node, index)) for index in (0, 1))
        if left is None or right is None:
            return None
        left, right = np.broadcast_arrays(left, right)
        pairs = zip(left.reshape(-1), right.reshape(-1))
        return _objects([compute(a, b) for a, b in pairs], left.shape)

    return rule


def _add(a: object, b: object) -> object:
    if isinstance(a, int) and isinstance(b, int):
        return _bounded(a + b)
    return a if b == 0 and isinstance(b, int) else b if a == 0 and isinstance(a, int) else None


def _sub(a: object, b: object) -> object:
    if isinstance(a, int) and isinstance(b, int):
        return _bounded(a - b)
    return a if b == 0 and isinstance(b, int) else None


def _mul(a: object, b: object) -> object:
    if isinstance(a, int) and isinstance(b, int):
        return _bounded(a * b)
    return a if b == 1 and isinstance(b, int) else b if a == 1 and isinstance(a, int) else None


def _div(a: object, b: object) -> object:
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        quotient = abs(a) // abs(b)
        return _bounded(quotient if (a < 0) == (b < 0) else -quotient)
    return a if b == 1 and isinstance(b, int) else None


def _equal(a: object, b: object) -> object:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, Size) and isinstance(b, Size) and a == b:
        return True
    negative = any(isinstance(x, Size) and isinstance(y, int) and y < 0 for x, y in ((a, b), (b, a)))
    return False if negative else None


def _bounded(value: int) -> int | None:
    """None beyond 32 bits: such a number is no size, and int32 arithmetic would have wrapped."""
    return value if abs(value) < 1 << 31 else None


def _where(values: ShapeValues, node: ir.Node) -> np.ndarray | None:
    known = [values.value(operand(node, index)) for index in range(3)]
    if any(part is None for part in known):
        return None
    condition, yes, no = np.broadcast_arrays(*(part for part in known if part is not None))
    triples = zip(condition.reshape(-1), yes.reshape(-1), no.reshape(-1))
    return _objects([None if c is None else a if c else b for c, a, b in triples], condition.shape)


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _flat,
    "Squeeze": _flat,
    "Reshape": _flat,
    "Add": _elementwise(_add),
    "Sub": _elementwise(_sub),
    "Mul": _elementwise(_mul),
    "Div": _elementwise(_div),
    "Equal": _elementwise(_equal),
    "Where": _where,
}
