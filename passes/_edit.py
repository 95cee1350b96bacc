"""Small edits and questions that several structural passes share."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler import ir

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators of the standard domain that give another result each time."""


def is_random(node: ir.Node) -> bool:
    """Whether two runs of the node may differ: the random operators, and Dropout unless it certainly infers."""
    if node.op == "Dropout":
        return not infers(node)
    return node.op in RANDOM


def infers(dropout: ir.Node) -> bool:
    """Whether a Dropout has no training mode, or one that is constantly false."""
    if len(dropout.inputs) < 3 or not dropout.inputs[2].name:
        return True
    mode = constant(dropout.inputs[2])
    return mode is not None and not mode.any()


def constant(tensor: ir.Tensor) -> np.ndarray | None:
    """The value of a tensor that is known before the model runs, else None."""
    return np.asarray(tensor.values) if isinstance(tensor, ir.Constant) else None


def operand(node: ir.Node, index: int) -> ir.Tensor | None:
    """An input by position; None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) and node.inputs[index].name else None


def integers(node: ir.Node, attribute: str, index: int) -> list[int] | None:
    """A list of integers that older operator sets hold as an attribute and newer ones as a constant input.

    None when it is neither (not given, or computed); ``has_operand`` tells the two apart.
    """
    if attribute in node.attrs:
        value = node.attrs[attribute]
        return [int(v) for v in value] if isinstance(value, list) else None
    tensor = operand(node, index)
    values = None if tensor is None else constant(tensor)
    return None if values is None else [int(v) for v in values.reshape(-1)]


def has_operand(node: ir.Node, attribute: str, index: int) -> bool:
    return attribute in node.attrs or operand(node, index) is not None


def rank(tensor: ir.Tensor) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)


def is_float32(tensor: ir.Tensor) -> bool:
    """Whether the tensor is known to hold float32."""
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32


def bypass(node: ir.Node, source: ir.Tensor, inner: ir.Graph, graph: ir.Graph, output: int = 0) -> bool:
    """Makes every reader of one output of the node read ``source``; names of outputs stay. False, nothing changed, if
    a graph would then return what it does not compute itself, or one tensor twice.
    """
    result = node.outputs[output]
    if any(tensor is result for tensor in inner.outputs):
        made = ir.producer(source)
        if made is None or not any(other is made for other in inner.nodes):
            return False
        if source in ir.output_tensors(graph):
            return False
    if not ir.reroute(result, source, graph):
        return False
    learn_type(source, result)
    return True


def learn_type(tensor: ir.Tensor, other: ir.Tensor) -> None:
    """Copies what is known of an equal tensor's type and not of this one's."""
    if isinstance(tensor, ir.Variable) and isinstance(other, ir.Variable):
        if tensor.dtype is None:
            tensor.dtype = other.dtype
        if tensor.shape is None:
            tensor.shape = other.shape


def frozen(value: Any) -> Any:
    """An attribute value, or a tensor's, as something hashable that is equal only for equal values, bit for bit."""
    if isinstance(value, ir.Constant):
        return frozen(np.asarray(value.values))
    if isinstance(value, np.ndarray):
        body = tuple(value.reshape(-1).tolist()) if value.dtype == object else np.ascontiguousarray(value).tobytes()
        return ("array", str(value.dtype), value.shape, body)
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    if hasattr(value, "SerializeToString"):
        return ("proto", value.SerializeToString(deterministic=True))
    return (type(value).__name__, value)
