"""Where an operator stops caring: input values beyond which its result no longer changes.

Codes spent beyond such a bound are wasted, so ranges are cut there. A property of the operators' definitions in ONNX,
not of any target.
"""

from __future__ import annotations

import math

from qcompiler import ir

FLAT = math.log(510.0)
"""Sigmoid(±FLAT) is within half a step of an 8-bit code of 0 and 1: 1 / (1 + exp(-FLAT)) = 1 - 1/511."""

_EVERYTHING = (-math.inf, math.inf)


def bounds(tensor: ir.Tensor) -> tuple[float, float]:
    """The interval outside which no consumer distinguishes values of ``tensor``; the union over its consumers.

    Cases: 1. Relu; 2. Clip with constant bounds; 3. HardSigmoid; 4. HardSwish, zero below -3; 5. Sigmoid, to within
    half an 8-bit step; 6. x · Sigmoid(x) and x · HardSigmoid(x), whose product vanishes where the factor does.
    """
    low, high = math.inf, -math.inf
    for node in tensor.outputs:
        first, last = _of(node, tensor)
        low, high = min(low, first), max(high, last)
    return (low, high) if tensor.outputs else _EVERYTHING


def guaranteed(tensor: ir.Tensor) -> tuple[float, float]:
    """The interval that the definition of the operator that computes the tensor keeps its values in."""
    node = ir.producer(tensor)
    if node is not None and node.op == "Relu":
        return 0.0, math.inf
    if node is not None and node.op == "Clip":
        return clip_bounds(node) or _EVERYTHING
    if node is not None and node.op in ("Sigmoid", "HardSigmoid", "Softmax"):
        return 0.0, 1.0
    return _EVERYTHING


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The constant bounds of a Clip (infinite where absent); None when a bound is computed."""
    found = []
    for index, name, absent in ((1, "min", -math.inf), (2, "max", math.inf)):
        tensor = node.inputs[index] if index < len(node.inputs) else None
        if tensor is None or not tensor.name:
            found.append(float(node.attrs.get(name, absent)))
        elif ir.is_constant(tensor) and tensor.values.size == 1:
            found.append(float(tensor.values.reshape(-1)[0]))
        else:
            return None
    return found[0], found[1]


def _of(node: ir.Node, tensor: ir.Tensor) -> tuple[float, float]:
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op == "Clip" and node.inputs[0] is tensor:
        return clip_bounds(node) or _EVERYTHING
    if node.op == "HardSigmoid":
        return _hard_sigmoid(node)
    if node.op == "HardSwish":
        return -3.0, math.inf
    if node.op == "Sigmoid":
        return -FLAT, FLAT
    if node.op == "Mul":
        for other in node.inputs:
            source = ir.producer(other)
            if source is not None and len(source.inputs) > 0 and source.inputs[0] is tensor:
                if source.op == "HardSigmoid":
                    return _hard_sigmoid(source)[0], math.inf
                if source.op == "Sigmoid":
                    # x·sigmoid(x) has its minimum of -0.278 near -1.28 and is within 0.011 of zero below here.
                    return -FLAT, math.inf
    return _EVERYTHING


def _hard_sigmoid(node: ir.Node) -> tuple[float, float]:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0 else _EVERYTHING
