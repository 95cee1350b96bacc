"""Products and lookups in matrices of four bits become operators of the native library."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import helper

from qcompiler import ir, native
from qcompiler.four_bits import pairs
from qcompiler.passes._four_bits import Matrix, Reader, readers, row
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class FuseInt4(Pass):
    """``MatMul(x, DequantizeLinear(codes, scales))`` becomes ``qcompiler::MatMulInt4(x, B, scales)`` (docs/kernels.md).

    1. MatMul and Gemm, transposed weights too, with codes in blocks along what is summed over or one scale an output.
    2. A constant bias with one entry a column: Gemm's own, or an Add right behind a MatMul.
    3. Gather of whole rows: GatherInt4. Where an embedding and the output layer have one weight, be it transposed in
       one of them, both name the same initializers.
    4. Scales become float16, but for a matrix that has one that would be subnormal or infinite there. It moves a weight
       by less than 1/2000 of itself, and a tenth of the bytes goes. A Cast follows GatherInt4, which gives the type of
       its scales.

    Refused: blocks that do not divide the weight, computed scales, scales that are zero, subnormal or not finite.
    """

    name: ClassVar[str] = "fuse-int4"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        refused: list[Diagnostic] = []
        namer, returned = ir.Namer(graph), ir.output_tensors(graph)
        stored: dict[Hashable, list[ir.Tensor]] = {}
        rewrites = 0
        for reader in readers(graph, lambda node, why: refused.append(Diagnostic(node.name, why, "refused"))):
            key = reader.matrix.identity()
            if key not in stored:
                stored[key] = initializers(reader.matrix, namer, _narrowest(reader.matrix))
            if reader.gathers:
                _gather(reader, stored[key], namer)
            else:
                _multiply(reader, stored[key], returned, namer)
            rewrites += 1
        if rewrites:
            graph.domains.setdefault(native.DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites, tuple(refused))


def initializers(matrix: Matrix, namer: ir.Namer, kind: np.dtype) -> list[ir.Tensor]:
    """B, scales of this type and, where they are not all in the middle, zero points."""
    name = matrix.codes.name
    made: list[ir.Tensor] = [ir.Constant(namer(f"{name}_packed"), matrix.packed())]
    shape = (matrix.outputs, matrix.depth // matrix.block * matrix.pieces)
    scales = ir.Computed(shape, kind, lambda: np.ascontiguousarray(matrix.scales(), kind))
    made.append(ir.Constant(namer(f"{name}_scales"), scales))
    if not matrix.symmetric:
        made.append(ir.Constant(namer(f"{name}_zero_points"), pairs(matrix.four_bit_zero_points())))
    return made


def _narrowest(matrix: Matrix) -> np.dtype:
    """The type that holds the scales in the fewest bytes."""
    half, sizes = np.finfo(np.float16), np.abs(matrix.scale.values)
    fits = sizes.min() >= half.tiny and sizes.max() <= half.max
    return np.dtype(np.float16) if fits else matrix.scale.dtype


def _attributes(matrix: Matrix) -> dict[str, int]:
    return {"K": matrix.depth, "N": matrix.outputs, "block_size": 0 if matrix.whole else matrix.block}


def _gather(reader: Reader, stored: list[ir.Tensor], namer: ir.Namer) -> None:
    node, result, kind = reader.node, reader.node.outputs[0], stored[1].dtype
    node.op, node.domain, node.attrs = "GatherInt4", native.DOMAIN, _attributes(reader.matrix)
    node.inputs = [node.inputs[1], *stored]
    if kind != reader.matrix.scale.dtype:
        node.outputs = [ir.Variable(namer(f"{result.name}_{kind}"), kind, result.shape)]
        to = int(helper.np_dtype_to_tensor_dtype(reader.matrix.scale.dtype))
        cast = ir.Node("Cast", namer(f"{node.name}_Cast"), {"to": to}, inputs=node.outputs, outputs=[result])
        reader.graph.nodes.append(cast)


def _multiply(reader: Reader, stored: list[ir.Tensor], returned: set[ir.Tensor], namer: ir.Namer) -> None:
    node, columns = reader.node, reader.matrix.outputs
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    add = _added(reader, returned)
    if bias is None and add is not None:
        product, result = node.outputs[0], add.outputs[0]
        bias = next(tensor for tensor in add.inputs if tensor is not product)
        ir.detach(add)
        reader.graph.nodes.remove(add)
        node.outputs = [result]
    node.op, node.domain, node.attrs = "MatMulInt4", native.DOMAIN, _attributes(reader.matrix)
    node.inputs = [node.inputs[0], *stored]
    if bias is not None:
        flat = bias if bias.shape == (columns,) else ir.Constant(namer(f"{bias.name}_row"), bias.values.reshape(-1))
        node.inputs += [*([ir.Variable("")] if len(stored) == 2 else []), flat]


def _added(reader: Reader, returned: set[ir.Tensor]) -> ir.Node | None:
    """The Add of a constant row right behind the product, its only reader."""
    product = reader.node.outputs[0]
    if product in returned or len(product.outputs) != 1:
        return None
    add = product.outputs[0]
    if add.op != "Add" or add.domain or not any(add is node for node in reader.graph.nodes):
        return None
    others = [tensor for tensor in add.inputs if tensor is not product]
    return add if len(others) == 1 and row(others[0], reader.matrix.outputs) else None
