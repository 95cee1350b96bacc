"""Rows of a table in 8 bits are taken before they are dequantized, not after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import helper

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class GatherCodes(Pass):
    """``Gather(DequantizeLinear(codes, scales), indices)`` becomes ``Cast(Gather(codes, indices)) · Gather(scales,
    indices)``, the same to the bit: what runs looks at the rows that are asked for, and not at all of them.

    1. ``codes`` a constant matrix of 8 bits with one scale a row, or one in all, and zero points of zero; of the
       Gather, axis 0.

    Left alone: all else, which is then dequantized in full in every run.
    """

    name: ClassVar[str] = "gather-codes"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        stored: dict[ir.Tensor, ir.Constant] = {}
        for inner, node in list(ir.all_nodes(graph)):
            found = _table(node)
            if found is None:
                continue
            codes, scale = found
            result, (_, indices) = node.outputs[0], node.inputs
            rows = ir.Variable(namer(f"{result.name}_codes"), codes.dtype, result.shape)
            floats = ir.Variable(namer(f"{result.name}_steps"), scale.dtype, result.shape)
            node.inputs[0], node.outputs = codes, [rows]
            to = int(helper.np_dtype_to_tensor_dtype(scale.dtype))
            inner.nodes.append(ir.Node("Cast", namer(f"{node.name}_Cast"), {"to": to}, inputs=[rows], outputs=[floats]))
            if scale.values.size > 1:
                column = stored.setdefault(scale, ir.Constant(namer(f"{scale.name}_column"), scale.values[:, None]))
                scale = ir.Variable(namer(f"{result.name}_scale"), scale.dtype)
                inner.nodes.append(
                    ir.Node(
                        "Gather", namer(f"{node.name}_scales"), {"axis": 0}, inputs=[column, indices], outputs=[scale]
                    )
                )
            inner.nodes.append(ir.Node("Mul", namer(f"{node.name}_Mul"), inputs=[floats, scale], outputs=[result]))
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _table(node: ir.Node) -> tuple[ir.Constant, ir.Constant] | None:
    """(codes, scales) of the table that the node takes rows of; None where it is no such table."""
    if node.op != "Gather" or node.domain or node.attrs.get("axis", 0) != 0:
        return None
    dequantize = ir.producer(node.inputs[0])
    if dequantize is None or dequantize.op != "DequantizeLinear" or "block_size" in dequantize.attrs:
        return None
    if not all(ir.is_constant(tensor) for tensor in dequantize.inputs):
        return None
    codes, scale, *zero_point = dequantize.inputs
    if codes.values.dtype not in (np.int8, np.uint8) or codes.values.ndim != 2:
        return None
    if any(np.any(tensor.values) for tensor in zero_point):
        return None
    by_row = scale.values.shape == codes.values.shape[:1] and dequantize.attrs.get("axis", 1) == 0
    return (codes, scale) if by_row or scale.values.size == 1 else None
