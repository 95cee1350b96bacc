"""Masks that hide nothing are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant
from qcompiler.passes._shape_values import ShapeValues
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
                if _is_idle(mask) and _keeps_shape(scores, mask, shapes):
                    node.inputs[0] = scores
                    rewrites += 1
                    break
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _is_idle(mask: ir.Tensor) -> bool:
    values = constant(mask)
    if values is not None:
        return values.dtype.kind == "f" and _is_uniform(values) and bool(np.isfinite(values.reshape(-1)[0]))
    node = ir.producer(mask)
    if node is None or node.op != "Where" or node.domain:
        return False
    asked = constant(node.inputs[0])
    return asked is not None and _is_uniform(asked) and _is_idle(node.inputs[1 if asked.reshape(-1)[0] else 2])


def _is_uniform(values: np.ndarray) -> bool:
    return bool(values.size and np.all(values == values.reshape(-1)[0]))


def _keeps_shape(scores: ir.Tensor, mask: ir.Tensor, shapes: ShapeValues) -> bool:
    """Whether the sum has the shape of the scores."""
    own, other = shapes.dims(scores), shapes.dims(mask)
    if own is None or other is None or len(other) > len(own):
        return False
    return all(size in (1, there) for size, there in zip(reversed(other), reversed(own)))
