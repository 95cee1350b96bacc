"""Two axes that are exchanged while the ones before them are joined are exchanged where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.passes._walk import Walk
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_LAST_TWO = [0, 2, 1]


@dataclass(frozen=True)
class WholeTranspose(Pass):
    """``Reshape(Transpose<0,2,1>(Reshape(x)))`` becomes ``Transpose(x)``, at every depth, where the first Reshape joins
    the axes before the last two, and the second one parts them as they were. By the next pass it is one with a
    Transpose before it.

    PyTorch's newer exporter writes it for the keys of every attention, behind the Transpose that parts the heads: two
    copies in place of one, and two more operators to run.

    Left alone: sizes that are not known to be the same; results between that others read, or that are returned.
    """

    name: ClassVar[str] = "whole-transpose"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        sizes, returned, rewrites = ShapeValues(graph), ir.output_tensors(graph), 0
        for inner, parted in list(ir.all_nodes(graph)):
            if parted.op != "Reshape" or parted.domain or not parted.inputs:
                continue
            walk = Walk(parted.inputs[0], returned)
            transpose, joined, x = walk.up(["Transpose"]), walk.up(["Reshape"]), walk.tensor
            if transpose is None or joined is None or x is None:
                continue
            if list(transpose.attrs.get("perm", ())) != _LAST_TWO:
                continue
            result = parted.outputs[0]
            dims, between, after = (sizes.dims(tensor) for tensor in (x, joined.outputs[0], result))
            if dims is None or between is None or len(dims) < 4 or between[1:] != dims[-2:]:
                continue
            if after != [*dims[:-2], dims[-1], dims[-2]]:
                continue
            *order, second, last = range(len(dims))
            ir.detach(parted)
            inner.nodes.remove(parted)
            attrs = {"perm": [*order, last, second]}
            inner.nodes.append(ir.Node("Transpose", parted.name, attrs, inputs=[x], outputs=[result]))
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)

