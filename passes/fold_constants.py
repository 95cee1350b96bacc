"""Computes once, at compile time, what does not depend on the model's inputs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, runtime
from qcompiler.errors import ModelError, VerificationError
from qcompiler.passes._edit import constant, is_random, operand
from qcompiler.passes._shape_dims import Size
from qcompiler.passes._shape_values import SHAPE_TYPES, ShapeValues
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_TYPES = frozenset("?bBhHiIlLqQefdO")
"""Types, as numpy's characters, that ONNX Runtime returns to Python; bfloat16, float8 and int4 are not among them."""

_SESSION_BYTES = 256 << 20
"""Bytes, in and out, above which no further node joins a session: large weights pass through a few at a time."""

_LARGEST = 64 << 20
"""Bytes of a result, larger than what it is computed from, that is not even computed for others to be."""

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces by constants whatever is known before the model runs, at every depth, until nothing more is found.

    1. A node whose inputs are all constant is evaluated by ONNX Runtime, optimizations off; all of them in one session.
    2. Shape arithmetic (Shape, Size, Gather, Slice, Concat, Unsqueeze, Cast, Add, Mul, Where, ...) whose result is
       known though its input is not, since the dimensions it picks are static.
    3. A Reshape to a shape known up to one dimension, or up to dimensions that its input has at the same place, gets a
       constant shape with -1 and 0 in it.
    4. An If whose condition is constant is replaced by the nodes of the branch taken.

    Refused: random operators; results that are larger than what they are computed from, and than ``limit`` bytes and a
    hundredth of the model's weights, for the file is to stay small and ONNX Runtime computes them when it loads it;
    types that ONNX Runtime does not return; nodes that it cannot run alone. Operators of other domains, loops, and the
    quantization of weights are left alone.

    ``limit``: bytes that one result may take in any case.
    """

    name: ClassVar[str] = "fold-constants"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    limit: int = 64 << 10

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites = 0
        refused: dict[ir.Node, str] = {}
        limit = max(self.limit, ir.weight_bytes(graph) // 100)
        while True:
            ir.sort(graph)
            changed = _inline_constant_ifs(graph)
            values = ShapeValues(graph)
            changed += _fold_shape_values(graph, values)
            changed += _fix_reshapes(graph, values)
            known = len(refused)
            changed += _evaluate(graph, values, refused, limit)
            if not changed and len(refused) == known:
                break
            rewrites += changed
        if rewrites:
            _make_range_operands_scalar(graph)
            ir.remove_dead(graph)
        alive = [node for _, node in ir.all_nodes(graph)]
        notes = [Diagnostic(node.name, refused[node], "refused") for node in alive if node in refused]
        return PassResult(rewrites, tuple(notes))


def _evaluate(graph: ir.Graph, values: ShapeValues, refused: dict[ir.Node, str], limit: int) -> int:
    """Case 1. ``limit``: bytes of a result that may be larger than what it is computed from."""
    batch: list[ir.Node] = []
    made: dict[ir.Tensor, int] = {}  # with the bytes that each takes, but for those that it was enlarged by on the way
    taken = 0
    for inner in ir.all_graphs(graph):
        for node in inner.nodes:
            # What is left out now has its turn in the next round.
            if node in refused or taken > _SESSION_BYTES or not _computable(node, made):
                continue
            # An output of unknown size waits until its inputs are constants: what it is made of is then known too.
            waits = any(tensor in made for tensor in node.inputs)
            sizes = [values.bytes_of(tensor) for tensor in node.outputs if tensor.name]
            if waits and None in sizes:
                continue
            reason = _refusal(node, sum(size or 0 for size in sizes), values)
            if reason:
                refused[node] = reason
                continue
            batch.append(node)
            given = sum(made[tensor] if tensor in made else _bytes(tensor) for tensor in set(node.inputs))
            for tensor in node.outputs:
                size = values.bytes_of(tensor)
                made[tensor] = given if size is None else min(given, size)
            taken += sum(map(_bytes, node.inputs)) + sum(size or 0 for size in sizes)
    read = _read_outside(graph, batch)
    results = _run(graph, batch, read)
    if results is None:  # one of them fails: find out which
        results = {}
        for node in batch:
            alone = _run(graph, [node], read) if _computable(node, {}) else {}
            if alone is None:
                refused[node] = "its inputs are constant, but ONNX Runtime cannot evaluate it alone"
            results.update(alone or {})
    folded = 0
    for node in batch:
        wanted = [tensor for tensor in node.outputs if tensor in read]
        found = {tensor: results[tensor] for tensor in wanted if tensor in results}
        if not wanted or len(found) < len(wanted):
            continue  # read inside of the batch only, or a node that fails alone
        size = sum(value.nbytes for value in found.values())
        if size > limit and size > sum(made[tensor] for tensor in wanted):
            refused[node] = _too_large(size, limit)
            continue
        ir.detach(node)
        for tensor, value in found.items():
            _become(tensor, value)
        folded += 1
    if folded:
        ir.remove_dead(graph)
    return folded


def _refusal(node: ir.Node, size: int, values: ShapeValues) -> str:
    # Another result every time: freezing one would change what the model does.
    if is_random(node):
        return "its inputs are constant, but its result is random"
    for tensor in node.outputs:
        known = tensor.dtype
        if known is not None and np.dtype(known).char not in _TYPES:
            return f"its inputs are constant, but ONNX Runtime does not return {np.dtype(known).name}"
    # The model, and on the way to a small result memory, would grow by what a small node computes in no time.
    if size > _LARGEST and size > sum(values.bytes_of(tensor) or 0 for tensor in node.inputs if tensor.name):
        return _too_large(size, _LARGEST)
    return ""


def _too_large(size: int, limit: int) -> str:
    return f"its result would take {size} bytes in the model (limit {limit})"


def _computable(node: ir.Node, made: Container[ir.Tensor]) -> bool:
    """Whether a node is one that case 1 may evaluate once the tensors of ``made`` are known."""
    if node.domain or node.op in _QUANTIZERS or ir.subgraphs(node) or not any(t.name for t in node.outputs):
        return False
    if any(isinstance(t, ir.Variable) and t.type_proto is not None for t in node.outputs):
        return False
    return all(ir.is_constant(tensor) or tensor in made for tensor in node.inputs if tensor.name)


def _read_outside(graph: ir.Graph, batch: list[ir.Node]) -> set[ir.Tensor]:
    """The results of the batch that somebody outside of it needs."""
    inside, returned = set(batch), ir.output_tensors(graph)
    made = [tensor for node in batch for tensor in node.outputs if tensor.name]
    return {t for t in made if t in returned or any(node not in inside for node in t.outputs)}


def _run(graph: ir.Graph, batch: list[ir.Node], wanted: set[ir.Tensor]) -> dict[ir.Tensor, np.ndarray] | None:
    """The values of the batch's results that are wanted; None when ONNX Runtime fails."""
    read = [tensor for node in batch for tensor in node.outputs if tensor in wanted]
    if not read:
        return {}
    copies: dict[str, ir.Tensor] = {}

    def copy(tensor: ir.Tensor) -> ir.Tensor:
        if not tensor.name:
            return ir.Variable("")
        if tensor.name not in copies:
            known = constant(tensor)
            fresh = ir.Variable(tensor.name, tensor.dtype) if known is None else ir.Constant(tensor.name, known)
            copies[tensor.name] = fresh
        return copies[tensor.name]

    trial = ir.Graph(name=graph.name, opset=graph.opset, ir_version=graph.ir_version)
    for node in batch:
        inputs, outputs = [copy(t) for t in node.inputs], [copy(t) for t in node.outputs]
        trial.nodes.append(ir.Node(node.op, node.name, dict(node.attrs), inputs=inputs, outputs=outputs))
    trial.outputs = [copies[tensor.name] for tensor in read]
    try:
        with runtime.session(trial, optimize="none") as session:
            results = runtime.run(session, {}, [tensor.name for tensor in read])
    except (ModelError, VerificationError):
        return None
    arrays = {t: np.asarray(value) for t, value in zip(read, results) if not isinstance(value, list)}  # no sequences
    return {t: value for t, value in arrays.items() if value.dtype.char in _TYPES}


def _become(tensor: ir.Tensor, value: np.ndarray) -> None:
    """Turns a variable into a constant of the same name. Its producer must have let go of it."""
    value.flags.writeable = False
    tensor.to_constant(value)


def _bytes(tensor: ir.Tensor) -> int:
    """Of a constant; 0 of what is none."""
    value = constant(tensor)
    return 0 if value is None else value.nbytes


def _fold_shape_values(graph: ir.Graph, values: ShapeValues) -> int:
    """Case 2."""
    folded = 0
    for inner in ir.all_graphs(graph):
        for node in inner.nodes:
            if len(node.outputs) != 1 or all(ir.is_constant(tensor) for tensor in node.inputs):
                continue
            (tensor,) = node.outputs
            value, dtype = values.value(tensor), tensor.dtype
            if value is None or dtype is None or np.dtype(dtype).name not in SHAPE_TYPES:
                continue
            if all(isinstance(v, int) for v in value.reshape(-1)):
                ir.detach(node)
                _become(tensor, value.astype(dtype))
                folded += 1
    if folded:
        ir.remove_dead(graph)
    return folded


def _fix_reshapes(graph: ir.Graph, values: ShapeValues) -> int:
    """Case 3."""
    namer: ir.Namer | None = None
    fixed = 0
    for _, node in ir.all_nodes(graph):
        if node.op != "Reshape" or node.domain or ir.is_constant(node.inputs[1]):
            continue
        shape = _fixed_shape(node, values)
        if shape is None:
            continue
        namer = namer or ir.Namer(graph)
        node.attrs.pop("allowzero", None)
        node.inputs[1] = ir.Constant(namer(f"{node.name}_shape"), np.array(shape, np.int64))
        fixed += 1
    if fixed:
        ir.remove_dead(graph)
    return fixed


def _fixed_shape(node: ir.Node, values: ShapeValues) -> list[int] | None:
    """The shape operand of a Reshape with 0 for dimensions taken over and -1 for the one left; None if two are left."""
    target, dims = values.value(operand(node, 1)), values.dims(node.inputs[0])
    if target is None or target.ndim != 1 or all(isinstance(v, int) for v in target):
        return None
    if any(isinstance(v, int) and v == 0 for v in target) and node.attrs.get("allowzero", 0):
        return None  # a dimension that is really 0
    shape: list[int] = []
    guessed = empty = False
    for axis, wanted in enumerate(target):
        there = dims[axis] if dims is not None and axis < len(dims) else None
        stays = isinstance(wanted, Size) and there == wanted
        shape.append(wanted if isinstance(wanted, int) else 0 if stays else -1)
        guessed |= shape[axis] == -1 and not isinstance(wanted, int)
        empty |= shape[axis] == 0 and values.may_be_zero(there)
    if shape.count(-1) > 1 or (guessed and empty):
        return None  # of an empty tensor -1 is undefined, where a number was not
    return shape


def _make_range_operands_scalar(graph: ir.Graph) -> None:
    """ONNX Runtime takes arrays of one element as Range's operands when they are computed, but not when constant."""
    namer: ir.Namer | None = None
    for _, node in ir.all_nodes(graph):
        for index, tensor in enumerate(node.inputs):
            value = constant(tensor) if node.op == "Range" and not node.domain else None
            if value is not None and value.ndim and value.size == 1:
                namer = namer or ir.Namer(graph)
                node.inputs[index] = ir.Constant(namer(f"{tensor.name}_scalar"), value.reshape(()))


def _inline_constant_ifs(graph: ir.Graph) -> int:
    """Case 4."""
    inlined = 0
    for inner in list(ir.all_graphs(graph)):
        for node in list(inner.nodes):
            # One inside a branch that was not taken has let go of its inputs.
            condition = constant(node.inputs[0]) if node.op == "If" and not node.domain and node.inputs else None
            if condition is not None and condition.size == 1:
                _inline(node, bool(condition.reshape(-1)[0]), inner, graph)
                inlined += 1
    if inlined:
        ir.sort(graph)
    return inlined


def _inline(node: ir.Node, taken: bool, inner: ir.Graph, graph: ir.Graph) -> None:
    branch = node.attrs.pop("then_branch" if taken else "else_branch")
    results, returned = list(node.outputs), list(branch.outputs)
    ir.detach(node)  # with the branch not taken
    position = next(index for index, other in enumerate(inner.nodes) if other is node)
    moved = list(branch.nodes)
    branch.nodes.clear()
    inner.nodes[position : position + 1] = moved
    namer = ir.Namer(graph)
    local = set(moved)
    seen: set[ir.Tensor] = set()
    for result, value in zip(results, returned):
        made = ir.producer(value)
        if made is None or made not in local or value in seen or returned.count(value) > 1:
            # A constant, an outer tensor, or one returned twice: the name of the result needs a node of its own.
            inner.nodes.append(ir.Node("Identity", namer(f"{node.name}_result"), inputs=[value], outputs=[result]))
            continue
        seen.add(value)
        slot = next(index for index, tensor in enumerate(made.outputs) if tensor is value)
        ir.replace_uses(value, result, graph)
        made.outputs[slot] = result
