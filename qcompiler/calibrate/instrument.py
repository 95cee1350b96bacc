"""Hangs probes on tensors of a copy of a graph, at any depth, so that running the copy says what they held."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx

from qcompiler import ir, native
from qcompiler.errors import StatisticsError

_READ_DIRECTLY = (np.dtype(np.float32), np.dtype(np.float16))
_READ_AS_FLOAT32 = (np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16))

Probe = Callable[["Place", int, ir.Namer], tuple[list[ir.Node], ir.Variable]]
"""Makes the nodes that read the tensor of a place, given its index, and says which tensor they compute."""


@dataclass(frozen=True)
class Place:
    """A tensor, the graph that computes it, and the way there: the nodes whose bodies enclose it, outermost first."""

    tensor: ir.Variable
    graph: ir.Graph
    path: tuple[tuple[ir.Node, ir.Graph], ...]

    @property
    def in_loop(self) -> bool:
        return any(node.op != "If" for node, _ in self.path)


@dataclass(frozen=True)
class Instrumented:
    """``outputs[i]`` is the name of the graph output that the probe on ``places[i]`` fills."""

    graph: ir.Graph
    places: tuple[Place, ...]
    outputs: tuple[str, ...]


def instrument(graph: ir.Graph, tensors: Sequence[str], probe: Probe) -> Instrumented:
    """A copy of the graph whose outputs are what the probes on the named tensors compute, and nothing else.

    Raises:
        StatisticsError: a name is unknown, or its tensor cannot be observed.
    """
    copy = ir.clone(graph)
    found = _places(copy)
    missing_types = any(name in found and found[name].tensor.dtype is None for name in tensors)
    if missing_types:
        ir.infer_shapes(copy)
    places = tuple(_checked(name, found, copy) for name in tensors)
    namer = ir.Namer(copy)
    copy.outputs = []
    readers: dict[ir.Variable, list[ir.Node]] = {}
    for index, place in enumerate(places):
        readers[place.tensor], result = probe(place, index, namer)
        copy.outputs.append(_lifted(result, place, namer))
    for inner in ir.all_graphs(copy):
        # ONNX Runtime is asked to prefer nodes that come first (runtime.session, prompt): a tensor read at once is
        # freed as early as without a probe.
        inner.nodes[:] = [
            *(reader for tensor in inner.inputs for reader in readers.get(tensor, ())),
            *(n for node in inner.nodes for n in (node, *(r for t in node.outputs for r in readers.get(t, ())))),
        ]
    return Instrumented(copy, places, tuple(tensor.name for tensor in copy.outputs))


def observe_probe(table: int) -> Probe:
    """Adds the tensor to the slot of its index in a ``native.ObservationTable``; computes how many elements it had."""

    def probe(place: Place, index: int, namer: ir.Namer) -> tuple[list[ir.Node], ir.Variable]:
        nodes, source = _as_float(place, namer, always=False)
        count = ir.Variable(namer(f"{place.tensor.name}_observed"), np.dtype(np.int64), [1])
        attributes = {"table": table, "slot": index}
        nodes.append(ir.Node("Observe", namer(f"observe_{index}"), attributes, [source], [count], domain=native.DOMAIN))
        return nodes, count

    return probe


def fetch_probe(place: Place, index: int, namer: ir.Namer) -> tuple[list[ir.Node], ir.Variable]:
    """Computes the tensor itself as a float32 vector."""
    nodes, source = _as_float(place, namer, always=True)
    flat = ir.Variable(namer(f"{place.tensor.name}_fetched"), np.dtype(np.float32), [None])
    shape = ir.Constant(namer("fetched_shape"), np.array([-1], np.int64))
    nodes.append(ir.Node("Reshape", namer(f"fetch_{index}"), {}, [source, shape], [flat]))
    return nodes, flat


def _as_float(place: Place, namer: ir.Namer, *, always: bool) -> tuple[list[ir.Node], ir.Variable]:
    tensor = place.tensor
    if tensor.dtype == np.float32 or (not always and tensor.dtype not in _READ_AS_FLOAT32):
        return [], tensor
    cast = ir.Variable(namer(f"{tensor.name}_float"), np.dtype(np.float32), tensor.shape)
    attributes = {"to": onnx.TensorProto.FLOAT}
    return [ir.Node("Cast", namer(f"{tensor.name}_to_float"), attributes, [tensor], [cast])], cast


def _places(graph: ir.Graph, path: tuple[tuple[ir.Node, ir.Graph], ...] = ()) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for tensor in (*graph.inputs, *(t for node in graph.nodes for t in node.outputs)):
        if tensor.name:
            found[tensor.name] = Place(tensor, graph, path)
    for node in graph.nodes:
        for body in ir.subgraphs(node):
            found.update(_places(body, (*path, (node, body))))
    return found


def _checked(name: str, found: dict[str, Place], graph: ir.Graph) -> Place:
    where = f"tensor '{name}'"
    if name not in found:
        if name in ir.all_tensors(graph):
            raise StatisticsError("is a constant", where=where, why="its values need no observing")
        close = difflib.get_close_matches(name, found, n=1)
        raise StatisticsError("is not in the model", where=where, fix=f"did you mean '{close[0]}'" if close else "")
    place = found[name]
    dtype = place.tensor.dtype
    if place.tensor.type_proto is not None or (dtype is not None and dtype not in _READ_DIRECTLY + _READ_AS_FLOAT32):
        kind = "no plain tensor" if place.tensor.type_proto is not None else str(np.dtype(dtype))
        raise StatisticsError(f"is {kind}", where=where, why="only floating-point tensors are observed")
    for node, _ in place.path:
        if node.op not in ("If", "Loop", "Scan") or node.domain not in (None, "", "ai.onnx"):
            raise StatisticsError(
                f"is inside '{node.name}', a {node.op}", where=where, why="observed are the bodies of If, Loop and Scan"
            )
    return place


def _lifted(value: ir.Variable, place: Place, namer: ir.Namer) -> ir.Variable:
    """Leads a value out of every body that encloses it; ONNX Runtime drops a node whose result leaves no body."""
    for node, body in reversed(place.path):
        body.outputs.append(value)
        declared = len(body.outputs)
        if node.op == "If":
            for branch in ir.subgraphs(node):
                if branch is not body:  # the branch not taken must return something of the same type
                    nothing = np.zeros(1 if value.dtype == np.int64 else 0, value.dtype)
                    branch.outputs.append(ir.Constant(namer(f"{value.name}_not_taken"), nothing))
        elif node.op == "Loop":
            declared -= 1  # its condition, the first output of the body, does not leave it
        else:
            for name in ("scan_output_axes", "scan_output_directions"):
                given = node.attrs.pop(name, None)
                if isinstance(given, list):
                    node.attrs[name] = [*given, 0]
        while len(node.outputs) < declared - 1:  # outputs that nobody asked for are left out at the end of the list
            node.outputs.append(ir.Variable(""))
        value = ir.Variable(namer(f"{value.name}_of_{node.op}"), value.dtype)
        node.outputs.append(value)
    return value
