"""Pooling and convolving a sequence channel by channel, as a picture one pixel high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32, rank
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""Since it Squeeze and Unsqueeze read their axes."""
_HEIGHT = np.array([2])
_SPATIAL = {"kernel_shape": [1], "strides": [1], "dilations": [1], "pads": [0]}
"""What each attribute says of an axis of one pixel; paddings say it of both ends."""


@dataclass(frozen=True)
class SequenceAsImage(Pass):
    """AveragePool, MaxPool and Conv of float32 ``[N, C, L]`` become those of ``[N, C, 1, L]``, between Unsqueeze and
    Squeeze.

    ONNX Runtime 1.32 blocks the channels of pictures alone. On one thread, of 64 × 400 values a mean of 3 takes 100 us
    as a sequence and 16 as a picture, a maximum 41 and 13; 256 filters of 31 taps on 400 values 435 and 116.

    1. AveragePool and MaxPool without indices.
    2. Conv with one constant filter a channel.

    Left alone: convolutions over channels, which gain little; padding that is found as it runs (``auto_pad``); operator
    sets before 13; what reads codes.
    """

    name: ClassVar[str] = "sequence-as-image"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < OLDEST_OPSET:
            return PassResult()
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if _is_one(node):
                _widen(inner, node, namer)
                rewrites += 1
        return PassResult(rewrites)


def _is_one(node: ir.Node) -> bool:
    if node.domain or node.op not in ("AveragePool", "MaxPool", "Conv") or len(node.outputs) != 1:
        return False
    x = node.inputs[0]
    source = ir.producer(x)
    if rank(x) != 3 or not is_float32(x) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        return False
    if source is not None and source.op == "DequantizeLinear":
        return False
    if node.op != "Conv":
        return not node.attrs.get("storage_order", 0)
    weight = node.inputs[1]
    return (
        ir.is_constant(weight)
        and len(weight.shape) == 3
        and weight.shape[1] == 1
        and weight.shape[0] == node.attrs.get("group", 1) > 1
    )


def _widen(graph: ir.Graph, node: ir.Node, namer: ir.Namer) -> None:
    source, result = node.inputs[0], node.outputs[0]
    height = ir.Constant(namer(f"{node.name}_height"), _HEIGHT)
    picture, made = (ir.Variable(namer(f"{tensor.name}_picture"), tensor.dtype) for tensor in (source, result))
    node.inputs[0], node.outputs[0] = picture, made
    if node.op == "Conv":
        weight = node.inputs[1]
        node.inputs[1] = ir.Constant(namer(f"{weight.name}_picture"), np.asarray(weight.values)[:, :, None])
    for name, one in _SPATIAL.items():
        given = node.attrs.get(name)
        if given is not None:
            half = len(given) // 2
            node.attrs[name] = [*one, *given[:half], *one, *given[half:]] if name == "pads" else [*one, *given]
    for op, before, after in (("Unsqueeze", source, picture), ("Squeeze", made, result)):
        name = namer(f"{node.name}_{op}")
        graph.nodes.append(ir.Node(op, name, inputs=[before, height], outputs=[after]))
