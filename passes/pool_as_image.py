"""Pooling over a whole sequence is written as pooling over a picture one pixel wide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import rank
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_POOLS = ("GlobalMaxPool", "GlobalAveragePool")
_WIDTH = 3
_OPSET = 13
"""Since it Squeeze and Unsqueeze read their axes."""


@dataclass(frozen=True)
class PoolAsImage(Pass):
    """``GlobalMaxPool(x)`` of [N, C, L] becomes ``Squeeze(GlobalMaxPool(Unsqueeze(x, 3)), 3)``, and so does
    GlobalAveragePool; at every depth.

    TensorRT convolves sequences as pictures one pixel wide. Of a convolution in 8 bits, its activation and a pooling of
    three axes it makes three kernels, as it returns to three axes behind the activation: one that computes the
    activation, one that transposes what that wrote, and one that pools. Pooled with four axes it is one kernel
    (TensorRT-RTX 1.7, convolutions of 256 to 512 channels, with Relu, Sigmoid and Gelu).

    Left alone: opsets before 13; inputs of another or an unknown number of axes; reductions (ReduceMax, ReduceMean),
    which take one kernel more with four axes where there are few channels.
    """

    name: ClassVar[str] = "pool-as-image"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < _OPSET:
            return PassResult(0)
        namer = ir.Namer(graph)
        found = [
            (inner, node)
            for inner, node in ir.all_nodes(graph)
            if node.op in _POOLS and not node.domain and rank(node.inputs[0]) == _WIDTH
        ]
        for inner, node in found:
            source, result = node.inputs[0], node.outputs[0]
            axes = ir.Constant(namer(f"{node.name}_width"), np.array([_WIDTH], np.int64))
            image = ir.Variable(namer(f"{source.name}_image"), source.dtype, [*source.shape, 1])
            pooled = ir.Variable(namer(f"{result.name}_image"), result.dtype, [*source.shape[:2], 1, 1])
            node.inputs[0], node.outputs[0] = image, pooled
            widened = ir.Node("Unsqueeze", namer(f"{node.name}_Unsqueeze"), inputs=[source, axes], outputs=[image])
            narrowed = ir.Node("Squeeze", namer(f"{node.name}_Squeeze"), inputs=[pooled, axes], outputs=[result])
            inner.nodes += [widened, narrowed]
        return PassResult(len(found))
