"""The graph: graphsurgeon's classes, compared by identity, with what an ONNX file holds beside its nodes.

Conventions every pass can rely on after ``load`` and after every pass:

* every node has a name, and node names and tensor names are unique in the whole model, subgraphs included;
* weights are ``Constant`` tensors whose arrays are read-only (often memory maps): assign a new array, never write;
* a tensor of an outer graph that a subgraph captures is the same object inside, so ``tensor.outputs`` lists the
  consumers at every depth;
* a subgraph is an attribute value of its node (``Graph``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from qcompiler.errors import ModelError


class Node(gs.Node):
    """A graphsurgeon node that is equal only to itself, hence hashable."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Variable(gs.Variable):
    """A computed tensor. ``dtype`` is a numpy dtype or None, ``shape`` a list of int, str (symbol) or None, or None.

    ``type_proto`` keeps the type of what is no plain tensor (sequence, optional, sparse); it is None otherwise.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(
        self, name: str, dtype: Any = None, shape: Any = None, type_proto: onnx.TypeProto | None = None
    ) -> None:
        super().__init__(name, dtype=dtype, shape=shape)
        self.type_proto = type_proto

    def to_constant(self, values: np.ndarray, *args: Any, **kwargs: Any) -> Constant:
        super().to_constant(values, *args, **kwargs)
        self.__class__ = Constant
        return self


class Computed(LazyValues):
    """Values of a constant that ``make`` computes each time they are asked for; nobody keeps them. A model with more
    weights than memory is written with one of them there at a time."""

    def __init__(self, shape: Sequence[int], dtype: Any, make: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self.make = tuple(shape), np.dtype(dtype), make
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> np.ndarray:
        values = self.make().view()
        values.flags.writeable = False
        return values


class Constant(gs.Constant):
    """A weight or other value known before the model runs; ``values`` is a read-only array. ``shape``, ``dtype`` and
    ``nbytes`` are known without it; ``held`` is the array, or what computes it."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def values(self) -> np.ndarray:
        return self.held.load() if isinstance(self.held, Computed) else self.held

    @values.setter
    def values(self, values: np.ndarray | Computed) -> None:
        self._values = values

    @property
    def held(self) -> np.ndarray | Computed:
        return self._values

    @property
    def nbytes(self) -> int:
        """What the values take in a file: two of four bits share a byte."""
        halves = self.dtype.name in ("int4", "uint4", "float4_e2m1fn")
        return -(-self.held.nbytes // 2) if halves else self.held.nbytes

    def to_variable(self, *args: Any, **kwargs: Any) -> Variable:
        super().to_variable(*args, **kwargs)
        self.__class__ = Variable
        self.type_proto = None
        return self


class Graph(gs.Graph):
    """A graphsurgeon graph plus the parts of an ONNX model that graphsurgeon leaves out.

    ``domains`` maps the other operator domains to their versions, ``metadata`` holds the model's key-value pairs and
    ``sources`` the files that the arrays may be mapped from (never to be overwritten). Only the outermost graph's
    values count.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.domains: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.model_version = 0
        self.model_domain = ""
        self.model_doc = ""
        self.sources: tuple[Path, ...] = ()


Tensor = Variable | Constant


_PLAIN = frozenset((int, float, str, bytes, np.ndarray))


def subgraphs(node: gs.Node) -> list[Graph]:
    """The graphs among a node's attributes (bodies of If, Loop, Scan), not their own subgraphs."""
    found: list[Graph] = []
    for value in node.attrs.values():
        if type(value) in _PLAIN:  # of nearly every node all are, and this is asked of every node time and again
            continue
        if isinstance(value, gs.Graph):
            found.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):  # all of one kind
            found.extend(value)
    return found


def all_graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and every graph nested in it, outer before inner."""
    yield graph
    for node in graph.nodes:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Every node at every depth with the graph that holds it."""
    for inner in all_graphs(graph):
        for node in inner.nodes:
            yield inner, node


def all_tensors(graph: Graph) -> dict[str, Tensor]:
    """Every named tensor at every depth, by name."""
    tensors: dict[str, Tensor] = {}
    for inner in all_graphs(graph):
        for tensor in (*inner.inputs, *inner.outputs):
            tensors.setdefault(tensor.name, tensor)
        for node in inner.nodes:
            for tensor in (*node.inputs, *node.outputs):
                if tensor.name:
                    tensors.setdefault(tensor.name, tensor)
    return tensors


def output_tensors(graph: Graph) -> set[Tensor]:
    """The tensors that some graph, outer or nested, returns."""
    return {tensor for inner in all_graphs(graph) for tensor in inner.outputs}


def producer(tensor: Tensor) -> Node | None:
    """The node that computes the tensor; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def is_constant(tensor: Tensor) -> bool:
    return isinstance(tensor, gs.Constant)


def home_of(tensor: Variable, graph: Graph) -> Graph:
    """The graph, at whatever depth, that computes the tensor or takes it as an input."""
    maker = producer(tensor)
    return next(
        inner
        for inner in all_graphs(graph)
        if (maker in inner.nodes if maker is not None else any(t is tensor for t in inner.inputs))
    )


class Namer:
    """Gives names that occur nowhere in the model yet. Make one a pass; it does not see later foreign additions."""

    def __init__(self, graph: Graph) -> None:
        self._taken = set(all_tensors(graph)) | {node.name for _, node in all_nodes(graph)}

    def __call__(self, hint: str) -> str:
        name, count = hint, 1
        while name in self._taken:
            name, count = f"{hint}_{count}", count + 1
        self._taken.add(name)
        return name


def replace_uses(old: Tensor, new: Tensor, graph: Graph) -> None:
    """Makes every consumer of ``old``, and every graph that returns it, use ``new`` instead.

    A graph output keeps its name only if the caller sees to it: see ``replace_output``.
    """
    for node in list(dict.fromkeys(old.outputs)):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new
    for inner in all_graphs(graph):
        for index, tensor in enumerate(inner.outputs):
            if tensor is old:
                inner.outputs[index] = new


def reroute(old: Tensor, new: Tensor, graph: Graph) -> bool:
    """Like ``replace_uses``, but keeps the names of model outputs. Returns False, having changed nothing, if it can't.

    When ``old`` is an output of the outermost graph, ``new`` takes over its name, which is impossible when ``new`` is a
    model input, a constant used as output already, or itself an output.
    """
    if any(tensor is old for tensor in graph.outputs):
        taken = any(tensor is new for tensor in (*graph.inputs, *graph.outputs))
        local = producer(new) is not None and any(node is producer(new) for node in graph.nodes)
        if taken or not local:
            return False
        old.name, new.name = new.name, old.name
        if new.dtype is None:  # a model states the types of its outputs
            new.dtype, new.type_proto = old.dtype, old.type_proto
        if new.shape is None:
            new.shape = old.shape
    replace_uses(old, new, graph)
    return True


def remove_dead(graph: Graph) -> int:
    """Deletes nodes whose outputs nothing reads, at every depth; returns how many."""
    removed = 0
    while True:
        kept_tensors = output_tensors(graph)
        before = removed
        for inner in all_graphs(graph):
            for node in list(reversed(inner.nodes)):
                if any(t.outputs or t in kept_tensors for t in node.outputs if t.name):
                    continue
                detach(node)
                inner.nodes.remove(node)
                removed += 1
        if removed == before:
            return removed


def detach(node: Node) -> None:
    """Unlinks a node, and every node inside its subgraphs, from all tensors: it no longer counts as a consumer."""
    for inner in subgraphs(node):
        for child in inner.nodes:
            detach(child)
    node.inputs.clear()
    node.outputs.clear()


def sort(graph: Graph) -> None:
    """Orders the nodes of every graph so that producers come first; stable. Raises ModelError naming a cycle."""
    for inner in all_graphs(graph):
        position = {node: index for index, node in enumerate(inner.nodes)}
        edges = [
            (source, node)
            for node in inner.nodes
            for tensor in _reads(node)
            if (source := producer(tensor)) is not None and source in position
        ]
        if all(position[source] < position[node] for source, node in edges):
            continue  # as after most passes
        order: nx.DiGraph = nx.DiGraph()
        order.add_nodes_from(inner.nodes)
        order.add_edges_from(edges)
        try:
            inner.nodes[:] = list(nx.lexicographical_topological_sort(order, key=position.__getitem__))
        except nx.NetworkXUnfeasible:
            cycle = [edge[0].name for edge in nx.find_cycle(order)]
            raise ModelError(
                "the graph has a cycle",
                where=" -> ".join(cycle[:6]),
                fix="export the model again: ONNX graphs are acyclic",
            ) from None


def _reads(node: Node) -> Iterator[Tensor]:
    yield from node.inputs
    for inner in subgraphs(node):
        yield from inner.outputs
        for child in inner.nodes:
            yield from _reads(child)


def adopt(graph: gs.Graph) -> None:
    """Turns plain graphsurgeon objects that a pass put in into ours, in place, and gives nameless nodes a name."""
    if type(graph) is gs.Graph:
        graph.__class__ = Graph
        plain = Graph()
        for key in ("domains", "metadata", "model_version", "model_domain", "model_doc", "sources"):
            graph.__dict__.setdefault(key, getattr(plain, key))
    classes: dict[type, type] = {gs.Node: Node, gs.Variable: Variable, gs.Constant: Constant}
    nameless: list[Node] = []
    for inner in all_graphs(graph):
        if type(inner) is gs.Graph:
            adopt(inner)
        for node in inner.nodes:
            node.__class__ = classes.get(type(node), type(node))
            if not node.name:
                nameless.append(node)
            for tensor in (*node.inputs, *node.outputs):
                _adopt_tensor(tensor, classes)
        for tensor in (*inner.inputs, *inner.outputs):
            _adopt_tensor(tensor, classes)
    if nameless:
        namer = Namer(graph)
        for node in nameless:
            node.name = namer(node.op)


def _adopt_tensor(tensor: gs.Tensor, classes: dict[type, type]) -> None:
    tensor.__class__ = classes.get(type(tensor), type(tensor))
    if isinstance(tensor, Variable) and "type_proto" not in tensor.__dict__:
        tensor.type_proto = None


def clone(graph: Graph) -> Graph:
    """A copy with its own nodes and tensors; weight arrays are shared, which is safe as nobody writes to them."""
    return _clone(graph, {})


def _clone(graph: Graph, copies: dict[Tensor, Tensor]) -> Graph:
    def copy(tensor: Tensor) -> Tensor:
        if not tensor.name:
            return Variable("")
        if tensor not in copies:
            if isinstance(tensor, gs.Constant):
                copies[tensor] = Constant(tensor.name, tensor.held)
            else:
                shape = None if tensor.shape is None else list(tensor.shape)
                copies[tensor] = Variable(tensor.name, tensor.dtype, shape, tensor.type_proto)
        return copies[tensor]

    result = Graph(name=graph.name, doc_string=graph.doc_string, opset=graph.opset, ir_version=graph.ir_version)
    result.producer_name, result.producer_version = graph.producer_name, graph.producer_version
    result.domains, result.metadata = dict(graph.domains), dict(graph.metadata)
    result.model_version, result.model_domain = graph.model_version, graph.model_domain
    result.model_doc, result.sources = graph.model_doc, graph.sources
    result.inputs = [copy(t) for t in graph.inputs]
    for node in graph.nodes:
        attrs: dict[str, Any] = {}
        for key, value in node.attrs.items():
            if isinstance(value, gs.Graph):
                attrs[key] = _clone(value, copies)
            elif isinstance(value, list):
                attrs[key] = [_clone(v, copies) if isinstance(v, gs.Graph) else v for v in value]
            elif isinstance(value, gs.Constant):
                attrs[key] = Constant(value.name, value.values)
            else:
                attrs[key] = value
        result.nodes.append(
            Node(
                node.op,
                node.name,
                attrs,
                inputs=[copy(t) for t in node.inputs],
                outputs=[copy(t) for t in node.outputs],
                domain=node.domain,
            )
        )
    result.outputs = [copy(t) for t in graph.outputs]
    return result
