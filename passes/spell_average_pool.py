"""The mean of windows, spelled as a convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32, rank
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_RANKS = (3, 4)
_MOST_TAPS = 81
"""Larger windows are whole pictures, nearly."""


@dataclass(frozen=True)
class SpellAveragePool(Pass):
    """``AveragePool(x)`` with windows that all weigh alike, at every depth, becomes a convolution of each channel by
    itself whose weights are one over the number of taps: in 8 bits they are exact.

    ONNX Runtime pools codes in floats, one by one: 3 × 3 windows take 20 times as long as the convolution, 2 × 2 with
    strides of two 6 times (64 × 40 × 40, one thread).

    Left alone: inputs that are not float32 of three or four axes with a known number of channels; windows at the border
    that count fewer values; dilations, auto_pad, and ceil_mode where it may add a window; more than 81 taps.
    """

    name: ClassVar[str] = "spell-average-pool"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for _, node in ir.all_nodes(graph):
            if node.op != "AveragePool" or node.domain or not _weighs_alike(node):
                continue
            channels, kernel = int(node.inputs[0].shape[1]), [int(size) for size in node.attrs["kernel_shape"]]
            weight = np.full((channels, 1, *kernel), 1.0 / math.prod(kernel), np.float32)
            kept = {name: node.attrs[name] for name in ("kernel_shape", "pads", "strides") if name in node.attrs}
            node.op, node.attrs = "Conv", {**kept, "group": channels}
            node.inputs = [node.inputs[0], ir.Constant(namer(f"{node.name}_weight"), weight)]
            rewrites += 1
        return PassResult(rewrites)


def _weighs_alike(node: ir.Node) -> bool:
    source, attributes = node.inputs[0], node.attrs
    if rank(source) not in _RANKS or not isinstance(source.shape[1], int) or source.shape[1] < 1:
        return False
    if not is_float32(source):
        return False
    kernel = attributes.get("kernel_shape", ())
    if len(kernel) != len(source.shape) - 2 or math.prod(kernel) > _MOST_TAPS:
        return False
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    whole = attributes.get("count_include_pad", 0) or not any(attributes.get("pads", ()))
    plain = not attributes.get("ceil_mode", 0) or _fits(node)
    return bool(plain and whole and all(step == 1 for step in attributes.get("dilations", ())))


def _fits(node: ir.Node) -> bool:
    """Whether windows end where the picture does, so that none is left for ceil_mode."""
    sizes, kernel = node.inputs[0].shape[2:], node.attrs["kernel_shape"]
    strides, pads = node.attrs.get("strides", [1] * len(kernel)), node.attrs.get("pads", [0] * 2 * len(kernel))
    if not all(isinstance(size, int) for size in sizes):
        return False
    spans = (size + sum(pads[axis :: len(kernel)]) - kernel[axis] for axis, size in enumerate(sizes))
    return all(stride > 0 and span % stride == 0 for span, stride in zip(spans, strides))
