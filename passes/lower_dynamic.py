"""Writes the dynamic sites of a solved plan: products of integers whose scale is computed in each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, Site, TensorQuant

OLDEST_OPSET = 11
"""DynamicQuantizeLinear is that old."""


@dataclass(frozen=True)
class LowerDynamic(Pass):
    """``MatMul(x, W)`` becomes ``(q, s, z) = DynamicQuantizeLinear(x)`` and
    ``Cast(MatMulInteger(q, codes of W, z)) · (s · scale of W)``. Takes no decision.

    In this form ONNX Runtime makes one node of it all, an Add of a bias included: DynamicQuantizeMatMul.

    1. MatMul.
    2. Gemm without factors: its bias is added; with transB = 1 the codes are transposed.
    3. Products that read one tensor share one DynamicQuantizeLinear. ONNX Runtime 1.32 joins equal ones anyway, and
       that is faster than to quantize three times: three products of 128 × 768 × 768 take 1.5 ms, 1.8 ms apart (one
       thread; 64 × 384 × 384: no difference).
    """

    name: ClassVar[str] = "lower-dynamic"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        dynamic = sorted(site for site, quant in ctx.plan.sites.items() if quant.origin == "dynamic")
        if dynamic and graph.opset < OLDEST_OPSET:
            raise PassError(f"needs opset {OLDEST_OPSET}, the model has {graph.opset}", where=graph.name)
        writer = _Writer(graph, ctx.plan)
        weights = {site.node: (site, quant) for site, quant in ctx.plan.sites.items() if quant.origin != "dynamic"}
        for site in dynamic:
            if site.node not in writer.nodes or site.node not in weights or site.index != 0:
                raise PassError(
                    f"'{site.tensor}' at {site} cannot be quantized dynamically",
                    where=graph.name,
                    fix="only the first input of a product whose weight is quantized can: make the plan anew",
                )
            writer.write(writer.nodes[site.node], *weights[site.node])
        return PassResult(len(dynamic))


class _Writer:
    def __init__(self, graph: ir.Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.namer = ir.Namer(graph)
        self.nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        self.home = {node: inner for inner, node in ir.all_nodes(graph)}
        self.quantized: dict[ir.Tensor, list[ir.Variable]] = {}
        self.stored: dict[tuple[ir.Tensor, TensorQuant, bool], list[ir.Constant]] = {}

    def write(self, node: ir.Node, site: Site, quant: TensorQuant) -> None:
        home, result = self.home[node], node.outputs[0]
        codes, scale, zero_point = self.activation(node.inputs[0])
        weight, steps = self.weight(node.inputs[site.index], quant, bool(node.attrs.get("transB", 0)))
        bias = node.inputs[2] if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2].name else None

        def add(
            op: str, hint: str, inputs: list[ir.Tensor], output: ir.Variable | None = None, **attrs: Any
        ) -> ir.Variable:
            output = output or ir.Variable(self.namer(f"{node.name}_{hint}"))
            home.nodes.append(ir.Node(op, self.namer(f"{node.name}_{hint}"), attrs, inputs=inputs, outputs=[output]))
            return output

        ir.detach(node)
        home.nodes.remove(node)
        # The runtime names the fused node after this one, so it keeps the product's name.
        sums = ir.Variable(self.namer(f"{node.name}_sums"), np.dtype(np.int32), result.shape)
        home.nodes.append(ir.Node("MatMulInteger", node.name, inputs=[codes, weight, zero_point], outputs=[sums]))
        cast = add("Cast", "cast", [sums], to=TensorProto.FLOAT)
        both = add("Mul", "scale", [scale, steps])
        product = add("Mul", "product", [cast, both], None if bias is not None else result)
        if bias is not None:
            add("Add", "bias", [product, bias], result)

    def activation(self, tensor: ir.Tensor) -> list[ir.Variable]:
        """(codes, scale, zero point), computed where the tensor is."""
        if tensor not in self.quantized:
            made = [
                ir.Variable(self.namer(f"{tensor.name}_{hint}"), np.dtype(kind), shape)
                for hint, kind, shape in (
                    ("quantized", np.uint8, tensor.shape), ("scale", np.float32, []), ("zero_point", np.uint8, []),
                )
            ]  # fmt: skip
            node = ir.Node(
                "DynamicQuantizeLinear",
                self.namer(f"{tensor.name}_DynamicQuantizeLinear"),
                inputs=[tensor],
                outputs=made,
            )
            ir.home_of(tensor, self.graph).nodes.append(node)
            self.quantized[tensor] = made
        return self.quantized[tensor]

    def weight(self, tensor: ir.Constant, quant: TensorQuant, transposed: bool) -> list[ir.Constant]:
        """(codes [K, N], scale [N] or [])."""
        key = (tensor, quant, transposed)
        if key not in self.stored:
            if quant.scale is None or quant.zero_point is None or quant.zero_point.any():
                raise PassError(
                    "has no symmetric scale", where=f"tensor '{tensor.name}'", fix="run solve before lower-dynamic"
                )
            codes = self.plan.codes(tensor.name, tensor.values, quant).astype(quant.scheme.dtype)
            codes = np.ascontiguousarray(codes.T) if transposed else codes
            codes.flags.writeable = False
            self.stored[key] = [
                ir.Constant(self.namer(f"{tensor.name}_quantized"), codes),
                ir.Constant(self.namer(f"{tensor.name}_scale"), quant.scale),
            ]
        return self.stored[key]
