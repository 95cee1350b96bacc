"""Guards against rows of attention that see nothing are removed where every row sees something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import bypass, constant
from qcompiler.passes._nan_guard import guarded, is_finite, masked
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RemoveNanGuard(Pass):
    """``Where(IsNaN(s), c, s)`` of ``s = Softmax(x)`` becomes ``s``, at every depth,

    1. where ``x`` is finite: products, and what is added to them, as long as the sum cannot overflow;
    2. where ``x`` is such a product and a constant that hides with minus infinity, but no row as a whole.

    A softmax of finite numbers, some of which are hidden, is a number.

    PyTorch's exporter writes the guard for masks that hide a whole row with minus infinity, and writes it as well for
    those that hide with the lowest finite number, or not at all. It is two passes over all scores.

    Refused: other infinite constants; masks that the user gives, or whose numbers are not known to be finite. An input
    that itself is not a number used to be replaced too, and is no longer.
    """

    name: ClassVar[str] = "remove-nan-guard"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites, refused = 0, []
        for inner, node in list(ir.all_nodes(graph)):
            softmax = guarded(node)
            if softmax is None:
                continue
            if not is_finite(softmax.inputs[0]) and not _every_row_sees(softmax):
                refused.append(Diagnostic(node.name, "what it guards against may occur", "refused"))
            elif bypass(node, node.inputs[2], inner, graph):
                rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites, tuple(refused))


def _every_row_sees(softmax: ir.Node) -> bool:
    """Case 2."""
    found = masked(softmax)
    mask = None if found is None else constant(found[0].inputs[1 - found[1]])
    if mask is None or mask.dtype != np.float32 or not mask.ndim:
        return False
    return bool(np.all(mask < np.inf) and np.all(np.any(mask > -np.inf, axis=-1)))
