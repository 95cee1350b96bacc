"""The scale of attention moves before the product that it scales, where both of the product's inputs are codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class ScaleBeforeProduct(Pass):
    """``MatMul(DQ(Q(x)), DQ(Q(y))) · c`` becomes ``MatMul(DQ(Q(x · c)), DQ(Q(y)))`` with the steps of x times c, so
    that its codes stay the same: TensorRT makes one kernel of attention in few bits only when nothing scales between
    its first product and the mask.

    1. Mul or Div by a positive constant of one element.
    2. The product has no other reader, and the codes of x are read by nothing else.

    Refused: codes that several products read.
    """

    name: ClassVar[str] = "scale-before-product"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, count, refused = ir.Namer(graph), 0, []
        for node in list(graph.nodes):
            factor = _factor(node)
            product = ir.producer(node.inputs[0]) if factor is not None else None
            if factor is None or product is None or product.op != "MatMul" or len(product.outputs[0].outputs) != 1:
                continue
            if product.outputs[0] in graph.outputs:
                continue
            sides = [_rounding(tensor) for tensor in product.inputs]
            if sides[0] is None or sides[1] is None:
                continue
            quantize, dequantize = sides[0]
            if len(quantize.outputs[0].outputs) != 1 or len(dequantize.outputs[0].outputs) != 1:
                refused.append(Diagnostic(node.name, "other products read the same codes", "refused"))
                continue
            source = quantize.inputs[0]
            scaled = ir.Variable(namer(f"{source.name}_scaled"), source.dtype, source.shape)
            by = ir.Constant(namer(f"{source.name}_factor"), np.asarray(factor, quantize.inputs[1].values.dtype))
            name = namer(f"{source.name}_scaled_Mul")
            graph.nodes.append(ir.Node("Mul", name, inputs=[source, by], outputs=[scaled]))
            quantize.inputs[0] = scaled
            for one in (quantize, dequantize):
                step = one.inputs[1]
                values = np.asarray(step.values * factor, step.values.dtype)
                one.inputs[1] = ir.Constant(namer(f"{step.name}_scaled"), values)
            if ir.reroute(node.outputs[0], product.outputs[0], graph):
                ir.detach(node)
                graph.nodes.remove(node)
            count += 1
        return PassResult(count, tuple(refused))


def _factor(node: ir.Node) -> float | None:
    """What the node multiplies its first input by; None where it does anything else."""
    if node.op not in ("Mul", "Div") or node.domain or len(node.inputs) != 2 or not ir.is_constant(node.inputs[1]):
        return None
    values = node.inputs[1].values
    if values.size != 1 or values.dtype.kind != "f" or values.reshape(-1)[0] <= 0:
        return None
    value = float(values.reshape(-1)[0])
    return value if node.op == "Mul" else 1.0 / value


def _rounding(tensor: ir.Tensor) -> tuple[ir.Node, ir.Node] | None:
    """The Q and DQ, with one constant scale each, that the tensor comes through."""
    dequantize = ir.producer(tensor)
    if dequantize is None or dequantize.op != "DequantizeLinear":
        return None
    quantize = ir.producer(dequantize.inputs[0])
    if quantize is None or quantize.op != "QuantizeLinear":
        return None
    steps = [one.inputs[1] for one in (quantize, dequantize)]
    if not all(ir.is_constant(step) and step.values.size == 1 for step in steps):
        return None
    return quantize, dequantize
