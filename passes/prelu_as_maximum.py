"""PRelu in floats, as the larger of two lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, is_float32, operand
from qcompiler.passes._replacing import Replaced
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class PReluAsMaximum(Pass):
    """``PRelu(x, a)`` with constant slopes (He et al. 2015, equation 1), in float32, becomes ``max(x, a · x)`` where no
    slope is above 1, ``min(x, a · x)`` where none is below, and ``relu(x) + a · min(x, 0)`` where some are: the same
    numbers, but for infinity times a slope of 0.

    ONNX Runtime 1.32 computes PRelu value by value, and takes longer for it than for the three or four operators of
    the last form: ``tools/bench_layers.py`` measures what that is worth between convolutions.
    """

    name: ClassVar[str] = "prelu-as-maximum"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            slopes = None if node.op != "PRelu" or node.domain else operand(node, 1)
            values = None if slopes is None else constant(slopes)
            if values is None or not np.all(np.isfinite(values)) or not is_float32(node.inputs[0]):
                continue
            old = Replaced(node, inner, namer, graph.opset)
            x, slope = old.inputs
            if np.all(values <= 1.0) or np.all(values >= 1.0):
                line = old.write("Mul", x, slope)
                old.write("Max" if values.reshape(-1)[0] <= 1.0 else "Min", x, line, result=old.output(0))
            else:
                below = old.write("Mul", old.write("Min", x, np.array(0, np.float32)), slope)
                old.write("Add", old.write("Relu", x), below, result=old.output(0))
            rewrites += 1
        return PassResult(rewrites)
