"""HardSigmoid and HardSwish, spelled so that an 8-bit addition computes the gate."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_SIXTH = 1.0 / 6.0


@dataclass(frozen=True)
class SpellHardSigmoid(Pass):
    """``HardSigmoid(x)`` becomes ``Clip(x · alpha + beta, 0, 1)``, and ``HardSwish(x)`` becomes ``x`` times that.

    A runtime without 8-bit forms of these has one of Add and Mul. Quantized to 0 … 1, the Clip vanishes in the Q behind
    the Add, and the factor alpha in the DQ before it (``fold-scale-into-dequantize``): one 8-bit addition is left.
    Where such a place stays in float, ``recognize-hardsigmoid`` and ``recognize-hardswish`` put the node back.

    1. HardSigmoid with alpha > 0.
    2. HardSwish.

    Left alone: what the target looks up in a table.
    """

    name: ClassVar[str] = "spell-hardsigmoid"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)
        found = [(inner, node) for inner, node in ir.all_nodes(graph) if node.op in ("HardSigmoid", "HardSwish")]
        rewrites = 0
        for inner, node in found:
            alpha, beta = _SIXTH, 0.5
            if node.op == "HardSigmoid":
                alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
            source = node.inputs[0]
            if ctx.target is not None and ctx.target.tabulates(node.op):
                continue
            # A falling gate would need a negative scale.
            if alpha <= 0.0 or source.dtype is None or np.dtype(source.dtype) != np.float32:
                continue
            _spell(inner, node, namer, alpha, beta)
            rewrites += 1
        return PassResult(rewrites)


def _spell(graph: ir.Graph, node: ir.Node, namer: ir.Namer, alpha: float, beta: float) -> None:
    source, result, is_gate = node.inputs[0], node.outputs[0], node.op == "HardSigmoid"
    ir.detach(node)
    graph.nodes.remove(node)

    def add(op: str, hint: str, inputs: list[ir.Tensor], output: ir.Variable | None = None) -> ir.Variable:
        if output is None:
            output = ir.Variable(namer(f"{node.name}_{hint}"), source.dtype, source.shape)
        graph.nodes.append(
            ir.Node(op, namer(f"{node.name}_{hint}"), OrderedDict(), inputs=inputs, outputs=[output])
        )
        return output

    def constant(hint: str, value: float) -> ir.Constant:
        return ir.Constant(namer(f"{node.name}_{hint}_value"), np.array(value, np.float32))

    scaled = add("Mul", "scaled", [source, constant("alpha", alpha)])
    shifted = add("Add", "shifted", [scaled, constant("beta", beta)])
    limits = [constant("low", 0.0), constant("high", 1.0)]
    if is_gate:
        add("Clip", "gate", [shifted, *limits], result)
    else:
        add("Mul", "product", [source, add("Clip", "gate", [shifted, *limits])], result)
