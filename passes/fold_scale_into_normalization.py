"""Factors of channels right behind a normalization, or behind other factors, cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, operand
from qcompiler.passes._linear import Refusal, rounded
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class FoldScaleIntoNormalization(Pass):
    """``N(x) · f``, with a number in ``f`` for each channel of the last axis or one for all, becomes N(x) with other
    parameters, at every depth:

    1. of LayerNormalization of the last axis: its scale, and its shift if it has one, times ``f``;
    2. of RMSNormalization of the last axis: its scale times ``f``;
    3. of ``x · g``, with a constant ``g`` of the same kind: ``x · (g · f)``, which is where RMSNormalization is written
       out.

    What smooths the activations of a transformer that normalizes before its products stands there.

    Left alone: results that others read as well, or that are returned. Refused: parameters that do not fit their type.
    """

    name: ClassVar[str] = "fold-scale-into-normalization"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, returned = ir.Namer(graph), ir.output_tensors(graph)
        rewrites, refused = 0, []
        for inner, node in list(ir.all_nodes(graph)):
            scaled = _scaled(node)
            if scaled is None:
                continue
            source, factor = scaled
            before = ir.producer(source)
            if before is None or len(source.outputs) != 1 or source in returned:
                continue
            if not any(other is before for other in inner.nodes):
                continue
            places = _parameters(before, factor.size)
            try:
                fresh = {index: _times(constant(before.inputs[index]), factor) for index in places}
            except Refusal as refusal:
                refused.append(Diagnostic(node.name, str(refusal), "refused"))
                continue
            if not fresh:
                continue
            for index, values in fresh.items():
                before.inputs[index] = ir.Constant(namer(f"{before.inputs[index].name}_scaled"), values)
            result = node.outputs[0]
            ir.detach(node)
            inner.nodes.remove(node)
            before.outputs[0] = result
            rewrites += 1
        return PassResult(rewrites, tuple(refused))


def _scaled(node: ir.Node) -> tuple[ir.Tensor, np.ndarray] | None:
    """The tensor that the node multiplies, and the float32 factors ``[K]`` or ``[1]``."""
    if node.op != "Mul" or node.domain:
        return None
    for tensor, other in (node.inputs, node.inputs[::-1]):
        values = constant(other)
        if values is None or ir.is_constant(tensor):
            continue
        if values.dtype == np.float32 and values.ndim <= 1 and values.size:
            return tensor, values.reshape(-1)
    return None


def _parameters(node: ir.Node, count: int) -> list[int]:
    """The inputs of a node that its result is multiplied with, each ``[K]``; none where it is no normalization."""
    if node.domain or any(tensor.name for tensor in node.outputs[1:]):
        return []
    if node.op in ("LayerNormalization", "RMSNormalization"):
        scale = constant(node.inputs[1])
        if scale is None or scale.ndim != 1 or node.attrs.get("axis", -1) != -1 or count not in (1, scale.size):
            return []
        if operand(node, 2) is None:
            return [1]
        shift = constant(node.inputs[2])
        return [1, 2] if shift is not None and shift.shape == scale.shape else []
    if node.op == "Mul":
        index = next((index for index, tensor in enumerate(node.inputs) if ir.is_constant(tensor)), None)
        values = None if index is None else constant(node.inputs[index])
        if index is None or values is None or values.ndim != 1 or count not in (1, values.size):
            return []
        return [index]
    return []


def _times(values: np.ndarray | None, factor: np.ndarray) -> np.ndarray:
    assert values is not None
    return rounded(values.astype(np.float64) * factor.astype(np.float64), values.dtype)
