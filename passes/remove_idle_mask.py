"""Masks that hide nothing are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant
from qcompiler.passes._shape_values import ShapeValues, broadcasts_into
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RemoveIdleMask(Pass):
    """``Softmax(x + m)`` becomes ``Softmax(x)``, at every depth, where ``m`` is one and the same finite number
    everywhere and no larger than ``x``: a constant, or a Where whose condition is constant and everywhere the same. A
    softmax does not tell whether all of its input is shifted.

    PyTorch's exporter writes such a mask where attention has none, as large as all scores of a head; folding it would
    make the model larger by it.

    Left alone: sums that others read, or that are returned; sizes that are not known to be the same.
    """

    name: ClassVar[str] = "remove-idle-mask"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        shapes, returned, rewrites = ShapeValues(graph), ir.output_tensors(graph), 0
        for _, node in list(ir.all_nodes(graph)):
            if node.op != "Softmax" or node.domain:
                continue
            total = node.inputs[0]
            add = ir.producer(total)
            if add is None or add.op != "Add" or add.domain or len(total.outputs) != 1 or total in returned:
                continue
            for scores, mask in (add.inputs, add.inputs[::-1]):
                size = shapes.dims(mask)
                if size is not None and _is_idle(mask) and broadcasts_into(size, shapes.dims(scores)):
                    node.inputs[0] = scores
                    rewrites += 1
                    break
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _is_idle(mask: ir.Tensor) -> bool:
    while not ir.is_constant(mask):
        node = ir.producer(mask)
        if node is None or node.op != "Where" or node.domain or len(node.inputs) != 3:
            return False
        asked = constant(node.inputs[0])
        if asked is None or not _is_uniform(asked):
            return False
        mask = node.inputs[1 if asked.reshape(-1)[0] else 2]
    values = constant(mask)
    assert values is not None
    return values.dtype.kind == "f" and _is_uniform(values) and bool(np.isfinite(values.reshape(-1)[0]))


def _is_uniform(values: np.ndarray) -> bool:
    return bool(values.size and np.all(values == values.reshape(-1)[0]))
