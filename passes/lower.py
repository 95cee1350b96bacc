"""Writes a solved plan into the graph: the only place that creates QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.four_bits import Codes
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import OLDEST_OPSET, PerAxis, PerBlock, PerTensor


@dataclass(frozen=True)
class Lower(Pass):
    """Takes no decision: a plan without sites leaves the graph unchanged.

    1. A computed tensor gets one Q for each distinct representation. Each node that is meant to work on codes gets a DQ
       of its own, as fusions want it; readers in float share one.
    2. A constant is stored as codes once for each distinct representation, and each of its sites gets a DQ.
    3. A quantized graph output keeps its name: it is what the DQ returns.

    Dynamic sites are ``lower_dynamic``'s.
    """

    name: ClassVar[str] = "lower"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        grouped = ctx.plan.tensors()
        dynamic = {site.node for site, quant in ctx.plan.sites.items() if quant.origin == "dynamic"}
        if grouped and graph.opset < OLDEST_OPSET:
            raise PassError(f"needs opset {OLDEST_OPSET}, the model has {graph.opset}", where=graph.name)
        ctx.plan.check(graph)
        writer = _Writer(graph, ctx.plan)
        for name, sites in grouped.items():
            by_quant: dict[TensorQuant, list[Site]] = {}
            for site, quant in sites.items():
                if site.node not in dynamic:
                    by_quant.setdefault(quant, []).append(site)
            for quant, uses in by_quant.items():
                if quant.scale is None or quant.zero_point is None:
                    raise PassError("has no scale yet", where=f"tensor '{name}'", fix="run solve before lower")
                writer.write(name, quant, uses)
        return PassResult(writer.written)


class _Writer:
    def __init__(self, graph: ir.Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.namer = ir.Namer(graph)
        self.tensors = ir.all_tensors(graph)
        self.nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        self.home = {node: inner for inner, node in ir.all_nodes(graph)}
        self.graphs = list(ir.all_graphs(graph))
        self.written = 0

    def write(self, name: str, quant: TensorQuant, uses: list[Site]) -> None:
        tensor = self.tensors[name]
        codes = self.stored(tensor, quant) if ir.is_constant(tensor) else self.quantized(tensor, quant)
        shared: dict[ir.Graph, ir.Variable] = {}
        for site in uses:
            if site.node:
                node = self.nodes[site.node]
                home = self.home[node]
                value = shared.get(home)
                if value is None or site.node in self.plan.intended:
                    value = self.dequantized(name, codes, quant, home, tensor)
                if site.node not in self.plan.intended:
                    shared[home] = value
                node.inputs[site.index] = value
            else:
                for inner in self.graphs:
                    for index, output in enumerate(inner.outputs):
                        if output is tensor:
                            value = self.dequantized(name, codes, quant, inner, tensor)
                            tensor.name, value.name = self.namer(f"{name}_float"), name
                            inner.outputs[index] = value

    def stored(self, tensor: ir.Constant, quant: TensorQuant) -> ir.Constant:
        channels = not isinstance(quant.scheme.granularity, PerTensor)
        if quant.scheme.four_bits and len(tensor.shape) == 2 and channels:
            change = self.plan.change(tensor.name, tensor.shape, quant)
            codes: np.ndarray | ir.Computed = Codes(tensor.values, quant, change)
        else:
            codes = self.plan.codes(tensor.name, tensor.values, quant).astype(quant.scheme.dtype)
            codes.flags.writeable = False
        return ir.Constant(self.namer(f"{tensor.name}_quantized"), codes)

    def quantized(self, tensor: ir.Variable, quant: TensorQuant) -> ir.Variable:
        codes = ir.Variable(self.namer(f"{tensor.name}_quantized"), np.dtype(quant.scheme.dtype), tensor.shape)
        node = ir.Node(
            "QuantizeLinear",
            self.namer(f"{tensor.name}_QuantizeLinear"),
            _axis(quant),
            inputs=[tensor, *self.parameters(tensor.name, quant)],
            outputs=[codes],
        )
        ir.home_of(tensor, self.graph).nodes.append(node)
        self.written += 1
        return codes

    def dequantized(
        self, name: str, codes: ir.Tensor, quant: TensorQuant, graph: ir.Graph, like: ir.Tensor
    ) -> ir.Variable:
        value = ir.Variable(self.namer(f"{name}_dequantized"), np.dtype(np.float32), like.shape)
        node = ir.Node(
            "DequantizeLinear",
            self.namer(f"{name}_DequantizeLinear"),
            _axis(quant),
            inputs=[codes, *self.parameters(name, quant)],
            outputs=[value],
        )
        graph.nodes.append(node)
        self.written += 1
        return value

    def parameters(self, name: str, quant: TensorQuant) -> list[ir.Constant]:
        assert quant.scale is not None and quant.zero_point is not None
        scale = ir.Constant(self.namer(f"{name}_scale"), quant.scale)
        if quant.scheme.four_bits and not quant.zero_point.any():  # what none stands for
            return [scale]
        return [scale, ir.Constant(self.namer(f"{name}_zero_point"), quant.zero_point.astype(quant.scheme.dtype))]


def _axis(quant: TensorQuant) -> dict[str, int]:
    granularity = quant.scheme.granularity
    if isinstance(granularity, PerBlock):
        return {"axis": granularity.axis, "block_size": granularity.size}
    return {"axis": granularity.axis} if isinstance(granularity, PerAxis) else {}
