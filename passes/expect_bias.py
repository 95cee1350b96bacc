"""Takes back, in a node's bias, by how much its rounded weights shift the mean of what it computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir, numerics
from qcompiler.calibrate.moments import as_rows
from qcompiler.errors import PassError
from qcompiler.passes.correct_bias import correctable
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan, Site, TensorQuant


@dataclass(frozen=True)
class ExpectBias(RowsPass):
    """Analytic bias correction (Nagel et al. 2019, section 4.2): rounded weights W̃ move the mean of ``W x`` by
    ``(W̃ - W) E[x]``, which is taken from the bias. Nothing rounded is run; E[x] is the mean of rows of samples, where
    the paper derives it from a BatchNormalization, which is folded by then.

    1. Biases that ``correct-bias`` may correct, of weights that are constants.
    2. A convolution's taps are all taken to see the same mean: at a border with zeros they see less.
    3. A bias that has been corrected already stays as it is.

    ``correct-bias`` sees what rounding activations does as well, for one run of the rounded model, and weights that
    ``round-weights`` has rounded hardly move means. So this one is in no pipeline:
    ``--passes +expect-bias@correct-bias --passes -correct-bias``.
    """

    name: ClassVar[str] = "expect-bias"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING
    rows: ClassVar[int] = 2048

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        nodes = (node for name, node in correctable(graph, plan).items() if name not in plan.shifts)
        return {node.inputs[0].name: 1 for node in nodes if _weight(node, plan) and not node.attrs.get("transA", 0)}

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        shifts, diagnostics = dict(ctx.plan.shifts), []
        for name, node in correctable(graph, ctx.plan).items():
            rows, quant = (ctx.rows or {}).get(node.inputs[0].name), _weight(node, ctx.plan)
            if rows is None or quant is None or name in shifts:
                continue
            shifts[name] = -shift_of(node, ctx.plan, quant, rows.values.mean(axis=0))
            diagnostics.append(Diagnostic(name, f"moved by {np.abs(shifts[name]).max():.2g} at most"))
        return PassResult(len(diagnostics), tuple(diagnostics), replace(ctx.plan, shifts=shifts))


def _weight(node: ir.Node, plan: Plan) -> TensorQuant | None:
    """How the node's weight is rounded; None where it is not, or is not a constant."""
    quant = plan.sites.get(Site(node.inputs[1].name, node.name, 1))
    return quant if ir.is_constant(node.inputs[1]) and quant is not None and quant.scale is not None else None


def shift_of(node: ir.Node, plan: Plan, quant: TensorQuant, mean: np.ndarray) -> np.ndarray:
    """By how much the mean of each output channel moves, float32 ``[O]``; ``mean``: of each input channel, ``[C]``."""
    weight = node.inputs[1]
    assert quant.scale is not None and quant.zero_point is not None
    codes = plan.codes(weight.name, weight.values, quant)
    error = as_rows(node, numerics.dequantize(codes, quant.scale, quant.zero_point, quant.scheme) - weight.values)
    groups, _, length = error.shape
    taps = length * groups // len(mean)
    met = np.repeat(mean.reshape(groups, -1), taps, axis=1)
    return np.einsum("gok,gk->go", error, met).reshape(-1).astype(np.float32)
