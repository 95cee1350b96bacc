"""A weight that is another one's transpose becomes a view of it: the embedding and the layer that is tied to it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_ROWS = 1024


@dataclass(frozen=True)
class TieTransposed(Pass):
    """Where only weights are quantized, and a Gather takes rows of W and a product multiplies by the transpose of W,
    written out, the second constant becomes a view of the first. What they store is then quantized alike, and where
    the target has operators for both, once. Nothing else is compared: reading weights takes time."""

    name: ClassVar[str] = "tie-transposed"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.target is None or not ctx.target.weights_alone:
            return PassResult()
        tables: dict[Hashable, list[ir.Constant]] = {}
        matrices: dict[ir.Constant, None] = {}
        for _, node in ir.all_nodes(graph):
            if node.op == "Gather" and not node.domain and _matrix(node.inputs[0]):
                tables.setdefault((node.inputs[0].shape, node.inputs[0].dtype), []).append(node.inputs[0])
            elif node.op in ("Gemm", "MatMul") and not node.domain and _matrix(node.inputs[1]):
                matrices[node.inputs[1]] = None
        tied = 0
        for matrix in matrices:
            for table in tables.get((matrix.shape[::-1], matrix.dtype), []):
                if _transposed(table.values, matrix.values):
                    matrix.values = table.values.T
                    tied += 1
                    break
        return PassResult(tied)


def _matrix(tensor: ir.Tensor) -> bool:
    return isinstance(tensor, ir.Constant) and len(tensor.shape) == 2 and tensor.dtype.kind == "f"


def _transposed(table: np.ndarray, matrix: np.ndarray) -> bool:
    starts = range(0, len(table), _ROWS)
    return all(np.array_equal(table[first : first + _ROWS], matrix[:, first : first + _ROWS].T) for first in starts)
