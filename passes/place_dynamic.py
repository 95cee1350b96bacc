"""Decides which products read their activation in 8 bits whose range is taken anew in every run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes._candidates import why_not
from qcompiler.passes.place import BY_ROW
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, Site, TensorQuant


@dataclass(frozen=True)
class PlaceDynamic(Pass):
    """Placement without samples: only weights have numbers beforehand. Nodes the plan keeps in float are respected.

    1. An operator with a constant weight whose target description says ``dynamic``: its activation and its weight. The
       result and the bias stay in float. Of one that reads no codes, a table of rows or an LSTM, the weights.
    2. Other operators with a constant weight stay in float, for the reason that the target gives.
    """

    name: ClassVar[str] = "place-dynamic"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.target is None:
            raise PassError("needs a target", where=graph.name)
        plan = ctx.plan or Plan()
        sites: dict[Site, TensorQuant] = {}
        chosen: list[str] = []
        diagnostics: list[Diagnostic] = []
        for _, node in ir.all_nodes(graph):
            entry = ctx.target.operator(node)
            if node.name in plan.kept or (entry is not None and not entry.heavy):
                continue
            reason = why_not(node, entry, ctx.target)
            if entry is not None and entry.activations and not entry.dynamic:
                reason = reason or entry.static or "the target has no dynamic form of it"
            if reason:
                diagnostics.append(Diagnostic(node.name, f"stays in float: {reason}", "refused"))
            elif entry is not None and entry.weight is not None:
                if entry.activations:
                    sites[Site(node.inputs[0].name, node.name, 0)] = TensorQuant(BY_ROW, origin="dynamic")
                for index, scheme in ctx.target.weights(entry, node):
                    sites[Site(node.inputs[index].name, node.name, index)] = TensorQuant(scheme)
                chosen.append(node.name)
        plan = replace(
            plan, target=ctx.target.name, precision="int8-dynamic", sites=sites, intended=frozenset(chosen), ties=()
        )
        return PassResult(len(chosen), tuple(diagnostics), plan)
