"""A mean or a sum over rows, spelled as a product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import integers, is_float32
from qcompiler.passes._replacing import Replaced
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""Since it Squeeze reads its axes."""
_FEWEST, _MOST = 8, 65536
"""Rows: below, a product gains nothing; above, a row of ones is large."""


@dataclass(frozen=True)
class SpellReduction(Pass):
    """``ReduceMean`` and ``ReduceSum`` over axes that others follow become ``MatMul`` of a constant row and the tensor.

    ONNX Runtime 1.32 adds up what lies side by side quickly, and rows not: a mean over 197 rows of 768 takes 127 us,
    the product 13; over 49 of 1024, 138 and 8. Transformers pool their tokens so, and models with the channels last
    their pictures.

    1. One axis before the last one, of a known size.
    2. Neighbouring axes of known sizes, all behind them known too.

    Left alone: fewer than 8 rows and more than 65536; axes that are computed; no axes, which are all or none; operator
    sets before 13.
    """

    name: ClassVar[str] = "spell-reduction"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op not in ("ReduceMean", "ReduceSum") or node.domain or graph.opset < OLDEST_OPSET:
                continue
            x, axes = node.inputs[0], integers(node, "axes", 1)
            if not axes or x.shape is None or not is_float32(x):
                continue
            rank = len(x.shape)
            axes = sorted(axis % rank for axis in axes)
            rows, behind = x.shape[axes[0] : axes[-1] + 1], x.shape[axes[-1] + 1 :]
            together = len(axes) == axes[-1] - axes[0] + 1
            sizes = [*rows, *(behind if len(behind) > 1 or len(rows) > 1 else [])]
            if not behind or not together or not all(isinstance(size, int) for size in sizes):
                continue
            if not _FEWEST <= math.prod(int(size) for size in rows) <= _MOST or 0 in sizes:
                continue
            _spell(Replaced(node, inner, namer, graph.opset), axes)
            rewrites += 1
        return PassResult(rewrites)


def _spell(old: Replaced, axes: list[int]) -> None:
    x, kept = old.inputs[0], bool(old.attrs.get("keepdims", 1))
    assert x.shape is not None
    before, behind = axes[0], x.shape[axes[-1] + 1 :]
    count = math.prod(int(size) for size in x.shape[before : axes[-1] + 1])
    row = np.full((1, count), 1 / count if old.node.op == "ReduceMean" else 1, np.float32)
    as_it_is = len(axes) == len(behind) == 1
    if not as_it_is:
        width = math.prod(int(size) for size in behind)
        x = old.write("Reshape", x, np.array([*[0] * before, count, width]))
    if as_it_is and kept:
        old.write("MatMul", row, x, result=old.output(0))
        return
    product = old.write("MatMul", row, x)
    if as_it_is:
        old.write("Squeeze", product, np.array([-2]), result=old.output(0))
    else:
        sizes = [*[0] * before, *([1] * len(axes) if kept else []), *(int(size) for size in behind)]
        old.write("Reshape", product, np.array(sizes), result=old.output(0))
