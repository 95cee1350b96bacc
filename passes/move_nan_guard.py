"""Guards against rows of attention that see nothing ask the mask, once, in place of every layer's scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from qcompiler import ir
from qcompiler.passes._edit import constant, rank
from qcompiler.passes._nan_guard import guarded, masked
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_FAR_ABOVE = 2.0**64
"""A number of this size is still so far above the lowest that beside it the softmax of that is zero."""
_AXES_AS_INPUT = 18
"""Operator set from which reductions have them."""


@dataclass(frozen=True)
class MoveNanGuard(Pass):
    """``Where(IsNaN(s), 0, s) · v`` of ``s = Softmax(x + Where(see, a, -inf))`` becomes
    ``(Softmax(x + Where(see, a, lowest)) · v) * any(see)``, at every depth: the same numbers, as a softmax makes zero
    of what is far enough below the rest, and the rows that see nothing are zero as they were.

    PyTorch's exporter writes the guard behind every softmax with a mask that the user gives. It is two passes over all
    scores, and takes longer than the softmax. What is attended has as many values as there are features, and whether a
    row sees anything is asked once for all layers.

    1. ``see`` is a computed boolean mask, or, with the sides exchanged, what is hidden; of one axis or more.
    2. ``x`` is finite: a product, times constants; the softmax is over the last axis.
    3. Only products read the guarded scores, on their left.
    """

    name: ClassVar[str] = "move-nan-guard"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        returned, rewrites = ir.output_tensors(graph), 0
        namer = ir.Namer(graph)
        for inner in list(ir.all_graphs(graph)):
            mover = _Mover(inner, namer, graph.opset)
            for node in list(inner.nodes):
                rewrites += mover.moved(node, returned)
        ir.remove_dead(graph)
        return PassResult(rewrites)


class _Mover:
    """For the guards of one graph, which share what is asked of a mask."""

    def __init__(self, inner: ir.Graph, namer: ir.Namer, opset: int) -> None:
        self.inner, self.namer, self.opset = inner, namer, opset
        self.finite: dict[ir.Tensor, ir.Tensor] = {}
        self.seeing: dict[ir.Tensor, ir.Tensor] = {}

    def moved(self, guard: ir.Node, returned: set[ir.Tensor]) -> bool:
        softmax = guarded(guard)
        zero = None if softmax is None else constant(guard.inputs[1])
        found = None if softmax is None else masked(softmax)
        if softmax is None or zero is None or found is None or zero.reshape(-1)[0] != 0:
            return False
        add, scores = found
        mask = add.inputs[1 - scores]
        where, result = ir.producer(mask), guard.outputs[0]
        hidden = None if where is None else _hidden(where)
        readers = list(result.outputs)
        if where is None or hidden is None or where not in self.inner.nodes or result in returned or not readers:
            return False
        if not all(_is_product(reader, result) and reader in self.inner.nodes for reader in readers):
            return False
        if len(add.outputs[0].outputs) != 1 or add.outputs[0] in returned or len(softmax.outputs[0].outputs) != 2:
            return False
        add.inputs[1 - scores] = self._finite(where, hidden)
        for product in set(readers):
            product.inputs[0] = softmax.outputs[0]
            attended = product.outputs[0]
            kept = ir.Variable(self.namer(f"{attended.name}_guarded"), attended.dtype, attended.shape)
            product.outputs[0] = kept
            self._write("Mul", [kept, self._seeing(where, hidden)], attended)
        return True

    def _finite(self, where: ir.Node, hidden: int) -> ir.Tensor:
        """The mask with the lowest number in place of minus infinity."""
        mask = where.outputs[0]
        if mask not in self.finite:
            lowest = ir.Constant(self.namer(f"{mask.name}_lowest"), np.array(np.finfo(np.float32).min))
            sides = list(where.inputs)
            sides[hidden] = lowest
            result = ir.Variable(self.namer(f"{mask.name}_finite"), mask.dtype, mask.shape)
            self.finite[mask] = self._write("Where", sides, result)
        return self.finite[mask]

    def _seeing(self, where: ir.Node, hidden: int) -> ir.Tensor:
        """1 for each row that sees something, and 0."""
        mask = where.outputs[0]
        if mask not in self.seeing:
            see = where.inputs[0]
            if hidden == 1:
                see = self._write("Not", [see], self._made(mask, "see"))
            numbers = self._write("Cast", [see], self._made(mask, "numbers"), to=TensorProto.FLOAT)
            inputs: list[ir.Tensor] = [numbers]
            attrs: dict[str, Any] = {"keepdims": 1}
            if self.opset >= _AXES_AS_INPUT:
                inputs.append(ir.Constant(self.namer(f"{mask.name}_axes"), np.array([-1])))
            else:
                attrs["axes"] = [-1]
            self.seeing[mask] = self._write("ReduceMax", inputs, self._made(mask, "any"), **attrs)
        return self.seeing[mask]

    def _made(self, mask: ir.Tensor, hint: str) -> ir.Variable:
        return ir.Variable(self.namer(f"{mask.name}_{hint}"))

    def _write(self, op: str, inputs: list[ir.Tensor], result: ir.Variable, **attrs: Any) -> ir.Variable:
        self.inner.nodes.append(ir.Node(op, self.namer(result.name), attrs, inputs=inputs, outputs=[result]))
        return result


def _hidden(where: ir.Node) -> int | None:
    """Which side of a Where hides with minus infinity, the other being far above the lowest number; None where none
    does."""
    if where.op != "Where" or where.domain or len(where.inputs) != 3 or not rank(where.inputs[0]):
        return None
    sides = [constant(tensor) for tensor in where.inputs[1:]]
    if any(side is None or side.size != 1 or side.dtype != np.float32 for side in sides):
        return None
    numbers = [float(side.reshape(-1)[0]) for side in sides if side is not None]
    places = [place for place, number in enumerate(numbers) if number == -np.inf]
    return 1 + places[0] if len(places) == 1 and abs(numbers[1 - places[0]]) <= _FAR_ABOVE else None


def _is_product(node: ir.Node, left: ir.Tensor) -> bool:
    sides = [tensor is left for tensor in node.inputs]
    return node.op == "MatMul" and not node.domain and sides == [True, False]
