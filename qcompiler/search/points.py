"""Where the outputs of a model are judged: at the tensors that make them up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from qcompiler import ir

PASSING = frozenset(("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat"))
"""Operators that only arrange values: what they join is judged part by part."""

PART = 12.0
"""Decibels by which one part of an output may be less true than a whole output."""


def measuring_points(graph: ir.Graph) -> dict[str, float]:
    """The float tensors that make up the outputs, a Concat of boxes and scores being two quantities, not one; each with
    the decibels by which it may fall behind: none for a whole output, ``PART`` for one of several parts."""
    found: dict[str, float] = {}
    for tensor in graph.outputs:
        parts = _parts(graph, tensor)
        for name in parts:
            found[name] = min(found.get(name, math.inf), PART if len(parts) > 1 else 0.0)
    return found


def _parts(graph: ir.Graph, output: ir.Tensor) -> list[str]:
    """Names of the tensors that the output only arranges."""
    found: dict[str, None] = {}

    def walk(tensor: ir.Tensor, depth: int) -> None:
        node = ir.producer(tensor)
        if node is not None and node.op in PASSING and node.domain in (None, "") and depth < 16:
            for source in node.inputs if node.op == "Concat" else node.inputs[:1]:
                walk(source, depth + 1)
        elif node is not None and any(node is own for own in graph.nodes) and _float(tensor):
            found[tensor.name] = None

    walk(output, 0)
    return list(found)


def before_softmax(graph: ir.Graph, points: Mapping[str, float]) -> dict[str, float]:
    """The points with what a Softmax reads in place of what it returns.

    Behind it, the error of a few samples is that of the one decision which happened to turn; before it, all samples
    tell about the same.
    """
    tensors = ir.all_tensors(graph)
    found: dict[str, float] = {}
    for name, allowed in points.items():
        node = ir.producer(tensors[name])
        if node is not None and node.op in ("Softmax", "LogSoftmax") and _float(node.inputs[0]):
            name = node.inputs[0].name
        found[name] = min(found.get(name, math.inf), allowed)
    return found


def together(part: Mapping[str, float], points: Mapping[str, float]) -> float:
    """Noise-to-signal ratios at the measuring points as one, each less what its point is allowed."""
    return sum(noise * 10.0 ** (-points[name] / 10.0) for name, noise in part.items())


def _float(tensor: ir.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32
