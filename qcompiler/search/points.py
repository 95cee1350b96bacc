"""Where the outputs of a model are judged: at the tensors that make them up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir

PASSING = frozenset(("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat"))
"""Operators that only arrange values: what they join is judged part by part."""

PART = 12.0
"""Decibels by which one part of an output may be less true than a whole output."""

PART_OF_SELECTION = 5.0
"""The same of what an output is selected from: in the end its parts are judged one by one, see ``settle.FAITHFUL``."""

CARRYING = PASSING | {"Add", "Clip", "Div", "Exp", "Max", "Min", "Mul", "Sigmoid", "Slice", "Split", "Sub", "Where"}
"""Operators that may stand behind a selection without making another quantity of what was selected."""

SELECTING = {"Compress": 1, "Gather": 1, "GatherElements": 1, "GatherND": 1, "NonMaxSuppression": 2, "TopK": 1}
"""Operators that select among values, with the number of inputs that these are."""

BY_INDEX = frozenset(SELECTING) - {"NonMaxSuppression", "TopK"}
"""Those that are told what to select."""

CUTTING, MANY = frozenset(("Gather", "Slice", "Split")), 3
"""Operators that take a part of a tensor, and so many parts of one size that they are judged together."""

_DEEPEST = 24


def measuring_points(graph: ir.Graph) -> dict[str, float]:
    """The float tensors that make up the outputs, a Concat of boxes and scores being two quantities, not one; each with
    the decibels by which it may fall behind: none for a whole output, ``PART`` for one of several parts. Of what is
    selected by computed numbers, that among which is selected, see ``selections``, and ``PART_OF_SELECTION``."""
    found: dict[str, float] = {}
    selected = selections(graph)
    for tensor in graph.outputs:
        parts, allowed = selected.get(tensor.name, []), PART_OF_SELECTION
        if not parts:
            parts, allowed = _parts(graph, tensor), PART
        for name in parts:
            found[name] = min(found.get(name, math.inf), allowed if len(parts) > 1 else 0.0)
    return found


def selections(graph: ir.Graph) -> dict[str, list[str]]:
    """The float tensors among which outputs are selected, and sorted perhaps, by numbers that are computed, and these
    numbers: the boxes and scores before the best of them are taken. Rounding may turn two that score alike, or bring
    one more over a threshold; compared place by place, all behind them is then another's."""
    nodes = set(graph.nodes)
    known: dict[ir.Tensor, list[ir.Tensor]] = {}
    found = {tensor.name: _selected_from(tensor, nodes, known, 0) for tensor in graph.outputs}
    points = {
        name: [one.name for one in _whole(tensors) if _float(one) and _computes(ir.producer(one), nodes)]
        for name, tensors in found.items()
        if tensors
    }
    return {name: names for name, names in points.items() if names}


def _whole(tensors: Sequence[ir.Tensor]) -> list[ir.Tensor]:
    """Where many are cut alike out of one tensor, that tensor: the scores of one class after another are one quantity,
    and one that is hardly ever seen says nothing by itself."""
    cut: dict[ir.Tensor, ir.Tensor] = {}
    for tensor in tensors:
        node = ir.producer(tensor)
        if node is not None and node.op in CUTTING and not node.domain and all(map(ir.is_constant, node.inputs[1:])):
            cut[tensor] = node.inputs[0]
    alike = Counter((source, str(tensor.shape)) for tensor, source in cut.items())
    many = {tensor: source for tensor, source in cut.items() if alike[source, str(tensor.shape)] >= MANY}
    return list(dict.fromkeys(many.get(tensor, tensor) for tensor in tensors))


def selecting(graph: ir.Graph, output: str) -> list[ir.Node]:
    """The nodes that select what the output of that name holds, from the last one on."""
    nodes, seen, found = set(graph.nodes), set[ir.Node](), list[ir.Node]()
    waiting: list[ir.Tensor] = [tensor for tensor in graph.outputs if tensor.name == output]
    while waiting:
        node = ir.producer(waiting.pop(0))
        if node is None or node in seen or node not in nodes or node.domain:
            continue
        seen.add(node)
        if _selects(node):
            found.append(node)
            waiting += _read_to_select(node)
        elif node.op in CARRYING:
            waiting += node.inputs
    return found


def _computes(node: ir.Node | None, nodes: set[ir.Node]) -> bool:
    """Whether the node is in the outermost graph, and what it returns is no place or class in another type."""
    if node is None or node not in nodes:
        return False
    kind = node.inputs[0].dtype if node.op == "Cast" else None
    return kind is None or np.dtype(kind).kind == "f"


def _selected_from(
    tensor: ir.Tensor, nodes: set[ir.Node], known: dict[ir.Tensor, list[ir.Tensor]], depth: int
) -> list[ir.Tensor]:
    """What a tensor was selected from, and what it was joined with; nothing where there is no selection behind it.
    ``known``: those on the way to it, each of which is looked at once."""
    if tensor in known:
        return known[tensor]
    node, found = ir.producer(tensor), list[ir.Tensor]()
    if node is not None and node in nodes and not node.domain and depth <= _DEEPEST:
        selects = _selects(node)
        if selects or node.op in CARRYING:
            read = _read_to_select(node) if selects else node.inputs
            sources = [source for source in read if not ir.is_constant(source) and source.name]
            behind = [_selected_from(source, nodes, known, depth + 1) for source in sources]
            if selects or any(behind):
                found = list(dict.fromkeys(one for source, far in zip(sources, behind) for one in far or [source]))
    known[tensor] = found
    return found


def _selects(node: ir.Node) -> bool:
    """Whether the node selects by computed numbers."""
    if node.op not in BY_INDEX:
        return node.op in SELECTING
    return len(node.inputs) > 1 and bool(_decides(node.inputs[1]))


def _read_to_select(node: ir.Node) -> list[ir.Tensor]:
    """The values that the node selects among, and those that decide which."""
    return [*node.inputs[: SELECTING[node.op]], *(_decides(node.inputs[1]) if node.op in BY_INDEX else ())]


def _decides(index: ir.Tensor) -> list[ir.Tensor]:
    """The tensors computed in floats that decide the index; none where sizes do, or what the user gives."""
    waiting, seen, found = [index], set[ir.Tensor](), list[ir.Tensor]()
    while waiting:
        tensor = waiting.pop()
        node = ir.producer(tensor)
        if node is None or tensor in seen or node.op in ("Shape", "Size"):
            continue
        seen.add(tensor)
        if tensor.dtype is not None and np.dtype(tensor.dtype).kind == "f":
            found.append(tensor)
        else:
            waiting += ir.outer_reads(node)  # what a branch computes, as of boxes if there are any, is decided there
    return found


def _parts(graph: ir.Graph, output: ir.Tensor) -> list[str]:
    """Names of the tensors that the output only arranges."""
    found: dict[str, None] = {}

    def walk(tensor: ir.Tensor, depth: int) -> None:
        node = ir.producer(tensor)
        if node is not None and node.op in PASSING and node.domain in (None, "") and depth < 16:
            for source in node.inputs if node.op == "Concat" else node.inputs[:1]:
                walk(source, depth + 1)
        elif node is not None and any(node is own for own in graph.nodes) and _float(tensor):
            found[tensor.name] = None

    walk(output, 0)
    return list(found)


def before_softmax(graph: ir.Graph, points: Mapping[str, float]) -> dict[str, float]:
    """The points with what a Softmax reads in place of what it returns.

    Behind it, the error of a few samples is that of the one decision which happened to turn; before it, all samples
    tell about the same.
    """
    tensors = ir.all_tensors(graph)
    found: dict[str, float] = {}
    for name, allowed in points.items():
        node = ir.producer(tensors[name])
        if node is not None and node.op in ("Softmax", "LogSoftmax") and _float(node.inputs[0]):
            name = node.inputs[0].name
        found[name] = min(found.get(name, math.inf), allowed)
    return found


def together(part: Mapping[str, float], points: Mapping[str, float]) -> float:
    """Noise-to-signal ratios at the measuring points as one, each less what its point is allowed."""
    return sum(noise * 10.0 ** (-points[name] / 10.0) for name, noise in part.items())


def _float(tensor: ir.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32
