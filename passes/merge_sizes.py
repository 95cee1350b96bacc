"""Sizes that shape arithmetic asks of one tensor after another are asked of the first that has them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._edit import bypass
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class MergeSizes(Pass):
    """Of the nodes that compute the same integers, of the same type and shape, from sizes of tensors, each of them a
    number or a dimension known by identity, the first is kept, at every depth: ``Gather(Shape(x), 1)`` of each layer's
    x, where all are as long as the model's input.

    Exporters ask every layer anew how large its input is, which none of it changes, and ONNX Runtime runs each of those
    nodes by itself.

    Left alone: what a graph returns beside another one of the same; sizes that are numbers, which fold.
    """

    name: ClassVar[str] = "merge-sizes"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites = _merge(graph, graph, ShapeValues(graph), {})
        ir.remove_dead(graph)
        return PassResult(rewrites)


def _merge(inner: ir.Graph, graph: ir.Graph, sizes: ShapeValues, outer: dict[Hashable, ir.Tensor]) -> int:
    """In one graph, and in the bodies in it, which see what was computed before them."""
    seen, merged = dict(outer), 0
    for node in list(inner.nodes):
        for body in ir.subgraphs(node):
            merged += _merge(body, graph, sizes, seen)
        made = node.outputs[0] if len(node.outputs) == 1 else None
        value = sizes.value(made)
        if made is None or made.dtype is None or value is None:
            continue
        known = tuple(value.reshape(-1).tolist())
        if None in known:
            continue
        first = seen.setdefault((str(made.dtype), value.shape, known), made)
        if first is not made:
            merged += bypass(node, first, inner, graph)
    return merged
