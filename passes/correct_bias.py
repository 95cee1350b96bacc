"""Takes back, in a node's bias, by how much rounding shifts the mean of what it computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, Semantics, ShiftsPass
from qcompiler.plan import Plan

_HELD_OUT = 4
"""Every so many samples, one is held out."""


@dataclass(frozen=True)
class CorrectBias(ShiftsPass):
    """Empirical bias correction (Nagel et al. 2019, section 4.2 and appendix D): the mean error of each output channel,
    as samples show it, is added to the bias.

    1. Biases that are constants and that one quantized Conv or Gemm of the outermost graph alone reads.
    2. A mean is moved less the less sure it is: by 1 - s²/m², with m the mean shift and s its standard error (the
       positive part of James and Stein's estimator, 1961).
    3. A bias stays where it does not take away ``least_gain`` of the shifts' power on samples that were held out.

    What it decides is ``plan.shifts``.
    """

    name: ClassVar[str] = "correct-bias"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    least_gain: float = 0.1

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, tuple[str, int]]:
        nodes = correctable(graph, plan)
        return {name: (node.outputs[0].name, node.inputs[1].values.ndim) for name, node in nodes.items()}

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        shifts, diagnostics = {}, []
        for name, rows in (ctx.shifts or {}).items():
            rows = rows[np.isfinite(rows).all(axis=1)]
            held_out = rows[::_HELD_OUT]
            fitted = np.delete(rows, np.s_[::_HELD_OUT], axis=0)
            before = float(np.sum(held_out.astype(np.float64) ** 2))
            if len(fitted) < 2 or before == 0.0:
                continue
            after = float(np.sum((held_out - likely_mean(fitted)).astype(np.float64) ** 2))
            if after <= (1.0 - self.least_gain) * before:
                shifts[name] = likely_mean(rows)
                diagnostics.append(Diagnostic(name, f"corrected: {100 * (1 - after / before):.0f} % of a shift goes"))
        return PassResult(len(shifts), tuple(diagnostics), replace(ctx.plan, shifts=shifts))


def correctable(graph: ir.Graph, plan: Plan) -> dict[str, ir.Node]:
    """Biases by name, each with the one node of the outermost graph that reads it."""
    found: dict[str, ir.Node] = {}
    for node in graph.nodes:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if node.op not in ("Conv", "Gemm") or node.domain or node.name not in plan.intended or bias is None:
            continue
        alone = ir.is_constant(bias) and len(bias.outputs) == 1 and bias.values.dtype == np.float32
        if alone and bias.values.ndim == 1 and node.attrs.get("beta", 1.0) == 1.0:
            found[bias.name] = node
    return found


def likely_mean(rows: np.ndarray) -> np.ndarray:
    """Of each column of ``[samples, C]``, drawn towards zero as far as it is not sure: float32 ``[C]``."""
    mean = rows.mean(axis=0, dtype=np.float64)
    square = rows.var(axis=0, ddof=1, dtype=np.float64) / len(rows)
    share = np.divide(square, mean**2, out=np.ones_like(mean), where=mean != 0.0)
    return (mean * np.maximum(1.0 - share, 0.0)).astype(np.float32)
