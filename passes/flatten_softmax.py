"""Softmax over an axis with several behind it, on a tensor in which these are one."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""Before, Softmax was over all axes from its own on."""


@dataclass(frozen=True)
class FlattenSoftmax(Pass):
    """``Softmax(x)`` over an axis with two or more behind it becomes ``Reshape(Softmax(Reshape(x)))``, where these are
    one axis.

    ONNX Runtime 1.32 exchanges the axis with the last one, computes, and exchanges them again. Of neighbours it does
    so in no time, of others element by element: over the channels of a picture of 64 × 56 × 56 values it takes 7.6 ns
    a value, and 0.9 where height and width are one axis. Heads of segmentation end in it, and those of YOLO, where what
    is before it is in float; behind convolutions in codes the channels are last already.

    1. Softmax and LogSoftmax over any axis but the last two.
    2. Sizes that are known make a constant shape; others are asked for when the model runs.

    Left alone: sizes behind the axis that are all 1; operator sets before 13.
    """

    name: ClassVar[str] = "flatten-softmax"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < OLDEST_OPSET:
            return PassResult()
        namer, rewrites = ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            shape = node.inputs[0].shape if node.op in ("Softmax", "LogSoftmax") and not node.domain else None
            if shape is None:
                continue
            axis = int(node.attrs.get("axis", -1)) % len(shape)
            behind = shape[axis + 1 :]
            if len(behind) < 2 or all(size == 1 for size in behind) or 0 in shape:
                continue
            _flatten(inner, node, axis, shape, namer)
            rewrites += 1
        return PassResult(rewrites)


def _flatten(graph: ir.Graph, node: ir.Node, axis: int, shape: Sequence[int | str | None], namer: ir.Namer) -> None:
    source, result = node.inputs[0], node.outputs[0]
    flat, computed = (ir.Variable(namer(f"{node.name}_{hint}"), source.dtype) for hint in ("flat", "computed"))
    node.inputs[0], node.outputs[0], node.attrs["axis"] = flat, computed, axis

    def made(op: str, hint: str, inputs: list[ir.Tensor], length: int, **attributes: int) -> ir.Variable:
        sizes = ir.Variable(namer(f"{node.name}_{hint}"), np.dtype(np.int64), [length])
        name = namer(f"{node.name}_{hint}_{op}")
        graph.nodes.append(ir.Node(op, name, OrderedDict(attributes), inputs=inputs, outputs=[sizes]))
        return sizes

    def constant(hint: str, values: Sequence[int]) -> ir.Constant:
        return ir.Constant(namer(f"{node.name}_{hint}"), np.array(values, np.int64))

    def part(hint: str, begin: int, end: int) -> ir.Variable:
        limits = [constant(f"{hint}_begin", [begin]), constant(f"{hint}_end", [end])]
        return made("Slice", hint, [sizes, *limits], end - begin)

    known = [size for size in shape if isinstance(size, int)]
    if len(known) == len(shape):
        sizes: ir.Tensor = constant("sizes", known)
        flat_sizes: ir.Tensor = constant("flat_sizes", [*known[: axis + 1], math.prod(known[axis + 1 :])])
    else:
        # Not with -1 for what is behind the axis: of an empty batch that says nothing.
        sizes = made("Shape", "sizes", [source], len(shape))
        behind = made("ReduceProd", "behind", [part("sizes_behind", axis + 1, len(shape))], 1, keepdims=1)
        flat_sizes = made("Concat", "flat_sizes", [part("sizes_before", 0, axis + 1), behind], axis + 2, axis=0)
    for hint, inputs, output in (("Flatten", [source, flat_sizes], flat), ("Unflatten", [computed, sizes], result)):
        graph.nodes.append(ir.Node("Reshape", namer(f"{node.name}_{hint}"), inputs=inputs, outputs=[output]))
