"""What ONNX Runtime would dequantize at every call is written as the operators it has for matrices of four bits."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._four_bits import Matrix, Reader, readers
from qcompiler.passes.fuse_int4 import initializers
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

DOMAIN = "com.microsoft"
BLOCKS = (256, 128, 64, 32, 16)
"""The sizes that MatMulNBits knows."""


@dataclass(frozen=True)
class FuseNBits(Pass):
    """ONNX Runtime makes MatMulNBits of ``MatMul(x, DequantizeLinear(codes, scales))`` by itself, unless

    1. the weight is read twice, as by an embedding and the output layer that is tied to it;
    2. it is the weight of a Gemm with transB = 1;
    3. a Gather reads it;
    4. the node stands in a body, whose weights are the outer graph's.

    Then it dequantizes the whole weight at every call: 27 times slower than in float. So here those nodes become
    ``com.microsoft::MatMulNBits`` and ``GatherBlockQuantized``, operators of ONNX Runtime itself, all readers of
    a weight with one stored copy. One scale an output becomes equal scales of the largest blocks that fit.

    ``everything``: the others too, where nobody can look at what the runtime made of the model.
    """

    name: ClassVar[str] = "fuse-nbits"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING
    everything: bool = False

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        refused: list[Diagnostic] = []
        groups: dict[Hashable, list[Reader]] = {}
        for reader in readers(graph, lambda node, why: refused.append(Diagnostic(node.name, why, "refused"))):
            groups.setdefault(reader.matrix.identity(), []).append(reader)
        namer, rewrites = ir.Namer(graph), 0
        for group in groups.values():
            first = group[0]
            alone = len(group) == 1 and not first.gathers and first.matrix.axis == 0 and first.graph is graph
            if alone and not self.everything and len(first.node.inputs[1].outputs) == 1:
                continue
            matrix = _in_blocks(first.matrix)
            if matrix is None:
                why = f"its {first.matrix.depth} terms are no multiple of any block of MatMulNBits"
                refused += [Diagnostic(reader.node.name, why, "refused") for reader in group]
                continue
            stored = initializers(matrix, namer, matrix.scale.dtype)
            for reader in group:
                if reader.gathers:
                    _gather(reader, matrix, stored, namer)
                else:
                    _multiply(reader, matrix, stored, namer)
                rewrites += 1
        if rewrites:
            graph.domains.setdefault(DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites, tuple(refused))


def _in_blocks(matrix: Matrix) -> Matrix | None:
    """The matrix in blocks that MatMulNBits knows; None where there are none."""
    if matrix.block in BLOCKS:
        return matrix
    block = next((block for block in BLOCKS if matrix.whole and matrix.depth % block == 0), None)
    return None if block is None else replace(matrix, pieces=matrix.block // block)


def _multiply(reader: Reader, matrix: Matrix, stored: list[ir.Tensor], namer: ir.Namer) -> None:
    node, block = reader.node, matrix.block // matrix.pieces
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    node.op, node.domain = "MatMulNBits", DOMAIN
    node.attrs = {"K": matrix.depth, "N": matrix.outputs, "bits": 4, "block_size": block, "accuracy_level": 4}
    node.inputs = [node.inputs[0], *stored]
    if bias is not None:  # MatMulNBits of older runtimes takes none
        result = node.outputs[0]
        product = ir.Variable(namer(f"{result.name}_product"), result.dtype, result.shape)
        node.outputs = [product]
        add = ir.Node("Add", namer(f"{node.name}_bias"), inputs=[product, bias], outputs=[result])
        reader.graph.nodes.append(add)


def _gather(reader: Reader, matrix: Matrix, stored: list[ir.Tensor], namer: ir.Namer) -> None:
    """The table as MatMulNBits stores it, a row's blocks apart, and the rows joined again."""
    node, block, graph = reader.node, matrix.block // matrix.pieces, reader.graph
    indices, result = node.inputs[1], node.outputs[0]

    def made(op: str, hint: str, inputs: list[ir.Tensor], kind: type, **attributes: int) -> ir.Tensor:
        output = ir.Variable(namer(f"{node.name}_{hint}"), np.dtype(kind))
        graph.nodes.append(ir.Node(op, namer(f"{node.name}_{hint}"), attributes, inputs=inputs, outputs=[output]))
        return output

    def integers(hint: str, values: list[int]) -> ir.Constant:
        return ir.Constant(namer(f"{node.name}_{hint}"), np.array(values, np.int64))

    # Of constants: done once, when the session starts.
    scales = made("Unsqueeze", "scales", [stored[1], integers("axes", [2])], np.float32)
    node.op, node.domain = "GatherBlockQuantized", DOMAIN
    node.attrs = {"gather_axis": 0, "quantize_axis": 2, "block_size": block, "bits": 4}
    node.inputs = [stored[0], indices, scales]
    if len(stored) > 2:
        values = matrix.four_bit_zero_points()[..., None]
        node.inputs.append(ir.Constant(namer(f"{node.name}_zero_points"), values))
    parts = ir.Variable(namer(f"{result.name}_blocks"), result.dtype)
    node.outputs = [parts]
    if indices.shape is not None:
        shape: ir.Tensor = integers("shape", [0] * len(indices.shape) + [matrix.depth])
    else:
        sizes = made("Shape", "sizes", [indices], np.int64)
        shape = made("Concat", "shape", [sizes, integers("width", [matrix.depth])], np.int64, axis=0)
    graph.nodes.append(ir.Node("Reshape", namer(f"{node.name}_rows"), inputs=[parts, shape], outputs=[result]))
