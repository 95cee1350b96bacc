"""Writes a solved plan into the graph: the only place that creates QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto

from qcompiler import ir, microscaling
from qcompiler.errors import PassError
from qcompiler.four_bits import Codes, Scratch
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
    4. Where the scales of blocks are codes, a DQ makes them of these codes. Those of a computed tensor are found in
       each run, by TensorRT's own operator, since ONNX has none.
    5. A bias that is corrected and has no codes is stored corrected, for nodes that work on codes.

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
        writer = _Writer(graph, ctx.plan, ctx.scratch)
        for name, sites in grouped.items():
            by_quant: dict[TensorQuant, list[Site]] = {}
            for site, quant in sites.items():
                if site.node not in dynamic:
                    by_quant.setdefault(quant, []).append(site)
            for quant, uses in by_quant.items():
                if quant.scale is None or quant.zero_point is None:
                    raise PassError("has no scale yet", where=f"tensor '{name}'", fix="run solve before lower")
                writer.write(name, quant, uses)
        for name in ctx.plan.shifts.keys() - grouped.keys():
            writer.correct(name)
        return PassResult(writer.written)


class _Writer:
    def __init__(self, graph: ir.Graph, plan: Plan, scratch: Scratch | None) -> None:
        self.graph, self.plan, self.scratch = graph, plan, scratch
        self.namer = ir.Namer(graph)
        self.tensors = ir.all_tensors(graph)
        self.nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        self.home = {node: inner for inner, node in ir.all_nodes(graph)}
        self.graphs = list(ir.all_graphs(graph))
        self.blocks: dict[ir.Tensor, tuple[ir.Tensor, np.ndarray]] = {}
        """Scales of blocks that are codes, with their own scale, by the tensor whose they are."""
        self.written = 0

    def correct(self, name: str) -> None:
        bias = self.tensors[name]
        for node in dict.fromkeys(bias.outputs):
            if node.name in self.plan.intended:
                corrected = ir.Constant(self.namer(f"{name}_corrected"), self.plan.shifted(name, bias.values))
                node.inputs = [corrected if read is bias else read for read in node.inputs]
                self.written += 1

    def write(self, name: str, quant: TensorQuant, uses: list[Site]) -> None:
        tensor = self.tensors[name]
        if ir.is_constant(tensor):
            codes: ir.Tensor = self.stored(tensor, quant)
            if quant.scheme.scaled_twice:
                assert quant.scale is not None
                scales, scale = microscaling.split(quant.scale)
                self.blocks[codes] = ir.Constant(self.namer(f"{name}_block_scales"), scales), np.asarray(scale)
        elif quant.scheme.scaled_twice:
            codes = self.quantized_by_block(tensor, quant, uses)
        else:
            codes = self.quantized(tensor, quant)
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
            codes: np.ndarray | ir.Computed = Codes(tensor.values, quant, change, self.scratch)
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

    def quantized_by_block(self, tensor: ir.Variable, quant: TensorQuant, uses: list[Site]) -> ir.Variable:
        granularity = quant.scheme.granularity
        assert isinstance(granularity, PerBlock) and quant.scale is not None
        source = self.measured(tensor, uses)
        shape = list(source.shape)
        codes = ir.Variable(self.namer(f"{tensor.name}_quantized"), np.dtype(quant.scheme.dtype), list(shape))
        shape[granularity.axis] //= granularity.size
        scales = ir.Variable(self.namer(f"{tensor.name}_block_scales"), np.dtype("float8_e4m3fn"), shape)
        self.blocks[codes] = scales, quant.scale
        node = ir.Node(
            "TRT_FP4DynamicQuantize",
            self.namer(f"{tensor.name}_DynamicQuantize"),
            {**_axis(quant), "scale_type": int(TensorProto.FLOAT8E4M3FN)},
            inputs=[source, ir.Constant(self.namer(f"{tensor.name}_scale"), quant.scale)],
            outputs=[codes, scales],
            domain="trt",
        )
        ir.home_of(tensor, self.graph).nodes.append(node)
        self.written += 1
        return codes

    def measured(self, tensor: ir.Variable, uses: list[Site]) -> ir.Variable:
        """The tensor with a last axis whose length is known: the builder must know how many blocks there are."""
        if isinstance(tensor.shape[-1], int):
            return tensor
        weight, quant = next((s, q) for s, q in self.plan.sites.items() if s.node == uses[0].node and s.index == 1)
        granularity = quant.scheme.granularity
        assert isinstance(granularity, PerBlock)
        length = self.tensors[weight.tensor].shape[granularity.axis]
        shape = [0] * (len(tensor.shape) - 1) + [length]
        result = ir.Variable(self.namer(f"{tensor.name}_measured"), tensor.dtype, [*tensor.shape[:-1], length])
        sizes = ir.Constant(self.namer(f"{tensor.name}_sizes"), np.array(shape, np.int64))
        node = ir.Node("Reshape", self.namer(f"{tensor.name}_Reshape"), inputs=[tensor, sizes], outputs=[result])
        ir.home_of(tensor, self.graph).nodes.append(node)
        return result

    def dequantized(
        self, name: str, codes: ir.Tensor, quant: TensorQuant, graph: ir.Graph, like: ir.Tensor
    ) -> ir.Variable:
        value = ir.Variable(self.namer(f"{name}_dequantized"), np.dtype(np.float32), like.shape)
        node = ir.Node(
            "DequantizeLinear",
            self.namer(f"{name}_DequantizeLinear"),
            _axis(quant),
            inputs=[codes, *(self.block_scale(name, codes, graph) or self.parameters(name, quant))],
            outputs=[value],
        )
        graph.nodes.append(node)
        self.written += 1
        return value

    def block_scale(self, name: str, codes: ir.Tensor, graph: ir.Graph) -> list[ir.Variable]:
        """The scales of its blocks where these are codes, made by a DQ of its own; else nothing."""
        if codes not in self.blocks:
            return []
        scales, scale = self.blocks[codes]
        value = ir.Variable(self.namer(f"{name}_block_scale"), np.dtype(np.float32), scales.shape)
        one = ir.Constant(self.namer(f"{name}_scale"), scale)
        node_name = self.namer(f"{name}_block_DequantizeLinear")
        graph.nodes.append(ir.Node("DequantizeLinear", node_name, inputs=[scales, one], outputs=[value]))
        self.written += 1
        return [value]

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
