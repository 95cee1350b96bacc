"""Tensors that need no counting: elementwise functions of a counted one, and several joined to one.

A product of a value and its sigmoid, say, holds f(x) for every x of one tensor. So the values of each bin of
that tensor, taken to be spread evenly, are mapped through f, in ``PARTS`` parts of the bin. How they really are spread
within a bin, which is 1/128 of the value wide, is not known; extremes are mapped exactly. Mapping happens once, after
everything is counted and merged. What Concat makes holds just what it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort

from qcompiler import ir, runtime
from qcompiler.calibrate.statistics import Function, Statistics, TensorStatistics
from qcompiler.errors import ModelError, VerificationError

_OF_ONE = frozenset(
    "Relu LeakyRelu ThresholdedRelu Elu Selu Celu Clip Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Erf Gelu "
    "Mish Neg Abs".split()
)
_OF_TWO = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max"))
_MOVING = frozenset(("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"))
"""What leaves the values alone, and in which the first input holds them."""

_Origin = tuple[ir.Variable, tuple[str, ...]]
"""The tensor that another is a function of, and the nodes between them that move values about: only values that went
the same way meet again."""


def split(graph: ir.Graph, tensors: Sequence[str]) -> tuple[list[str], dict[str, Function]]:
    """The tensors to count, and the functions that make the others of them."""
    wanted = set(tensors)
    functions: dict[str, Function] = {}
    for inner in ir.all_graphs(graph):
        # A body runs as often as its node says: what it reads from outside is counted another number of times.
        inside = {*inner.inputs, *(tensor for node in inner.nodes for tensor in node.outputs)}
        origins: dict[ir.Tensor, _Origin] = {}
        for node in inner.nodes:
            if any(tensor.name and not ir.is_constant(tensor) and tensor not in inside for tensor in node.inputs):
                continue
            if node.op == "Concat" and all(tensor.name in wanted for tensor in (*node.inputs, *node.outputs)):
                functions[node.outputs[0].name] = Function(tuple(tensor.name for tensor in node.inputs))
            origin = _origin(node, origins)
            if origin is None:
                continue
            (result,) = node.outputs
            if result.name in wanted and origin[0].name in wanted:
                model = _model(graph.opset, origin[0], result, origins)
                if _is_safe(model):
                    functions[result.name] = Function((origin[0].name,), model)
                    origins[result] = origin
            elif result.name not in wanted:
                origins[result] = origin
    return [name for name in dict.fromkeys(tensors) if name not in functions], functions


def _origin(node: ir.Node, origins: dict[ir.Tensor, _Origin]) -> _Origin | None:
    """What the node's result is an elementwise function of; None where that is only itself."""
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1 or node.outputs[0].dtype != np.float32:
        return None
    computed = [tensor for tensor in node.inputs if tensor.name and not ir.is_constant(tensor)]
    if node.op in _MOVING:
        if not computed or computed[0] is not node.inputs[0]:
            return None
        root, way = origins.get(computed[0], (computed[0], ()))
        return root, (*way, node.name)
    if node.op not in _OF_ONE | _OF_TWO or not computed or any(t.dtype != np.float32 for t in computed):
        return None
    if any(ir.is_constant(tensor) and tensor.values.size != 1 for tensor in node.inputs):
        return None
    if node.op in _OF_ONE and computed != [node.inputs[0]]:
        return None
    found = {origins.get(tensor, (tensor, ())) for tensor in computed}
    return found.pop() if len(found) == 1 else None


def _model(opset: int, root: ir.Variable, result: ir.Variable, origins: dict[ir.Tensor, _Origin]) -> bytes:
    """A model of vectors that computes the one tensor of the other."""
    vector = ir.Variable("x", np.dtype(np.float32), [None])
    made: dict[ir.Tensor, ir.Tensor] = {root: vector}
    nodes: list[ir.Node] = []

    def build(tensor: ir.Tensor) -> ir.Tensor:
        if tensor not in made:
            if ir.is_constant(tensor):
                made[tensor] = ir.Constant(f"t{len(made)}", tensor.values.reshape(()))
            elif not tensor.name:
                made[tensor] = ir.Variable("")
            else:
                node = ir.producer(tensor)
                assert node is not None  # what has an origin was computed
                moving = node.op in _MOVING
                inputs = [build(read) for read in (node.inputs[:1] if moving else node.inputs)]
                made[tensor] = ir.Variable(f"t{len(made)}", np.dtype(np.float32), [None])
                op, attributes = ("Identity", {}) if moving else (node.op, dict(node.attrs))
                nodes.append(ir.Node(op, f"n{len(nodes)}", attributes, inputs, [made[tensor]]))
        return made[tensor]

    output = build(result)
    return ir.to_proto(ir.Graph(nodes, [vector], [output], name="function", opset=opset)).SerializeToString()


PARTS = 8
_LARGEST = int(np.array(2.0**60, np.float32).view(np.uint32)) >> 16
_USUAL_BINS = np.concatenate([np.arange(_LARGEST, dtype=np.uint32), np.arange(_LARGEST, dtype=np.uint32) | 0x8000])


@functools.lru_cache(maxsize=64)  # most of a model's functions are the same few
def _is_safe(model: bytes) -> bool:
    """Whether the function takes every value to a finite one, up to 2^60: where it does not (a logarithm), the first
    sample with something infinite can only be seen by looking."""
    try:
        with _opened(model) as session:
            return bool(np.isfinite(_evaluated(session, _middles(_USUAL_BINS))).all())
    except (ModelError, VerificationError):
        return False


def _middles(bins: np.ndarray) -> np.ndarray:
    """The middles of each bin's parts, float32 ``[n · PARTS]``; zeros are all in one place."""
    bits = (bins.astype(np.uint32)[:, None] << 16) + ((2 * np.arange(PARTS, dtype=np.uint32) + 1) << 15) // PARTS
    return np.where(bins[:, None] == 0, 0, bits).astype(np.uint32).view(np.float32).reshape(-1)


def _opened(model: bytes) -> AbstractContextManager[ort.InferenceSession]:
    return runtime.session(onnx.load_model_from_string(model))


def _evaluated(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    return runtime.run(session, {"x": x})[0]


def completed(statistics: Statistics) -> Statistics:
    """The statistics with those of every function worked out."""
    tensors = dict(statistics.tensors)
    with ExitStack() as stack:
        sessions: dict[bytes, ort.InferenceSession] = {}
        for name, function in statistics.functions.items():
            whole = functools.reduce(TensorStatistics.merge, (tensors[source] for source in function.sources))
            if function.model and function.model not in sessions:
                sessions[function.model] = stack.enter_context(_opened(function.model))
            tensors[name] = _mapped(whole, sessions[function.model]) if function.model else whole
    return replace(statistics, tensors=tensors, functions={})


def _mapped(seen: TensorStatistics, session: ort.InferenceSession) -> TensorStatistics:
    middles = _middles(seen.bins)
    ends = np.array([seen.smallest, seen.largest] if seen.bins.size else [], np.float32)
    if ends.size:
        middles = np.clip(middles, *ends)
    odd = np.array([np.nan, np.inf, -np.inf], np.float32)
    y = _evaluated(session, np.concatenate([middles, ends, odd]))
    shares = np.diff(seen.counts[:, None] * np.arange(PARTS + 1, dtype=np.uint64) // np.uint64(PARTS), axis=1)
    tallies = (seen.nan, seen.positive_infinity, seen.negative_infinity)
    counts = np.array([*shares.reshape(-1), *(0 for _ in ends), *tallies], np.uint64)
    nan, positive, negative = (int(counts[kind(y)].sum()) for kind in (np.isnan, np.isposinf, np.isneginf))
    finite = np.isfinite(y) & ((counts > 0) | (np.arange(y.size) < y.size - odd.size))
    values, counts = np.where(y == 0, np.float32(0), y)[finite], counts[finite]
    bins, places = np.unique(values.view(np.uint32) >> 16, return_inverse=True)
    totals = np.zeros(bins.size, np.uint64)
    np.add.at(totals, places, counts)
    return TensorStatistics(
        bins[totals > 0].astype(np.uint16),
        totals[totals > 0],
        float(values.min()) if values.size else float("inf"),
        float(values.max()) if values.size else float("-inf"),
        nan,
        positive,
        negative,
        seen.first_bad_sample if nan + positive + negative else None,
    )
