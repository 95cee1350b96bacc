"""A multiplication right behind a DequantizeLinear costs nothing: it is a factor of the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class FoldScaleIntoDequantize(Pass):
    """``Mul(DequantizeLinear(q, s, z), k)`` becomes ``DequantizeLinear(q, s·k, z)``.

    1. ``k`` a positive scalar constant, on either side of the Mul.
    2. ``Div`` by a positive scalar constant.

    Left alone: a result that is a graph output; a factor that is zero, negative or not finite, as scales must be
    positive; and where others read the dequantized values too and nothing behind the product is meant to work on codes,
    as that would only dequantize twice.
    """

    name: ClassVar[str] = "fold-scale-into-dequantize"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)
        returned = ir.output_tensors(graph)
        rewrites, diagnostics = 0, []
        for inner in ir.all_graphs(graph):
            for node in list(inner.nodes):
                found = scaled(node)
                if found is None or node.outputs[0] in returned:
                    continue
                source, factor = found
                dequantize = ir.producer(source)
                if dequantize is None or dequantize.op != "DequantizeLinear":
                    continue
                if not ir.is_constant(dequantize.inputs[1]):
                    continue
                step = np.asarray(dequantize.inputs[1].values * np.float32(factor))
                if not (np.isfinite(step).all() and (step > 0).all()):
                    diagnostics.append(Diagnostic(node.name, "the scaled step is not a positive number", "refused"))
                    continue
                result = node.outputs[0]
                coded = ctx.plan is None or any(reader.name in ctx.plan.intended for reader in result.outputs)
                if not coded and len(source.outputs) > 1:
                    continue
                ir.detach(node)
                inner.nodes.remove(node)
                scale = ir.Constant(namer(f"{result.name}_scale"), step)
                inputs = [dequantize.inputs[0], scale, *dequantize.inputs[2:]]
                inner.nodes.append(
                    ir.Node(
                        "DequantizeLinear",
                        namer(f"{result.name}_DequantizeLinear"),
                        dict(dequantize.attrs),
                        inputs=inputs,
                        outputs=[result],
                    )
                )
                rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites, tuple(diagnostics))


def scaled(node: ir.Node) -> tuple[ir.Tensor, float] | None:
    """(tensor, factor) where the node multiplies a tensor by a positive finite scalar constant; None elsewhere."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for index in (1, 0) if node.op == "Mul" else (1,):
        constant, other = node.inputs[index], node.inputs[1 - index]
        if ir.is_constant(constant) and constant.values.size == 1 and constant.values.dtype == np.float32:
            value = float(constant.values.reshape(-1)[0])
            if constant.values.ndim <= 1 and not ir.is_constant(other) and np.isfinite(value) and value > 0.0:
                return other, value if node.op == "Mul" else 1.0 / value
    return None
