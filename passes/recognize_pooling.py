"""The mean of whole pictures, as PyTorch's exporter writes it, becomes a pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import integers, rank
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_FEWEST_AXES = 4
_KINDS = ("float32", "float16")
"""What GlobalAveragePool takes; ReduceMean takes whole numbers too."""


@dataclass(frozen=True)
class RecognizePooling(Pass):
    """``ReduceMean(x, axes=[2, 3])`` of ``[N, C, H, W]`` becomes ``GlobalAveragePool(x)``, and where it drops the axes
    ``Flatten(GlobalAveragePool(x))``; so does that of more spatial axes; at every depth.

    It is what ``adaptive_avg_pool2d(x, 1)`` and ``x.mean((2, 3))`` are exported as. ONNX Runtime pools in 8 bits and in
    the blocked layout of its convolutions, but has no such mean: codes are made floats for it, or pictures reordered.

    Left alone: inputs of fewer than four axes, of which the last may be features and not a sequence, of an unknown
    number, or of types that GlobalAveragePool does not take; axes that are computed; what a normalization takes its
    mean and its variance by: means that are subtracted from what they are of, and those of squares.
    """

    name: ClassVar[str] = "recognize-pooling"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)
        rewrites, refused = 0, []
        for inner, node in list(ir.all_nodes(graph)):
            if node.op != "ReduceMean" or node.domain or not _over_pictures(node):
                continue
            if _of_a_normalization(node):
                refused.append(Diagnostic(node.name, "the mean is part of a normalization", "refused"))
                continue
            _pool(node, inner, namer)
            rewrites += 1
        return PassResult(rewrites, tuple(refused))


def _over_pictures(node: ir.Node) -> bool:
    source = node.inputs[0]
    axes, count = integers(node, "axes", 1), rank(source)
    if axes is None or count is None or count < _FEWEST_AXES or 0 in source.shape:
        return False
    if source.dtype is None or np.dtype(source.dtype).name not in _KINDS:
        return False
    return sorted(axis % count for axis in axes) == list(range(2, count))


def _of_a_normalization(node: ir.Node) -> bool:
    source, mean = node.inputs[0], node.outputs[0]
    squared = ir.producer(source)
    if squared is not None and (
        squared.op == "Pow" or (squared.op == "Mul" and squared.inputs[0] is squared.inputs[1])
    ):
        return True
    return any(reader.op == "Sub" and source in reader.inputs for reader in mean.outputs)


def _pool(node: ir.Node, inner: ir.Graph, namer: ir.Namer) -> None:
    source, mean = node.inputs[0], node.outputs[0]
    keeps = bool(node.attrs.get("keepdims", 1))
    node.op, node.attrs, node.inputs = "GlobalAveragePool", {}, [source]
    if keeps:
        return
    shape = None if mean.shape is None else [*mean.shape, *[1] * (len(source.shape) - 2)]
    pooled = ir.Variable(namer(f"{mean.name}_pooled"), mean.dtype, shape)
    node.outputs = [pooled]
    inner.nodes.append(ir.Node("Flatten", namer(f"{node.name}_Flatten"), {"axis": 1}, inputs=[pooled], outputs=[mean]))
