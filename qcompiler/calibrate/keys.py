"""What identifies a model and samples by their content, so that statistics are never taken for those of others."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from qcompiler import ir
from qcompiler.errors import StatisticsError


def model_key(graph: ir.Graph) -> str:
    """Identifies a model by content: ``<structure>-<weights>``, two truncated SHA-256 digests in hexadecimal.

    Structure is operators, attributes, tensor names, the types of inputs, and operator sets, at every depth; node
    names and shape annotations do not count. Weights are hashed where they lie, without a copy.
    """
    structure, weights = hashlib.sha256(), hashlib.sha256()
    seen: set[int] = set()

    def say(*parts: object) -> None:
        structure.update(("\x1f".join(map(str, parts)) + "\x1e").encode(errors="surrogateescape"))

    def weigh(constant: gs.Constant) -> None:
        if id(constant) in seen:
            return
        seen.add(id(constant))
        values = constant.values
        weights.update(f"{values.dtype}{values.shape}".encode())
        if values.dtype == object or values.dtype.kind in "US":
            weights.update(repr(values.tolist()).encode())
        else:
            weights.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def attribute(value: Any) -> None:
        if isinstance(value, gs.Graph):
            walk(value)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            for inner in value:
                walk(inner)
        elif isinstance(value, gs.Constant):
            weigh(value)
        elif isinstance(value, np.ndarray):
            weigh(gs.Constant("", value))
        elif isinstance(value, onnx.AttributeProto):
            say(value.SerializeToString(deterministic=True).hex())
        else:
            say(repr(value))

    def walk(inner: ir.Graph) -> None:
        say("graph", *((t.name, t.dtype) for t in inner.inputs))
        for node in inner.nodes:
            say(node.domain or "", node.op, [t.name for t in node.inputs], [t.name for t in node.outputs])
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant):
                    weigh(tensor)
            for name, value in sorted(node.attrs.items()):
                say(name)
                attribute(value)
        for tensor in inner.outputs:
            say("output", tensor.name)
            if isinstance(tensor, gs.Constant):
                weigh(tensor)

    say(graph.opset, sorted(graph.domains.items()))
    walk(graph)
    return f"{structure.hexdigest()[:32]}-{weights.hexdigest()[:32]}"


def feed_key(feed: dict[str, np.ndarray]) -> str:
    """SHA-256 of a feed's names, types, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in sorted(feed.items()):
        digest.update(f"{name}\x1f{array.dtype}{array.shape}".encode())
        if array.dtype == object:
            digest.update(repr(array.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def add_keys(a: str, b: str) -> str:
    """The key of two sets of feeds together: a sum, so that neither order nor grouping counts."""
    return f"{(int(a, 16) + int(b, 16)) % 2**256:064x}"


def samples_key(feeds: Iterable[dict[str, np.ndarray]]) -> str:
    """The key of all these feeds."""
    return functools.reduce(add_keys, map(feed_key, feeds), "0" * 64)


def compare_keys(a: str, b: str, what: str, where: str = "", *, fix: str = "calibrate this model") -> None:
    if a == b:
        return
    parts = [name for name, x, y in zip(("operators", "weights"), a.split("-"), b.split("-")) if x != y]
    raise StatisticsError(
        what, where=where, why=f"the models differ in their {' and '.join(parts)}", fix=fix
    )
