"""A model with TensorRT's own operators, written with ONNX's: what they compute can then be seen without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from onnx import TensorProto

from qcompiler import ir, microscaling

DOMAIN = "trt"
DYNAMIC = "TRT_FP4DynamicQuantize"
_FP4 = np.dtype(ml_dtypes.float4_e2m1fn)


def runnable(graph: ir.Graph) -> ir.Graph:
    """The graph, or where it has FP4 codes, a copy in which Casts and float32 round as ``microscaling`` says. Which
    operators a runtime lacks otherwise is for it to say."""
    if not any(node.domain == DOMAIN and node.op == DYNAMIC for _, node in ir.all_nodes(graph)):
        return graph
    copy = ir.clone(graph)
    namer = ir.Namer(copy)
    for inner, node in list(ir.all_nodes(copy)):
        if node.op == "DequantizeLinear" and ir.is_constant(node.inputs[0]) and node.inputs[0].values.dtype == _FP4:
            _known(copy, node, namer)
        elif node.domain == DOMAIN and node.op == DYNAMIC:
            _Speller(inner, node, namer).spell()
    ir.remove_dead(copy)
    ir.sort(copy)
    return copy


def _known(graph: ir.Graph, node: ir.Node, namer: ir.Namer) -> None:
    """A weight's values in place of the DQ of its codes."""
    codes, scales = node.inputs[0].values, ir.producer(node.inputs[1])
    assert scales is not None
    block, scale = (tensor.values for tensor in scales.inputs[:2])
    axis = int(node.attrs["axis"])
    steps = np.repeat(block.astype(np.float32) * scale.astype(np.float32), int(node.attrs["block_size"]), axis=axis)
    values = (codes.astype(np.float32) * steps).astype(scale.dtype)
    ir.replace_uses(node.outputs[0], ir.Constant(namer(f"{node.inputs[0].name}_values"), values), graph)


class _Speller:
    """Rounds by block, in float32, what a node would quantize. ``graph`` holds the node."""

    def __init__(self, graph: ir.Graph, node: ir.Node, namer: ir.Namer) -> None:
        self.graph, self.node, self.namer = graph, node, namer

    def spell(self) -> None:
        source, scale = self.node.inputs
        block = int(self.node.attrs["block_size"])
        tensor = np.float32(scale.values.reshape(-1)[0])
        x = self.cast(source, TensorProto.FLOAT)
        rows = self.add("Reshape", [x, self.constant([-1, block])])
        reach = self.add("ReduceMax", [self.add("Abs", [rows]), self.constant([-1])], keepdims=1)
        exact = self.add("Div", [reach, self.constant(np.float32(microscaling.LARGEST_CODE) * tensor)])
        ends = (microscaling.SMALLEST_SCALE, microscaling.LARGEST_SCALE)
        inside = self.add("Clip", [exact, *map(self.constant, map(np.float32, ends))])
        codes = self.cast(inside, TensorProto.FLOAT8E4M3FN)
        steps = self.add("Mul", [self.cast(codes, TensorProto.FLOAT), self.constant(tensor)])
        values = self.add("Mul", [self.to_e2m1(self.add("Div", [rows, steps])), steps])
        shaped = self.add("Reshape", [values, self.add("Shape", [x])])
        result = self.cast(shaped, TensorProto.FLOAT16 if scale.values.dtype == np.float16 else TensorProto.FLOAT)
        for reader in list(self.node.outputs[0].outputs):
            ir.replace_uses(reader.outputs[0], result, self.graph)

    def to_e2m1(self, x: ir.Variable) -> ir.Variable:
        """float32 to the nearest E2M1 number, to the even one of two: the step is 1/2 below 2, 1 below 4, 2 up to 6."""
        size = self.add("Abs", [x])
        found = self.steps_of(size, 2.0)
        for start, step in ((2.0, 1.0), (4.0, 0.5)):
            below = self.add("Less", [size, self.constant(np.float32(start))])
            found = self.add("Where", [below, found, self.steps_of(size, step)])
        largest = self.constant(np.float32(microscaling.LARGEST_CODE))
        return self.add("Mul", [self.add("Min", [found, largest]), self.add("Sign", [x])])

    def steps_of(self, size: ir.Variable, density: float) -> ir.Variable:
        factor = self.constant(np.float32(density))
        return self.add("Div", [self.add("Round", [self.add("Mul", [size, factor])]), factor])

    def cast(self, tensor: ir.Tensor, to: int) -> ir.Variable:
        return self.add("Cast", [tensor], to=int(to))

    def constant(self, values: object) -> ir.Constant:
        return ir.Constant(self.namer(f"{self.node.name}_constant"), np.asarray(values))

    def add(self, op: str, inputs: Sequence[ir.Tensor], **attributes: int) -> ir.Variable:
        result = ir.Variable(self.namer(f"{self.node.name}_{op}"))
        node = ir.Node(op, self.namer(f"{self.node.name}_{op}_node"), attributes, inputs=list(inputs), outputs=[result])
        self.graph.nodes.append(node)
        return result
