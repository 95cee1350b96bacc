"""Copies of a tensor along new axes are not made for operators that broadcast by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._shape_dims import BROADCAST, broadcast
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RemoveExpand(Pass):
    """``Div(x, Expand(n, s))`` becomes ``Div(x, n)``, at every depth, for every elementwise operator that broadcasts,
    where the result is as large: where the other operands have, on each axis, the size that Expand gives.

    PyTorch's ``expand_as`` writes it, in front of the division of every ``normalize``; the copy takes as long as the
    division.

    Left alone: sizes that are not known to be the same; readers that do not broadcast.
    """

    name: ClassVar[str] = "remove-expand"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        sizes, rewrites = ShapeValues(graph), 0
        for _, node in list(ir.all_nodes(graph)):
            if node.domain or node.op not in BROADCAST:
                continue
            for place, tensor in enumerate(node.inputs):
                expand = ir.producer(tensor)
                if expand is None or expand.op != "Expand" or expand.domain or not expand.inputs:
                    continue
                given = [sizes.dims(operand) for operand in node.inputs]
                whole = broadcast(given)
                given[place] = sizes.dims(expand.inputs[0])
                if whole is not None and None not in whole and broadcast(given) == whole:
                    node.inputs[place] = expand.inputs[0]
                    rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)
