"""Groups of few channels of a convolution in codes become fewer groups of more."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, operand
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_WIDTH = 32
"""Channels of a group, about, that fill a kernel."""
_WIDEST = 48


@dataclass(frozen=True)
class MergeGroups(Pass):
    """``Conv(DQ(x), DQ(W))`` of several groups with few channels each becomes one of fewer groups with about 32, the
    codes of what one group does not see of another being zero: the same sums.

    ONNX Runtime multiplies group by group, and a product of 4 or 8 channels leaves most of a kernel idle. On
    64 × 40 × 40 with 3 × 3 taps and one thread, groups of 4 channels take 4 times as long as groups of 32 do, groups of
    8 twice as long. ResNeXt (Xie et al. 2017) and RegNet have them.

    Left alone: a channel a group, for which there are kernels; weights with zero points, whose zero is another code;
    where two neighbouring weights share 8 bits, groups of an odd number of channels, which would get other neighbours.
    """

    name: ClassVar[str] = "merge-groups"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        paired = ctx.target is not None and ctx.target.weight.paired
        for inner, node in list(ir.all_nodes(graph)):
            dequantize, codes = _coded_weight(node)
            if dequantize is None or codes is None:
                continue
            groups = int(node.attrs.get("group", 1))
            inputs, outputs = codes.shape[1], codes.shape[0] // groups
            together = merged(groups, max(inputs, outputs))
            if together == 1 or (inputs == 1 and outputs == 1) or (paired and inputs % 2):
                continue
            wide = ir.Constant(namer(f"{dequantize.inputs[0].name}_merged"), spread(codes, groups, together))
            made = ir.Variable(namer(f"{node.inputs[1].name}_merged"), np.dtype(np.float32), list(wide.shape))
            read = [wide, *dequantize.inputs[1:]]
            name = namer(f"{dequantize.name}_merged")
            inner.nodes.append(
                ir.Node("DequantizeLinear", name, OrderedDict(dequantize.attrs), inputs=read, outputs=[made])
            )
            node.inputs[1], node.attrs["group"] = made, groups // together
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def merged(groups: int, channels: int) -> int:
    """How many of the groups become one: what brings their channels closest to ``_WIDTH``, of what divides them."""
    divisors = [count for count in range(1, groups + 1) if groups % count == 0]
    fits = [count for count in divisors if count == 1 or count * channels <= _WIDEST]
    return min(fits, key=lambda count: (abs(count * channels - _WIDTH), count))


def spread(codes: np.ndarray, groups: int, together: int) -> np.ndarray:
    """Weights ``[M, K, …]`` of so many groups as ``[M, together · K, …]``: each sees zeros beside its own inputs."""
    outputs, inputs = codes.shape[0] // groups, codes.shape[1]
    wide = np.zeros((codes.shape[0], together * inputs, *codes.shape[2:]), codes.dtype)
    for group in range(groups):
        rows, place = slice(group * outputs, (group + 1) * outputs), group % together
        wide[rows, place * inputs : (place + 1) * inputs] = codes[rows]
    return wide


def _coded_weight(node: ir.Node) -> tuple[ir.Node | None, np.ndarray | None]:
    """The DQ of the weight of a Conv between codes, and the codes; None where it is none, or zero is not code 0."""
    if node.op != "Conv" or node.domain or node.attrs.get("group", 1) < 2:
        return None, None
    source, dequantize = (ir.producer(tensor) for tensor in node.inputs[:2])
    if source is None or source.op != "DequantizeLinear" or dequantize is None or dequantize.op != "DequantizeLinear":
        return None, None
    codes, zero = constant(dequantize.inputs[0]), operand(dequantize, 2)
    points = None if zero is None else constant(zero)
    if codes is None or (zero is not None and (points is None or points.any())):
        return None, None
    return dequantize, codes
