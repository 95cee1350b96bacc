"""Products whose activations are quantized as they run become an operator that does so row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto

from qcompiler import ir, native
from qcompiler.passes._edit import constant, operand, rank
from qcompiler.passes._four_bits import row
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

DEEPEST = 65536
"""As many products of 8 bits fit a sum of 32."""


@dataclass(frozen=True)
class FuseInt8(Pass):
    """``(q, s, z) = DynamicQuantizeLinear(x)`` and ``Cast(MatMulInteger(q, codes, z)) · (s · scales)`` become
    ``qcompiler::MatMulInt8(x, codes, scales)`` (docs/kernels.md): each row of x has a scale of its own where the
    standard operators have one for all of x.

    1. Constant int8 codes ``[K, N]`` without zero points, with one scale or one a column.
    2. A constant bias with one entry a column, in an Add right behind.

    Refused: sums that do not fit 32 bits, scales that are not finite.
    """

    name: ClassVar[str] = "fuse-int8"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        refused: list[Diagnostic] = []
        returned, namer, rewrites = ir.output_tensors(graph), ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            found = _product(node, returned)
            if found is None or not all(any(one is own for own in inner.nodes) for one in found.nodes):
                continue
            if found.codes.shape[0] > DEEPEST or not np.isfinite(found.scales.values).all():
                many = f"sums of {found.codes.shape[0]} products do not fit 32 bits"
                reason = many if found.codes.shape[0] > DEEPEST else f"a scale of '{found.scales.name}' is not finite"
                refused.append(Diagnostic(node.name, reason, "refused"))
                continue
            _write(inner, found, namer)
            rewrites += 1
        if rewrites:
            graph.domains.setdefault(native.DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites, tuple(refused))


@dataclass(frozen=True)
class _Product:
    """A product in the standard operators; the last of the ``nodes`` returns its result."""

    values: ir.Tensor
    codes: ir.Constant
    scales: ir.Constant
    bias: ir.Constant | None
    nodes: tuple[ir.Node, ...]


def _product(node: ir.Node, returned: set[ir.Tensor]) -> _Product | None:
    quantize = ir.producer(node.inputs[0]) if node.op == "MatMulInteger" and not node.domain else None
    if quantize is None or quantize.op != "DynamicQuantizeLinear" or operand(node, 2) is not quantize.outputs[2]:
        return None
    codes, zero_point = node.inputs[1], operand(node, 3)
    if not isinstance(codes, ir.Constant) or codes.dtype != np.int8 or len(codes.shape) != 2 or 0 in codes.shape:
        return None
    if zero_point is not None and (constant(zero_point) is None or np.any(constant(zero_point))):
        return None
    cast = _only_reader(node, "Cast", returned)
    if cast is None or cast.attrs.get("to") != TensorProto.FLOAT:
        return None
    product = _only_reader(cast, "Mul", returned)
    step = None if product is None else ir.producer(_other(product, cast.outputs[0]))
    if product is None or step is None or step.op != "Mul" or quantize.outputs[1] not in step.inputs:
        return None
    scales, values = _other(step, quantize.outputs[1]), quantize.inputs[0]
    if not isinstance(scales, ir.Constant) or not (_single(scales) or _a_column(scales, codes, values)):
        return None
    add = _only_reader(product, "Add", returned)
    bias = None if add is None else _other(add, product.outputs[0])
    if add is not None and isinstance(bias, ir.Constant) and _a_column(bias, codes, values):
        return _Product(values, codes, scales, bias, (node, cast, product, add))
    return _Product(values, codes, scales, None, (node, cast, product))


def _single(tensor: ir.Constant) -> bool:
    return tensor.values.size == 1 and len(tensor.shape) <= 1


def _a_column(tensor: ir.Constant, codes: ir.Constant, values: ir.Tensor) -> bool:
    """Whether the constant has one entry a column of the product, and no more axes than that."""
    return row(tensor, codes.shape[1]) and len(tensor.shape) <= max(1, rank(values) or 0)


def _only_reader(node: ir.Node, op: str, returned: set[ir.Tensor]) -> ir.Node | None:
    tensor = node.outputs[0]
    if tensor in returned or len(tensor.outputs) != 1 or tensor.outputs[0].op != op or tensor.outputs[0].domain:
        return None
    return tensor.outputs[0]


def _other(node: ir.Node, tensor: ir.Tensor) -> ir.Tensor:
    first, second = node.inputs
    return second if first is tensor else first


def _write(graph: ir.Graph, product: _Product, namer: ir.Namer) -> None:
    """The operator in the place of the last node, with the name of the first."""
    first, last = product.nodes[0], product.nodes[-1]
    result, at = last.outputs[0], next(index for index, node in enumerate(graph.nodes) if node is last)
    inputs: list[ir.Tensor] = [product.values, product.codes, _flat(product.scales, namer)]
    inputs += [] if product.bias is None else [_flat(product.bias, namer)]
    for node in product.nodes:
        ir.detach(node)
    graph.nodes[at] = ir.Node("MatMulInt8", first.name, inputs=inputs, outputs=[result], domain=native.DOMAIN)
    for node in product.nodes[:-1]:
        graph.nodes.remove(node)


def _flat(tensor: ir.Constant, namer: ir.Namer) -> ir.Constant:
    """With one axis."""
    return tensor if len(tensor.shape) == 1 else ir.Constant(namer(f"{tensor.name}_row"), tensor.values.reshape(-1))
