"""Leaky activations with a slope for each channel, spelled as what a target computes in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, is_float32, operand, rank
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_RANKS = (3, 4)


@dataclass(frozen=True)
class SpellPRelu(Pass):
    """``PRelu(x, a)`` with constant slopes (He et al. 2015, equation 1), at every depth, becomes

    1. ``LeakyRelu(x)``, where the slope is the same everywhere;
    2. ``x + Relu(−(1 − a) · x)``, the product as a convolution of one tap of each channel by itself, where slopes are
       no more than 1: a negative ``x`` gets ``a · x``. A weight of one number has a scale of its own, so 8 bits hold it
       exactly, and the Relu vanishes in its Q;
    3. the same with a product by place, where every place has a slope.

    ONNX Runtime has no 8-bit form of PRelu, and takes longer for the float one than for the convolution before it: 10
    of the 26 ms of a network that recognizes faces.

    Left alone: what the target looks up in a table; inputs that are not float32 of three or four axes. Refused: slopes
    above 1, or that differ along another axis alone.
    """

    name: ClassVar[str] = "spell-prelu"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.target is not None and ctx.target.tabulates("PRelu"):
            return PassResult(0)
        namer, rewrites = ir.Namer(graph), 0
        refused: list[Diagnostic] = []
        for inner, node in list(ir.all_nodes(graph)):
            slopes = _slopes(node)
            if slopes is None:
                continue
            source = node.inputs[0]
            if np.all(slopes == slopes.reshape(-1)[0]):
                alpha = float(slopes.reshape(-1)[0])
                node.op, node.attrs, node.inputs = "LeakyRelu", {"alpha": alpha}, [source]
                rewrites += 1
                continue
            if rank(source) not in _RANKS:
                continue
            why = _why_not(slopes, source)
            if why:
                refused.append(Diagnostic(node.name, why, "refused"))
                continue
            _spell(node, inner, namer, slopes)
            rewrites += 1
        return PassResult(rewrites, tuple(refused))


def _slopes(node: ir.Node) -> np.ndarray | None:
    if node.op != "PRelu" or node.domain:
        return None
    slope = operand(node, 1)
    source, slopes = node.inputs[0], None if slope is None else constant(slope)
    return slopes if is_float32(source) and slopes is not None and slopes.size else None


def _why_not(slopes: np.ndarray, source: ir.Tensor) -> str:
    """Why slopes are not one number, at most 1, for each channel or for each place; empty where they are."""
    shape = (1,) * (len(source.shape) - slopes.ndim) + slopes.shape
    channels = slopes.size == shape[1] == source.shape[1]
    if len(shape) != len(source.shape) or not (channels or shape[1:] == tuple(source.shape[1:])):
        return f"its slopes of shape {list(slopes.shape)} are neither one for each channel nor one for each place"
    if not np.all(slopes <= 1.0):  # a number that is none too
        return "a slope is above 1"
    return ""


def _spell(node: ir.Node, inner: ir.Graph, namer: ir.Namer, slopes: np.ndarray) -> None:
    source, result, name = node.inputs[0], node.outputs[0], node.name
    ir.detach(node)
    inner.nodes.remove(node)
    count = len(source.shape)
    turned, kept = (ir.Variable(namer(f"{name}_{hint}"), source.dtype, source.shape) for hint in ("turned", "kept"))
    op, attributes, less = "Mul", dict[str, Any](), slopes - np.float32(1.0)
    if slopes.size == source.shape[1]:
        op, attributes = "Conv", {"group": slopes.size, "kernel_shape": [1] * (count - 2)}
        less = less.reshape(-1, *[1] * (count - 1))
    weight = ir.Constant(namer(f"{name}_slope"), less)
    inner.nodes += [
        ir.Node(op, namer(f"{name}_turned"), attributes, inputs=[source, weight], outputs=[turned]),
        ir.Node("Relu", namer(f"{name}_kept"), inputs=[turned], outputs=[kept]),
        ir.Node("Add", namer(f"{name}_joined"), inputs=[source, kept], outputs=[result]),
    ]
