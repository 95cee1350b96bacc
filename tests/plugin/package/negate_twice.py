"""Two negations in a row are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import Diagnostic, Pass, PassContext, PassResult, Semantics, ir


@dataclass(frozen=True)
class NegateTwice(Pass):
    """Removes ``Neg(Neg(x))``.

    1. The inner one stays where something else reads it.
    2. Where the result is an output of the graph, both stay: the output keeps its name.
    """

    name: ClassVar[str] = "negate-twice"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    most: int = 100

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites, remarks = 0, []
        outputs = ir.output_tensors(graph)
        for inner_graph, node in ir.all_nodes(graph):
            before = ir.producer(node.inputs[0]) if node.op == "Neg" else None
            if before is None or before.op != "Neg" or rewrites == self.most:
                continue
            if node.outputs[0] in outputs:  # 2
                remarks.append(Diagnostic(node.name, "its result is an output of the graph", "refused"))
                continue
            ir.replace_uses(node.outputs[0], before.inputs[0], inner_graph)
            rewrites += 1
        return PassResult(rewrites, tuple(remarks))
