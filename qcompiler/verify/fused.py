"""What ONNX Runtime made of a quantized graph: read off the graph that its own optimizer writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from qcompiler import ir, tables
from qcompiler.runtime import session


@dataclass(frozen=True)
class Fate:
    """What became of one node. ``form``: the operator that the runtime runs in its place, ``-`` when it vanished into
    a neighbour. ``fused``: whether it works on codes; ``why``: what was found instead."""

    node: str
    form: str
    fused: bool
    why: str = ""


@dataclass(frozen=True)
class Optimized:
    """ONNX Runtime's optimized graph, without weights."""

    nodes: tuple[onnx.NodeProto, ...]

    def histogram(self) -> dict[str, int]:
        """How many nodes of each operator run."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def optimize(model: ir.Graph) -> Optimized:
    """Asks ONNX Runtime for its optimized graph. Raises VerificationError when it cannot load the model."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        path = Path(folder) / "optimized.onnx"
        with session(model, optimized_path=path):
            pass
        return read(path)


def written(model: ir.Graph) -> Optimized:
    """The graph as it was written, for models that memory has no room to load: its own operators are what runs."""
    return Optimized(tuple(_nodes(ir.to_proto(ir.skeleton(model)).graph)))


def read(path: Path) -> Optimized:
    """The graph that a session wrote to its ``optimized_path``."""
    proto = onnx.load(str(path), load_external_data=False)
    return Optimized(tuple(_nodes(proto.graph)))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def fates(
    names: Iterable[str],
    optimized: Optimized,
    looked_up: Mapping[str, Sequence[str]] | None = None,
    refused: Mapping[str, str] | None = None,
) -> dict[str, Fate]:
    """The fate of each named node of the graph that was handed to the runtime, and of each that a table of it stands
    for; ``looked_up`` holds these by the table's name. ``refused``: why nodes that work on floats are in no table.

    The runtime keeps a node's name when it replaces the node, sometimes with ``_token_N`` or ``/NAME`` behind it. A
    node is fused unless one of its inputs is still dequantized right before it.
    """
    makers = {output: node for node in optimized.nodes for output in node.output if output}
    by_name: dict[str, list[onnx.NodeProto]] = {}
    for node in optimized.nodes:
        by_name.setdefault(original_name(node.name), []).append(node)
    found = {}
    for name in names:
        forms = by_name.get(name, [])
        found[name] = Fate(name, "-", True)
        for node in forms:
            dequantized = [
                tensor
                for tensor in node.input
                if tensor in makers and makers[tensor].op_type == "DequantizeLinear"
            ]
            found[name] = Fate(name, node.op_type, True)
            if dequantized:
                why = (refused or {}).get(name) or f"'{dequantized[0]}' is dequantized before it"
                found[name] = Fate(name, node.op_type, False, why)
                break
    for table, members in (looked_up or {}).items():
        why = f"in one table with the nodes up to '{members[-1]}'" if len(members) > 1 else ""
        if table in by_name:
            found.update({name: Fate(name, tables.OPERATOR, True, why) for name in members if name not in by_name})
    return found


def original_name(name: str) -> str:
    """The name that the node had before ONNX Runtime rewrote it."""
    base = name.removeprefix("fused ")
    for mark in ("/MatMulAddFusion", "/DuplicateQDQ"):
        base = base.split(mark)[0]
    stem, token, number = base.rpartition("_token_")
    return stem if token and number.isdigit() else base
