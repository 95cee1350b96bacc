"""Removes what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Removes, at every depth,

    1. nodes none of whose outputs is read or returned, and then those that only they read;
    2. with them the weights that nobody else uses.

    The model's inputs and outputs stay as they are: they are its interface.
    """

    name: ClassVar[str] = "remove-dead"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return PassResult(ir.remove_dead(graph))
