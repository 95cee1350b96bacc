"""Cuts a graph into pieces that run one after the other, so that a part of a model can be run again on its own."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from qcompiler.ir.graph import Graph, Node, Tensor, Variable, clone, is_constant, remove_dead, sort, subgraphs

_FED = "fiub"
"""Kinds of numpy dtypes that can be handed from one session to the next."""


def segments(graph: Graph, count: int, kept: Sequence[str] = ()) -> list[Graph]:
    """The graph as at most ``count`` graphs: what one returns, later ones may take as inputs of the same name.

    Cuts are made where little is alive, near even shares of the nodes. A segment returns what later ones read, the
    graph's outputs and the ``kept`` tensors that it computes; nodes of the outermost graph are never taken apart.
    """
    graph = clone(graph)
    sort(graph)
    places = _cuts(graph, count, _last_uses(graph))
    returned = {tensor.name for tensor in graph.outputs} | set(kept)
    return [piece for piece in _pieces(graph, places, returned) if piece.outputs]


def opening(graph: Graph, count: int) -> Graph:
    """The first ``count`` nodes in the order of computation, as a graph that returns what the others and the caller
    read of it."""
    graph = clone(graph)
    sort(graph)
    return _pieces(graph, [count], {tensor.name for tensor in graph.outputs})[0]


def depths(graph: Graph, products: Collection[str]) -> dict[str, int]:
    """Of each node of the outermost graph, how many of the named ones lie one behind another on the way to it, itself
    included: the largest number over all ways."""
    graph = clone(graph)
    sort(graph)
    found: dict[str, int] = {}
    reached: dict[Tensor, int] = {}
    for node in graph.nodes:
        depth = max((reached.get(tensor, 0) for tensor in outer_reads(node)), default=0) + (node.name in products)
        found[node.name] = depth
        reached |= dict.fromkeys(node.outputs, depth)
    return found


def stages(graph: Graph, of: Mapping[str, int]) -> list[Graph] | None:
    """The graph as one piece for each of the ``depths``, each of which returns what later ones read and nothing else;
    None where that cannot be handed from one session to the next."""
    graph = clone(graph)
    sort(graph)
    graph.nodes.sort(key=lambda node: of[node.name])
    numbers = [of[node.name] for node in graph.nodes]
    pieces = _pieces(graph, [bisect_left(numbers, depth) for depth in range(1, max(numbers, default=0) + 1)], ())
    if not all(math.isfinite(_size(tensor)) for piece in pieces for tensor in piece.outputs):
        return None
    for piece in pieces:
        remove_dead(piece)
    return pieces


def _pieces(graph: Graph, places: Sequence[int], returned: Collection[str]) -> list[Graph]:
    """The sorted graph cut before these places of its nodes; each piece also returns what is ``returned`` of it."""
    last_use = _last_uses(graph)
    found: list[Graph] = []
    for first, last in zip([0, *places], [*places, len(graph.nodes)]):
        nodes = graph.nodes[first:last]
        made = {tensor: None for node in nodes for tensor in node.outputs if tensor.name}
        own = set(made)
        read = dict.fromkeys(t for node in nodes for t in outer_reads(node) if not is_constant(t) and t not in own)
        piece = Graph(nodes=nodes, name=graph.name, opset=graph.opset, ir_version=graph.ir_version)
        piece.domains, piece.sources = dict(graph.domains), graph.sources
        piece.inputs = list(read)
        piece.outputs = [t for t in made if t.name in returned or last_use.get(t, -1) >= last]
        found.append(clone(piece))
    return found


def _cuts(graph: Graph, count: int, last_use: dict[Tensor, int]) -> list[int]:
    """Positions in the order of nodes before which to cut."""
    total = len(graph.nodes)
    first_use = {tensor: index for index, node in enumerate(graph.nodes) for tensor in node.outputs if tensor.name}
    changes = np.zeros(total + 1)
    for tensor, index in first_use.items():
        end = last_use.get(tensor, index)
        changes[index + 1 : end + 1] += _size(tensor)
    places: list[int] = []
    half = total / (2 * count)
    for share in range(1, count):
        low = max(math.ceil(share * total / count - half), places[-1] + 1 if places else 1)
        high = min(math.floor(share * total / count + half), total - 1)
        near = [index for index in range(low, high + 1) if np.isfinite(changes[index])]
        if near:
            places.append(min(near, key=lambda index: (changes[index], abs(index - share * total / count))))
    return places


def _size(tensor: Tensor) -> float:
    """Elements of the tensor, an unknown length counting as 32; infinite where it cannot be handed over."""
    plain = isinstance(tensor, Variable) and tensor.type_proto is None and tensor.dtype is not None
    if not plain or np.dtype(tensor.dtype).kind not in _FED:
        return math.inf
    return math.prod(length if isinstance(length, int) else 32 for length in tensor.shape or (32, 32, 32))


def _last_uses(graph: Graph) -> dict[Tensor, int]:
    return {tensor: index for index, node in enumerate(graph.nodes) for tensor in outer_reads(node)}


def outer_reads(node: Node) -> Iterator[Tensor]:
    """The tensors that a node, or a node in one of its subgraphs, takes from outside."""
    yield from (tensor for tensor in node.inputs if tensor.name)
    for inner in subgraphs(node):
        own = set(inner.inputs)
        own.update(tensor for child in inner.nodes for tensor in child.outputs)
        for child in inner.nodes:
            yield from (tensor for tensor in outer_reads(child) if tensor not in own)
        yield from (tensor for tensor in inner.outputs if tensor not in own)
