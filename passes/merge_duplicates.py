"""Keeps one of what is there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import bypass, frozen, is_random
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_BLOCK = 1 << 24


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Merges, in the whole model,

    1. weights of the same type, shape and bytes (0.0 and -0.0 differ, and NaNs with other bits);
    2. nodes with the same operator, attributes and inputs, in one graph or in a graph and a body inside it, such as the
       Shape of one tensor that exporters take again and again.

    Refused: a node one of whose outputs is returned when the one it would merge into cannot be returned in its place.
    Left alone: random operators, operators of other domains (they may keep state), nodes with bodies, and
    DequantizeLinear, of which targets want one for each reader.
    """

    name: ClassVar[str] = "merge-duplicates"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites = _merge_weights(graph)
        refused: list[Diagnostic] = []
        rewrites += _merge_nodes(graph, graph, {}, refused)
        ir.remove_dead(graph)
        return PassResult(rewrites, tuple(refused))


def _merge_weights(graph: ir.Graph) -> int:
    """Case 1."""
    returned = ir.output_tensors(graph)
    alike: dict[Hashable, list[ir.Constant]] = {}
    for tensor in ir.all_tensors(graph).values():
        # A graph must itself make what it returns.
        if isinstance(tensor, ir.Constant) and tensor not in returned:
            alike.setdefault((str(tensor.values.dtype), tensor.values.shape), []).append(tensor)
    merged = 0
    for group in alike.values():
        if len(group) < 2:  # nobody to compare with: large weights are not read for nothing
            continue
        kept: dict[bytes | int | tuple[Any, ...], ir.Constant] = {}
        for tensor in group:
            first = kept.setdefault(_content(tensor.values), tensor)
            if first is not tensor:
                ir.replace_uses(tensor, first, graph)
                merged += 1
    return merged


def _content(values: np.ndarray) -> bytes | tuple[Any, ...]:
    if values.dtype == object:
        return tuple(values.reshape(-1).tolist())
    digest = hashlib.blake2b(digest_size=32)
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _BLOCK):
        digest.update(flat[start : start + _BLOCK].data)
    return digest.digest()


def _merge_nodes(
    inner: ir.Graph, graph: ir.Graph, outer: dict[Hashable, ir.Node], refused: list[Diagnostic]
) -> int:
    """Case 2, for one graph and then for the bodies in it, which see what it computes."""
    merged = 0
    seen = dict(outer)
    for node in list(inner.nodes):
        if node.domain or node.op == "DequantizeLinear" or ir.subgraphs(node) or is_random(node) or not node.inputs:
            continue
        first = seen.setdefault(_identity(node), node)
        if first is node:
            continue
        if _replace(node, first, inner, graph):
            merged += 1
        else:
            # Its outputs' names are the user's, or its body must compute what it returns.
            why = f"is the same as '{first.name}', but its result is returned"
            refused.append(Diagnostic(node.name, why, "refused"))
    for node in inner.nodes:
        for body in ir.subgraphs(node):
            merged += _merge_nodes(body, graph, seen, refused)
    return merged


def _identity(node: ir.Node) -> Hashable:
    attributes = tuple(sorted((key, frozen(value)) for key, value in node.attrs.items()))
    inputs = tuple(tensor if tensor.name else None for tensor in node.inputs)
    return (node.op, attributes, inputs, tuple(bool(tensor.name) for tensor in node.outputs))


def _replace(node: ir.Node, first: ir.Node, inner: ir.Graph, graph: ir.Graph) -> bool:
    """Makes the readers of all outputs of ``node`` read those of ``first``; only if all can."""
    returned = ir.output_tensors(graph)
    if len(node.outputs) > 1 and any(tensor in returned for tensor in node.outputs):
        return False
    return all(bypass(node, new, inner, graph, index) for index, new in enumerate(first.outputs) if new.name)
