"""What is an element-by-element function of one tensor, and the values of such a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from qcompiler import ir
from qcompiler.inspect import STANDARD_DOMAINS
from qcompiler.passes._edit import is_random

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

DATA_DEPENDENT = frozenset({"Compress", "NonZero", "NonMaxSuppression", "StringSplit", "Unique"})
"""Operators of the standard domain whose results have shapes that depend on values."""
STATEFUL = frozenset({"GRU", "LSTM", "RNN"})
"""Operators that carry something from one element to the next."""


@dataclass(frozen=True)
class Function:
    """A tensor as a function of each element of ``source``: ``nodes`` compute it, in this order, constants that differ
    do so along ``axis`` of the source."""

    source: ir.Tensor
    nodes: tuple[ir.Node, ...] = ()
    axis: int | None = None

    def then(self, node: ir.Node) -> Function:
        """The function with one more node, which has no other computed input."""
        return Function(self.source, (*self.nodes, node), self.axis)


def function_of(node: ir.Node, known: Callable[[ir.Tensor], Function | None]) -> Function | None:
    """The result of an elementwise ``node`` as a function of the one tensor that all its computed inputs, by ``known``,
    are functions of; None where there is no such tensor, or a constant varies otherwise than along one axis of it."""
    if node.domain not in STANDARD_DOMAINS or len(node.outputs) != 1:
        return None
    parts: list[Function] = []
    for tensor in node.inputs:
        if tensor.name and not ir.is_constant(tensor):
            part = known(tensor)
            if part is None or (parts and part.source is not parts[0].source):
                return None
            parts.append(part)
    if not parts:
        return None
    source = parts[0].source
    axes = {part.axis for part in parts}
    for tensor in node.inputs:
        if ir.is_constant(tensor):
            found = _axis_of(np.asarray(tensor.values), source.shape)
            if found is _NOWHERE:
                return None
            axes.add(found)
    axes.discard(None)
    if len(axes) > 1:
        return None
    nodes = dict.fromkeys(one for part in parts for one in part.nodes)
    return Function(source, (*nodes, node), next(iter(axes), None))


_NOWHERE = -1


def _axis_of(values: np.ndarray, shape: Sequence[object] | None) -> int | None:
    """The axis of a tensor of ``shape`` along which a constant that is combined with it varies: None where it is one
    number, ``_NOWHERE`` where it varies along several or would change the shape."""
    if values.ndim == 0:
        return None
    if shape is None or values.ndim > len(shape):
        return _NOWHERE
    wide = [axis for axis, length in enumerate(values.shape) if length != 1]
    if not wide:
        return None
    axis = len(shape) - values.ndim + wide[0]
    return axis if len(wide) == 1 and shape[axis] == values.shape[wide[0]] else _NOWHERE


def no_function(node: ir.Node) -> str:
    """Why what the node computes can be no function of single elements; empty where its operator allows it."""
    if ir.subgraphs(node):
        return "it has a body, which is control flow"
    if node.domain not in STANDARD_DOMAINS:
        return ""
    if is_random(node):
        return "it is random"
    if node.op in STATEFUL:
        return "it has state"
    if node.op in DATA_DEPENDENT:
        return "the shape of its result depends on the data"
    return ""


def apply(node: ir.Node, values: Sequence[np.ndarray | None], opset: int) -> np.ndarray:
    """What the node computes of these inputs, in float64, by ONNX's reference implementation; None is an input that is
    left out."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(values)]
    attributes = [helper.make_attribute(name, value) for name, value in sorted(node.attrs.items())]
    made = helper.make_node(node.op, names, ["y"])
    made.attribute.extend(attributes)
    evaluator = _evaluator(made.SerializeToString(), opset)
    with np.errstate(all="ignore"):
        (found,) = evaluator.run(None, {name: value for name, value in zip(names, values) if name})
    return np.asarray(found, np.float64)


@functools.lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    from onnx.reference import ReferenceEvaluator  # 12 MB, for few

    made = onnx.NodeProto.FromString(node)

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)

    graph = helper.make_graph([made], "one", [value(name) for name in made.input if name], [value("y")])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def in_float64(values: np.ndarray, axis: int | None) -> np.ndarray:
    """A constant of a function, to be combined with values ``[256]``, or ``[C, 256]`` where constants vary."""
    wide = values.astype(np.float64) if values.dtype.kind == "f" else values
    if values.size == 1:
        return wide.reshape(())
    assert axis is not None
    return wide.reshape(-1, 1)
