"""Removes nodes that return what they were given, and merges those that together do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import helper

from qcompiler import ir
from qcompiler.passes._edit import bypass, constant, has_operand, infers, integers, operand
from qcompiler.passes._shape_values import ShapeValues, broadcasts_into
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_RESHAPERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class _Refusal(Exception):
    """The node looks like an identity and is none; the text says why."""


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """Removes, at every depth, until none is left:

    1. Identity; Dropout that infers; Cast to the type that the tensor has.
    2. Sum, Mean, Max, Min, Concat of one tensor; Split into one.
    3. Transpose that leaves the axes in order; Reshape to the shape that the tensor has; Slice of everything; Pad by
       nothing; Tile by ones; Expand to nothing larger.
    4. Mul and Div by 1, Pow by 1, Sub of 0, and Add of -0.0 or of an integer 0, if broadcasting adds nothing.
    5. Squeeze of the axes that an Unsqueeze has just put in, and the other way round.

    and merges

    6. a Transpose after a Transpose;
    7. a Reshape after a Reshape, Flatten, Squeeze or Unsqueeze.

    Refused: Dropout whose mask is read; a floating-point Add of +0.0, which turns -0.0 into 0.0; a constant that may
    broadcast the tensor to a larger one; anything that would make a graph return what it does not compute.
    """

    name: ClassVar[str] = "remove-identities"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        shapes = ShapeValues(graph)
        rewrites = 0
        refused: dict[str, str] = {}
        for inner in list(ir.all_graphs(graph)):
            for node in list(inner.nodes):
                if node.domain or not node.inputs or not node.outputs:
                    continue
                rewrites += _merge_transposes(node, shapes) + _merge_reshapes(node, shapes, graph)
                if node.op == "Dropout" and infers(node) and _mask_is_read(node, graph):
                    # The mask would have to be made some other way.
                    refused[node.name] = "its mask is read"
                    continue
                try:
                    source = _same_as(node, shapes)
                except _Refusal as refusal:
                    refused[node.name] = str(refusal)
                    continue
                if source is None:
                    continue
                if bypass(node, source, inner, graph):
                    rewrites += 1
                else:
                    # The names of outputs belong to the user, and a graph must not return what comes from outside.
                    refused[node.name] = f"'{node.outputs[0].name}' is an output that needs a node of its own"
        ir.remove_dead(graph)
        return PassResult(rewrites, tuple(Diagnostic(name, why, "refused") for name, why in refused.items()))


def _same_as(node: ir.Node, shapes: ShapeValues) -> ir.Tensor | None:
    """The tensor that the node's first output always equals, or None."""
    rule = _RULES.get(node.op)
    if rule is not None and rule(node, shapes):
        return node.inputs[0]
    if node.op in ("Mul", "Add") and _neutral(node, shapes, kept=1, index=0):
        return node.inputs[1]
    if node.op in ("Squeeze", "Unsqueeze"):
        return _undone(node, shapes)
    return None


def _mask_is_read(dropout: ir.Node, graph: ir.Graph) -> bool:
    return any(mask.outputs or mask in ir.output_tensors(graph) for mask in dropout.outputs[1:] if mask.name)


def _always(node: ir.Node, shapes: ShapeValues) -> bool:
    return True


def _dropout(node: ir.Node, shapes: ShapeValues) -> bool:
    return infers(node)


def _cast(node: ir.Node, shapes: ShapeValues) -> bool:
    known = node.inputs[0].dtype
    return known is not None and np.dtype(known) == helper.tensor_dtype_to_np_dtype(node.attrs["to"])


def _single(node: ir.Node, shapes: ShapeValues) -> bool:
    return len(node.inputs) == 1


def _split(node: ir.Node, shapes: ShapeValues) -> bool:
    return len(node.outputs) == 1


def _transpose(node: ir.Node, shapes: ShapeValues) -> bool:
    order = _permutation(node, shapes)
    return order is not None and order == sorted(order)


def _permutation(node: ir.Node, shapes: ShapeValues) -> list[int] | None:
    if "perm" in node.attrs:
        return [int(axis) for axis in node.attrs["perm"]]
    dims = shapes.dims(node.inputs[0])
    return None if dims is None else list(reversed(range(len(dims))))


def _reshape(node: ir.Node, shapes: ShapeValues) -> bool:
    shape, known = constant(node.inputs[1]), shapes.dims(node.inputs[0])
    if shape is None or known is None or shape.size != len(known) or (0 in shape and node.attrs.get("allowzero", 0)):
        return False
    # 0 takes a dimension over. One unknown dimension follows from the others, as the number of elements is the same.
    kept = [wanted == 0 or wanted == size for wanted, size in zip(shape.tolist(), known)]
    if kept.count(False) == 0:
        return True
    return kept.count(False) == 1 and shape[kept.index(False)] == -1


def _slice(node: ir.Node, shapes: ShapeValues) -> bool:
    starts, ends = integers(node, "starts", 1), integers(node, "ends", 2)
    axes, steps = integers(node, "axes", 3), integers(node, "steps", 4)
    if starts is None or ends is None or any(starts):
        return False
    if (axes is None and has_operand(node, "axes", 3)) or (steps is None and operand(node, 4) is not None):
        return False
    if any(step != 1 for step in steps or []):
        return False
    known = shapes.dims(node.inputs[0])
    for axis, end in zip(axes if axes is not None else range(len(ends)), ends):
        size = known[axis] if known is not None and -len(known) <= axis < len(known) else None
        # 2^31 - 1 and above is how exporters say "to the end".
        if not (end >= (1 << 31) - 1 or (isinstance(size, int) and end >= size)):
            return False
    return True


def _pad(node: ir.Node, shapes: ShapeValues) -> bool:
    pads = integers(node, "pads", 1)
    return pads is not None and not any(pads)


def _tile(node: ir.Node, shapes: ShapeValues) -> bool:
    repeats = constant(node.inputs[1])
    return repeats is not None and bool(np.all(repeats == 1))


def _expand(node: ir.Node, shapes: ShapeValues) -> bool:
    shape = shapes.value(node.inputs[1])
    return shape is not None and shape.ndim == 1 and broadcasts_into(list(shape), shapes.dims(node.inputs[0]))


def _neutral_right(node: ir.Node, shapes: ShapeValues) -> bool:
    return _neutral(node, shapes, kept=0, index=1)


def _neutral(node: ir.Node, shapes: ShapeValues, kept: int, index: int) -> bool:
    """Case 4: whether the operand ``index`` is a constant that leaves the other one as it is."""
    values = constant(node.inputs[index])
    if values is None or values.dtype.kind not in "fiuV" or not values.size:
        return False
    element = 1 if node.op in ("Mul", "Div", "Pow") else 0
    if not np.all(values == values.dtype.type(element)):
        return False
    if not broadcasts_into(values.shape, shapes.dims(node.inputs[kept])):
        raise _Refusal(f"its constant of shape {list(values.shape)} may broadcast the other operand to a larger one")
    floating = values.dtype.kind not in "iu"
    if node.op == "Add" and floating and not np.all(np.signbit(values.astype(np.float32))):
        # -0.0 + 0.0 is 0.0: equal, but not the same bits, and 1/x tells them apart.
        raise _Refusal("adding 0.0 turns -0.0 into 0.0")
    if node.op == "Sub" and floating and np.any(np.signbit(values.astype(np.float32))):
        raise _Refusal("subtracting -0.0 turns -0.0 into 0.0")
    return True


def _undone(node: ir.Node, shapes: ShapeValues) -> ir.Tensor | None:
    """Case 5."""
    before = ir.producer(node.inputs[0])
    if before is None or before.domain or {before.op, node.op} != {"Squeeze", "Unsqueeze"}:
        return None
    # Both count axes in the larger of the two shapes.
    dims = shapes.dims(node.inputs[0] if node.op == "Squeeze" else node.outputs[0])
    larger = None if dims is None else len(dims)
    first, second = integers(before, "axes", 1), integers(node, "axes", 1)
    if first is None or second is None or _positive(first, larger) != _positive(second, larger):
        return None
    return before.inputs[0]


def _positive(axes: Sequence[int], larger: int | None) -> list[int]:
    return sorted(axis + larger if axis < 0 and larger is not None else axis for axis in axes)


def _merge_transposes(node: ir.Node, shapes: ShapeValues) -> int:
    """Case 6: the second one reads what the first one reads; the first may have other readers."""
    before = ir.producer(node.inputs[0])
    if node.op != "Transpose" or before is None or before.op != "Transpose" or before.domain:
        return 0
    first, second = _permutation(before, shapes), _permutation(node, shapes)
    if first is None and second is not None:
        first = list(reversed(range(len(second))))
    if second is None and first is not None:
        second = list(reversed(range(len(first))))
    if first is None or second is None or len(first) != len(second):
        return 0
    node.attrs["perm"] = [first[axis] for axis in second]
    node.inputs[0] = before.inputs[0]
    return 1


def _merge_reshapes(node: ir.Node, shapes: ShapeValues, graph: ir.Graph) -> int:
    """Case 7: the second one reads what the first one reads, if its shape does not speak of the first one's."""
    before = ir.producer(node.inputs[0])
    if node.op != "Reshape" or before is None or before.op not in _RESHAPERS or before.domain:
        return 0
    values = constant(node.inputs[1])
    if values is None:
        return 0
    shape, between = values.tolist(), shapes.dims(node.inputs[0])
    if 0 in shape and node.attrs.get("allowzero", 0) == 0:
        # A 0 takes over a dimension of the tensor between, which the merged node does not see.
        for axis, wanted in enumerate(shape):
            size = between[axis] if between is not None and axis < len(between) else None
            if wanted == 0 and isinstance(size, int):
                shape[axis] = size
        if 0 in shape:
            return 0
        node.inputs[1] = ir.Constant(ir.Namer(graph)(f"{node.name}_shape"), np.array(shape, np.int64))
    node.inputs[0] = before.inputs[0]
    return 1


_RULES: dict[str, Callable[[ir.Node, ShapeValues], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Sum": _single,
    "Mean": _single,
    "Max": _single,
    "Min": _single,
    "Concat": _single,
    "Split": _split,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "Expand": _expand,
    "Mul": _neutral_right,
    "Div": _neutral_right,
    "Pow": _neutral_right,
    "Add": _neutral_right,
    "Sub": _neutral_right,
}
