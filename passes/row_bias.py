"""Keeps ONNX Runtime from turning a quantized MatMul and its bias into a Gemm that it can then only run in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RowBias(Pass):
    """Gives the bias that is added to a quantized MatMul the shape [1, N] instead of [N]. Run it after ``lower``.

    Where every dimension of the activation is known, ONNX Runtime 1.32 makes Reshape, Gemm and Reshape of a MatMul and
    the vector added to it, before it looks at Q/DQ. A Gemm with a float bias and no Q on its output is then not fused,
    and the weight is dequantized at every call: 3.4 ms where MatMulIntegerToFloat and Add take 0.35 (1 × 64 × 384 ×
    1536, one thread). It lets a row alone, and the sum is the same.

    1. ``Add(MatMul(DQ, DQ), bias)`` and with the operands swapped, three dimensions or more.

    Left alone: sums that are quantized in turn, where that Gemm is fused and is the faster way; matrices, which are a
    Gemm already (``canonical-matmul``); shapes that are not fully known, where ONNX Runtime makes no Gemm and may fuse
    the vector into a GELU that follows.
    """

    name: ClassVar[str] = "row-bias"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)
        rows: dict[ir.Tensor, ir.Constant] = {}
        rewrites = 0
        for _, node in ir.all_nodes(graph):
            if node.op != "Add" or node.domain or _quantized(node.outputs[0]):
                continue
            for index, bias in enumerate(node.inputs):
                if ir.is_constant(bias) and bias.values.ndim == 1 and _quantized_product(node.inputs[1 - index]):
                    if bias not in rows:
                        rows[bias] = ir.Constant(namer(f"{bias.name}_row"), bias.values[None])
                    node.inputs[index] = rows[bias]
                    rewrites += 1
        return PassResult(rewrites)


def _quantized(tensor: ir.Tensor) -> bool:
    return any(user.op == "QuantizeLinear" for user in tensor.outputs)


def _quantized_product(tensor: ir.Tensor) -> bool:
    matmul = ir.producer(tensor)
    if matmul is None or matmul.op != "MatMul" or matmul.domain:
        return False
    shape = matmul.inputs[0].shape
    if shape is None or len(shape) < 3 or not all(isinstance(size, int) for size in shape):
        return False
    makers = [ir.producer(operand) for operand in matmul.inputs]
    return all(maker is not None and maker.op == "DequantizeLinear" for maker in makers)
