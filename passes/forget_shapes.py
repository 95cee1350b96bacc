"""Leaves the shapes inside the graph to the runtime, which infers them itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class ForgetShapes(Pass):
    """Drops type and shape of every tensor that is neither input nor output of a graph.

    What the compiler knows beyond the runtime's own inference would change which fusions the runtime makes, and not to
    the better: with equal symbolic shapes ONNX Runtime 1.32 makes SkipLayerNormalization out of Add and
    LayerNormalization, 127 us instead of 25 on 64 × 384 values, and Gemm out of MatMul and Add before it looks at Q/DQ.

    Left alone: results of operators that ONNX does not define, whose types nobody could infer.
    """

    name: ClassVar[str] = "forget-shapes"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites = 0
        for inner in ir.all_graphs(graph):
            kept = {*inner.inputs, *inner.outputs}
            for node in inner.nodes:
                if node.domain:
                    continue
                for tensor in node.outputs:
                    if tensor not in kept and tensor.type_proto is None and tensor.dtype is not None:
                        tensor.dtype, tensor.shape = None, None
                        rewrites += 1
        return PassResult(rewrites)
