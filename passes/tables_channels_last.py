"""Tables beside convolutions read and write with the channels last, as ONNX Runtime lays codes out there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir, tables
from qcompiler.passes._channels_last import LAST, turn
from qcompiler.passes._edit import rank
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

TURNED = {tables.OPERATOR: 1, tables.PRODUCT: 2}
"""Operators of ours, and how many of their inputs have the axes of what they return."""
CONVOLVING = frozenset({"Conv", "MaxPool"})
"""Operators for which ONNX Runtime lays codes out with the channels last."""
EITHER_WAY = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "DequantizeLinear", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul"}
    | {"QuantizeLinear", "Relu", "Resize", "Sigmoid", "Split", tables.OPERATOR, tables.PRODUCT}
)
"""Operators past which it moves a Transpose that it put beside a convolution."""


@dataclass(frozen=True)
class TablesChannelsLast(Pass):
    """``TableLookup`` and ``TableLookup2`` of four axes, behind or before a convolution in codes, get a Transpose on
    either side. Run it after ``fuse-tables`` and ``fuse-channel-scales``.

    ONNX Runtime 1.32 puts the same around each quantized convolution, and cancels those that meet; past an operator
    that is not its own it moves none. So the tables' own meet the convolutions', and none is left: of 79 in ppocr4-rec
    11, and 1.47 instead of 1.59 ms for four convolutions of 32 channels with tables between, one thread.

    1. Tables behind a convolution, or behind what it moves a Transpose past.
    2. Tables that a convolution reads.

    Left alone: other tables, around which a Transpose would stay.
    """

    name: ClassVar[str] = "tables-channels-last"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        laid_out: set[ir.Tensor] = set()
        for inner in ir.all_graphs(graph):
            for node in list(inner.nodes):
                near = node.op in CONVOLVING or any(tensor in laid_out for tensor in node.inputs)
                if near and node.op in CONVOLVING | EITHER_WAY:
                    laid_out.update(node.outputs)
                if node.op not in TURNED or node.domain != tables.DOMAIN or rank(node.outputs[0]) != 4:
                    continue
                if near or _convolved(node.outputs[0]):
                    turn(inner, node, TURNED[node.op], namer)
                    if "axis" in node.attrs:
                        node.attrs["axis"] = LAST.index(node.attrs["axis"] % 4)
                    rewrites += 1
        return PassResult(rewrites)


def _convolved(codes: ir.Tensor) -> bool:
    """Whether a convolution reads the codes."""
    return any(reader.op == "Conv" for node in codes.outputs for tensor in node.outputs for reader in tensor.outputs)
