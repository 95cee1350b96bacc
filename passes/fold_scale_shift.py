"""Folds multiplications and additions of constants into the weights beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant
from qcompiler.passes._linear import (
    Refusal,
    WeightEditor,
    channel_axis,
    fold_chain,
    input_channels,
    output_channels,
    output_rank,
    per_channel,
    rounded,
    weight,
)
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_OPS = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class FoldScaleShift(Pass):
    """Folds Mul, Div, Add and Sub of a constant, one number or one a channel, at every depth, into Conv, ConvTranspose,
    Gemm and MatMul with constant weights:

    1. a chain of them after the operator goes into its weight and bias (``c - y`` too, ``c / y`` is not linear);
    2. after a MatMul, which has no bias, a chain with a scale in it leaves one Add;
    3. a scale before the operator goes into its weight;
    4. a shift before a Gemm or a Conv that pads nothing goes into its bias;
    5. of a scale and a shift before one that takes no shift the scale goes into the weight, and the shift is divided by
       it: ``w · (s·x + t)`` is ``(w·s) · (x + t/s)``.

    Weights that others read as well are copied. Refused: a result between that somebody else reads or that is returned;
    constants that differ along another axis; shifts before padding; weights that would overflow their type; biases
    that are computed. Where only weights are quantized, in blocks: scales that differ by input of a product, and scales
    of a weight that is an embedding too.
    """

    name: ClassVar[str] = "fold-scale-shift"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        worker = _Worker(graph, in_blocks=ctx.target is not None and ctx.target.weights_alone)
        for inner in list(ir.all_graphs(graph)):
            for node in list(inner.nodes):
                worker.after(inner, node)
            for node in list(inner.nodes):
                worker.before(inner, node)
        alive = [node for _, node in ir.all_nodes(graph)]
        notes = [Diagnostic(node.name, worker.refused[node], "refused") for node in alive if node in worker.refused]
        return PassResult(worker.rewrites, tuple(notes))


class _Worker:
    def __init__(self, graph: ir.Graph, *, in_blocks: bool) -> None:
        self.shapes, self.editor = ShapeValues(graph), WeightEditor(graph, in_blocks=in_blocks)
        self.returned = ir.output_tensors(graph)
        self.rewrites = 0
        self.refused: dict[ir.Node, str] = {}

    def after(self, inner: ir.Graph, node: ir.Node) -> None:
        """Cases 1 and 2."""
        values = weight(node)
        if values is None:
            return
        channels = output_channels(node, values)
        scale, shift = np.ones(channels), np.zeros(channels)
        chain: list[ir.Node] = []
        while True:
            result = (chain[-1] if chain else node).outputs[0]
            step = self._next(inner, result)
            if step is None:
                break
            dims = self.shapes.dims(result)
            rank = output_rank(node, values, None if dims is None else len(dims))
            number = per_channel(_operand(step), rank, channel_axis(node), channels)
            moved = _applied(step, result, number, scale, shift)
            if isinstance(moved, str):
                self.refused[step] = moved
                break
            scale, shift = moved
            chain.append(step)
        # A MatMul and one Add is the form that case 2 ends in.
        if not chain or (node.op == "MatMul" and len(chain) == 1 and not np.any(scale != 1)):
            return
        try:
            fold_chain(self.editor, inner, node, chain, scale, shift)
            self.rewrites += len(chain)
        except Refusal as refusal:
            self.refused[chain[0]] = str(refusal)

    def before(self, inner: ir.Graph, node: ir.Node) -> None:
        """Cases 3 and 4."""
        values = weight(node)
        if values is None:
            return
        channels = input_channels(node, values)
        while True:
            tensor = node.inputs[0]
            step = ir.producer(tensor)
            if step is None or step.domain or step.op not in _OPS or not any(step is other for other in inner.nodes):
                return
            source = _computed(step)
            if source is None:
                return
            if len(tensor.outputs) > 1 or tensor in self.returned:
                # Without it the operator would read something else, and the others still need it.
                self.refused.setdefault(step, f"'{tensor.name}' has other readers, or is an output")
                return
            number = self._input_channels(node, _operand(step), source, channels)
            moved = _applied(step, source, number, np.ones(channels), np.zeros(channels))
            if isinstance(moved, str):
                self.refused.setdefault(step, moved)
                return
            try:
                self.editor.before(node, *moved)
            except Refusal as refusal:
                self.refused.setdefault(step, str(refusal))
                self._exchange(inner, node, step, channels)
                return
            node.inputs[0] = source
            ir.detach(step)
            inner.nodes[:] = [other for other in inner.nodes if other is not step]
            self.rewrites += 1

    def _exchange(self, inner: ir.Graph, node: ir.Node, step: ir.Node, channels: int) -> None:
        """Case 5."""
        tensor = _computed(step)
        scaling = None if tensor is None else ir.producer(tensor)
        if tensor is None or scaling is None or step.op not in ("Add", "Sub") or scaling.op not in ("Mul", "Div"):
            return
        source = _computed(scaling)
        if source is None or scaling.domain or len(tensor.outputs) > 1 or tensor in self.returned:
            return
        # c - s·x would leave the sign with the constant, c / x is not linear.
        if (step.op == "Sub" and step.inputs[0] is not tensor) or not any(scaling is other for other in inner.nodes):
            return
        number = self._input_channels(node, _operand(scaling), source, channels)
        moved = _applied(scaling, source, number, np.ones(channels), np.zeros(channels))
        shift = self._input_channels(node, _operand(step), tensor, channels)
        if isinstance(moved, str) or shift is None or not np.all(moved[0]):
            return
        fresh = shift / moved[0]
        if np.ptp(fresh) == 0:
            fresh = fresh[:1].reshape([1] * _operand(step).ndim)
        elif node.op in ("Conv", "ConvTranspose"):
            fresh = fresh.reshape(-1, *[1] * (node.inputs[1].values.ndim - 2))
        elif node.attrs.get("transA", 0):
            return
        index = 0 if ir.is_constant(step.inputs[0]) else 1
        try:
            fresh = rounded(fresh, step.inputs[index].dtype)
            self.editor.before(node, moved[0], np.zeros(channels))
        except Refusal:
            return  # said already: the shift cannot go, and so the scale stays with it
        self.editor.put(step, index, fresh)
        step.inputs[1 - index] = source
        ir.detach(scaling)
        inner.nodes[:] = [other for other in inner.nodes if other is not scaling]
        self.rewrites += 1

    def _next(self, inner: ir.Graph, result: ir.Tensor) -> ir.Node | None:
        """The scale or shift by a constant that is the only reader of the tensor, in the same graph."""
        readers = [n for n in result.outputs if not n.domain and n.op in _OPS and _computed(n) is result]
        if not readers:
            return None
        # Somebody would get the folded values who expects the plain ones.
        if len(result.outputs) > 1 or result in self.returned:
            why = "is an output" if result in self.returned else "has other readers"
            self.refused.update({reader: f"'{result.name}' {why}" for reader in readers})
            return None
        return readers[0] if any(readers[0] is other for other in inner.nodes) else None

    def _input_channels(self, node: ir.Node, values: np.ndarray, source: ir.Tensor, channels: int) -> np.ndarray | None:
        dims = self.shapes.dims(source)
        axis = 1 if node.op in ("Conv", "ConvTranspose") else 0 if node.attrs.get("transA", 0) else -1
        if values.ndim == 0:
            return per_channel(values, 0, 0, channels)
        # A constant larger than the tensor would have broadcast it: what is left would not fit the weight.
        if dims is None or (values.size > 1 and dims[axis] != channels):
            return None
        return per_channel(values, len(dims), axis, channels)


def _computed(step: ir.Node) -> ir.Tensor | None:
    """The operand of a step that is not constant, if the other one is."""
    left, right = step.inputs
    if ir.is_constant(left) == ir.is_constant(right):
        return None
    return right if ir.is_constant(left) else left


def _operand(step: ir.Node) -> np.ndarray:
    """The constant operand of a step."""
    values = constant(step.inputs[0 if ir.is_constant(step.inputs[0]) else 1])
    assert values is not None
    return values


def _applied(
    step: ir.Node, source: ir.Tensor, number: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | str:
    """The scale and shift after one more step by ``number``, or why it cannot be taken."""
    left = step.inputs[0] is source
    # One channel's outputs would need several weights.
    if number is None:
        return f"its constant of shape {list(_operand(step).shape)} is not one number per channel"
    if step.op == "Add":
        return scale, shift + number
    if step.op == "Sub":
        return (scale, shift - number) if left else (-scale, number - shift)
    if step.op == "Mul":
        return scale * number, shift * number
    # A constant divided by the result is not linear in the weight.
    if not left:
        return "a constant divided by the result is not linear"
    if not np.all(number):
        return "it divides by zero"
    return scale / number, shift / number
