"""Looking at a model: what is in it, what could be quantized, what will be in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qcompiler import ir, tables
from qcompiler.pipeline import Diagnostic
from qcompiler.target import Target, is_float

REFUSAL = "stays in float: "
"""How the remarks of placement begin."""

STANDARD_DOMAINS = (None, "", "ai.onnx")


@dataclass(frozen=True)
class Weights:
    """Constants of one element type."""

    dtype: str
    count: int
    bytes: int


def weights(graph: ir.Graph) -> list[Weights]:
    """The model's constants by element type, the heaviest type first; a shared one counts once."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in ir.all_tensors(graph).values():
        if ir.is_constant(tensor):
            dtype = str(tensor.values.dtype)
            counts[dtype] += 1
            sizes[dtype] += tensor.values.nbytes
    return [Weights(dtype, counts[dtype], size) for dtype, size in sizes.most_common()]


def signature(tensor: ir.Tensor) -> str:
    """``x: float32[n, 3, 224, 224]``; a question mark for what the model does not say."""
    dtype = np.dtype(tensor.dtype).name if tensor.dtype is not None else "?"
    if tensor.shape is None:
        return f"{tensor.name}: {dtype}[?]"
    return f"{tensor.name}: {dtype}[{', '.join('?' if d is None else str(d) for d in tensor.shape)}]"


QUANTIZED = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger")
)
"""Operators that float models do not have."""


def operators(graph: ir.Graph) -> Counter[str]:
    """Nodes by operator at every depth; those of other domains as ``domain.Operator``."""
    return Counter(
        node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op}" for _, node in ir.all_nodes(graph)
    )


BLOCKED = "com.microsoft.nchwc"
"""Domain of the convolutions that ONNX Runtime has laid out for one kind of CPU."""


def blocked(graph: ir.Graph) -> Iterator[str]:
    """What a user should know before a model is compiled that ONNX Runtime saved with all of its optimizations."""
    count = sum(node.domain == BLOCKED for _, node in ir.all_nodes(graph))
    if count:
        yield (
            f"{count} operators of domain '{BLOCKED}' stay in float: ONNX Runtime laid their weights out for one kind "
            "of CPU when it saved the model; compile the model that it was made from"
        )


def problems(graph: ir.Graph, cleaned: ir.Graph) -> Iterator[str]:
    """What a user should know before compiling ``graph``, which is ``cleaned`` to be quantized."""
    yield from blocked(graph)
    for tensor in (*graph.inputs, *graph.outputs):
        kind = "input" if any(tensor is t for t in graph.inputs) else "output"
        if tensor.dtype is None or tensor.shape is None:
            yield f"{kind} '{tensor.name}' says no {'element type' if tensor.dtype is None else 'shape'}"
    others: dict[str, set[str]] = {}
    for _, node in ir.all_nodes(cleaned):
        if node.domain not in (*STANDARD_DOMAINS, tables.DOMAIN, BLOCKED):
            others.setdefault(node.domain, set()).add(node.op)
    for domain, names in sorted(others.items()):
        yield f"operators of domain '{domain}' are passed through as they are: {', '.join(sorted(names))}"
    for name, tensor in ir.all_tensors(graph).items():
        if not ir.is_constant(tensor):
            continue
        values = tensor.values
        if values.dtype.kind == "f" and values.size and values.ndim and not np.isfinite(values).all():
            yield f"weight '{name}' has values that are not finite: what reads it stays in float"
    half = sum(w.count for w in weights(graph) if w.dtype in ("float16", "bfloat16"))
    if half:
        yield f"{half} weights have 16 bits: the target's 8-bit kernels work beside float32 only"
    for _, node in ir.all_nodes(graph):
        if node.op in QUANTIZED or node.domain == tables.DOMAIN:
            yield "the model is quantized already: compile the float model that it was made from"
            return


def float_reasons(graph: ir.Graph, target: Target, remarks: Iterable[Diagnostic]) -> dict[str, str]:
    """Why each node stays in float where it does: what placement or the maker of tables remarked, else what the
    target's description says."""
    remarks = list(remarks)
    said = {d.where: d.message.removeprefix(REFUSAL) for d in remarks if d.message.startswith(REFUSAL)}
    said = {**tables.refusals(remarks), **said}
    return {node.name: said.get(node.name) or _float_reason(node, target) for _, node in ir.all_nodes(graph)}


def _float_reason(node: ir.Node, target: Target) -> str:
    if node.outputs and not is_float(node.outputs[0]):
        return "computes no float32"
    if node.domain == tables.DOMAIN:
        return "an operator of ours, which is quantized already"
    if node.domain not in STANDARD_DOMAINS:
        return f"an operator of {node.domain}, passed through as it is"
    entry = target.operator(node)
    if target.weights_alone and (entry is None or entry.weight is None):
        return "only weights are quantized, and it has none or not in this form"
    if node.op in target.absorbed:
        return target.absorbed[node.op]
    if entry is not None:
        return "no neighbour hands it 8 bits or takes them"
    if any(known.op == node.op for known in target.operators):
        return "not in this form: its weight is computed, or an attribute is another"
    return target.excluded.get(node.op) or "the target has no 8-bit form of it"


def text(graph: ir.Graph) -> str:
    """The graph as lines of ``output = Operator(inputs) {attributes}``, bodies indented under their node."""
    return "\n".join(_lines(graph, ""))


def _lines(graph: ir.Graph, indent: str) -> Iterator[str]:
    yield f"{indent}graph {graph.name} ({', '.join(signature(t) for t in graph.inputs)})"
    for node in graph.nodes:
        made = ", ".join(signature(t) for t in node.outputs if t.name)
        read = ", ".join(_operand(t) for t in node.inputs)
        plain = {k: v for k, v in node.attrs.items() if not isinstance(v, (ir.Graph, np.ndarray)) and k != "body"}
        attributes = f" {{{', '.join(f'{k}={v}' for k, v in plain.items())}}}" if plain else ""
        yield f"{indent}  {made} = {node.op}({read}){attributes}  # {node.name}"
        for inner in ir.subgraphs(node):
            yield from _lines(inner, indent + "    ")
    yield f"{indent}  return {', '.join(t.name for t in graph.outputs)}"


def _operand(tensor: ir.Tensor) -> str:
    if not ir.is_constant(tensor):
        return tensor.name or "-"
    values = tensor.values
    if values.size <= 4:
        return f"{tensor.name}={values.tolist()}"
    return f"{tensor.name}:{values.dtype}{list(values.shape)}"
