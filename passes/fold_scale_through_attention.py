"""Factors of channels behind attention cost nothing: they are factors of what makes its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant
from qcompiler.passes._walk import Walk
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_HEADS_FIRST = [0, 2, 1, 3]


@dataclass(frozen=True)
class FoldScaleThroughAttention(Pass):
    """``concat(p · v) · f``, with a positive number in ``f`` for each channel, becomes ``concat(p · (v · f))``, and
    with ``v = x · W + b`` the factors go into the columns of W and into b: each head's result is a sum over positions
    (Vaswani et al. 2017, equation 1), which leaves channels apart.

    What smooths the activations of the product behind attention stands there. W is a constant, or in codes with a scale
    for each column, which alone changes.

    Left alone: values that more than this attention reads, or heads that share them; results that others read too, or
    that are returned.
    """

    name: ClassVar[str] = "fold-scale-through-attention"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, returned, rewrites = ir.Namer(graph), ir.output_tensors(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            factor = _factor(node)
            if factor is None:
                continue
            walk = Walk(node.inputs[0], returned)
            product, bias = _values_of(walk, factor.size)
            if product is None or not all(one in inner.nodes for one in walk.passed):
                continue
            fresh = _scaled(product, bias, factor, namer)
            if fresh is None:
                continue
            result = node.outputs[0]
            ir.detach(node)
            inner.nodes.remove(node)
            walk.passed[0].outputs[0] = result
            inner.nodes.extend(fresh)
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _factor(node: ir.Node) -> np.ndarray | None:
    """The positive factors ``[K]`` that the node multiplies its first input by."""
    values = constant(node.inputs[1]) if node.op == "Mul" and not node.domain and len(node.inputs) == 2 else None
    if values is None or values.dtype != np.float32 or values.ndim != 1 or not np.all(values > 0.0):
        return None
    return values


def _values_of(walk: Walk, channels: int) -> tuple[ir.Node | None, ir.Constant | None]:
    """The product that makes the values of the attention that the walk starts behind, and the bias behind it."""
    joined = walk.up(["Reshape"])
    back = walk.up(["Transpose"])
    attended = walk.up(["MatMul"], 1)
    heads = walk.up(["Transpose"])
    split = walk.up(["Reshape"])
    if joined is None or back is None or attended is None or heads is None or split is None:
        return None, None
    if [list(one.attrs.get("perm", ())) for one in (back, heads)] != [_HEADS_FIRST] * 2:
        return None, None
    shapes = [constant(one.inputs[1]) for one in (joined, split)]
    if any(shape is None for shape in shapes):
        return None, None
    whole, parts = (shape.tolist() for shape in shapes if shape is not None)
    if len(whole) != 3 or whole[2] not in (-1, channels) or len(parts) != 4 or parts[3] < 1 or channels % parts[3]:
        return None, None
    if parts[2] not in (-1, channels // parts[3]):
        return None, None
    bias: ir.Constant | None = None
    start = walk.tensor
    if start is not None and (add := ir.producer(start)) is not None and add.op == "Add":
        known = [isinstance(tensor, ir.Constant) for tensor in add.inputs]
        if known.count(True) != 1:
            return None, None
        place = known.index(True)
        shift = add.inputs[place]
        if walk.up(["Add"], 1 - place) is None or not isinstance(shift, ir.Constant) or shift.shape != (channels,):
            return None, None
        bias = shift
    return walk.up(["MatMul"]), bias


def _scaled(product: ir.Node, bias: ir.Constant | None, factor: np.ndarray, namer: ir.Namer) -> list[ir.Node] | None:
    """Multiplies the product's columns, and the bias behind it, by the factors. The nodes that this takes; None, and
    nothing has changed, where the columns are others."""
    weight, fresh = product.inputs[1], list[ir.Node]()
    if isinstance(weight, ir.Constant):
        if weight.values.dtype != np.float32 or weight.shape[1:] != factor.shape:
            return None
        product.inputs[1] = ir.Constant(namer(f"{weight.name}_scaled"), weight.values * factor)
    else:
        made = ir.producer(weight)
        if made is None or made.op != "DequantizeLinear" or made.domain or made.attrs.get("block_size", 0):
            return None
        codes, step = made.inputs[0], constant(made.inputs[1])
        if step is None or not isinstance(codes, ir.Constant) or codes.shape[1:] != factor.shape:
            return None
        if step.shape != factor.shape or made.attrs.get("axis", 1) not in (1, -1):
            return None
        scale = ir.Constant(namer(f"{made.inputs[1].name}_scaled"), step * factor)
        result = ir.Variable(namer(f"{weight.name}_scaled"), weight.dtype, weight.shape)
        inputs = [codes, scale, *made.inputs[2:]]
        fresh.append(ir.Node(made.op, namer(f"{made.name}_scaled"), dict(made.attrs), inputs=inputs, outputs=[result]))
        product.inputs[1] = result
    if bias is not None:
        (add,) = product.outputs[0].outputs
        place = next(index for index, tensor in enumerate(add.inputs) if tensor is bias)
        add.inputs[place] = ir.Constant(namer(f"{bias.name}_scaled"), bias.values * factor)
    return fresh
