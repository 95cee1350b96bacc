"""Sums of convolutions of the same tensor become one convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, operand
from qcompiler.passes._linear import Refusal, WeightEditor, normalization, rounded, weight
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_BRANCHES = ("Conv", "BatchNormalization")


@dataclass(frozen=True)
class MergeBranches(Pass):
    """``Add`` or ``Sub`` of two branches that read the same tensor becomes one Conv, at every depth; of more branches,
    two at a time. A branch is

    1. a Conv with constants, grouped or not, of any stride: the smaller window is laid into the larger one;
    2. a BatchNormalization that infers, beside a Conv that keeps size and number of channels: one more tap.

    Networks are trained so and meant to be merged before they are used ("RepVGG: Making VGG-style ConvNets Great
    Again", Ding et al. 2021, section 3.3); what is exported has often not been.

    Left alone: a tensor that is added to a Conv of itself, as residual connections do: in 8 bits its tap would take the
    others' precision. Refused: windows of which neither holds the other; other strides or groups; results that somebody
    else reads or that are returned; constants that are computed; weights that would overflow their type.
    """

    name: ClassVar[str] = "merge-branches"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        editor, returned = WeightEditor(graph), ir.output_tensors(graph)
        rewrites, refused = 0, []
        for inner in list(ir.all_graphs(graph)):
            here = set(inner.nodes)
            gone: set[ir.Node] = set()
            for node in inner.nodes:  # producers first: of three branches the first two become one before the third
                if node.op not in ("Add", "Sub") or node.domain:
                    continue
                made = [ir.producer(tensor) for tensor in node.inputs]
                branches = [one for one in made if one is not None and _is_branch(one) and one in here]
                if len(branches) < 2 or branches[0].inputs[0] is not branches[1].inputs[0]:
                    continue
                try:
                    kept, merged = _merged(branches, -1.0 if node.op == "Sub" else 1.0, returned, editor)
                except Refusal as refusal:
                    refused.append(Diagnostic(node.name, str(refusal), "refused"))
                    continue
                kept.outputs[0] = node.outputs[0]
                for old in (merged, node):
                    ir.detach(old)
                    gone.add(old)
                rewrites += 1
            inner.nodes[:] = [node for node in inner.nodes if node not in gone]
        return PassResult(rewrites, tuple(refused))


def _is_branch(node: ir.Node) -> bool:
    return node.op in _BRANCHES and not node.domain


@dataclass(frozen=True)
class _Window:
    """A Conv's weight ``[O, I, *kernel]`` and bias ``[O]``, float64, and where its taps lie on each spatial axis."""

    weight: np.ndarray
    bias: np.ndarray
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]


def _merged(
    branches: list[ir.Node], sign: float, returned: set[ir.Tensor], editor: WeightEditor
) -> tuple[ir.Node, ir.Node]:
    """The branch that computes the sum of both from now on, and the one to remove. ``sign``: of the second."""
    first, second = branches
    if first is second:
        raise Refusal("it adds a result to itself")
    for node in branches:
        result = node.outputs[0]
        if result in returned or len(result.outputs) > 1:
            raise Refusal(f"'{result.name}' has other readers")
    signs = {first: 1.0, second: sign}
    for large, small in ((first, second), (second, first)):
        if large.op != "Conv":
            continue
        into = _window(large)
        taps = _laid_into(_window(small), into) if small.op == "Conv" else _one_tap(small, into, editor.graph.opset)
        if taps is None:
            continue
        added, shift = taps
        kind, bias = large.inputs[1].dtype, operand(large, 2)
        fresh = rounded(signs[large] * into.weight + signs[small] * added, kind)
        fresh_bias = rounded(signs[large] * into.bias + signs[small] * shift, kind if bias is None else bias.dtype)
        editor.put(large, 1, fresh)
        editor.put(large, 2, fresh_bias)
        return large, small
    raise Refusal(f"neither of '{first.name}' and '{second.name}' has the other's window within its own")


def _window(node: ir.Node) -> _Window:
    values = weight(node)
    bias = operand(node, 2)
    shift = None if bias is None else constant(bias)
    if values is None or (bias is not None and shift is None):
        raise Refusal(f"the weight or the bias of '{node.name}' is computed")
    rank = values.ndim - 2
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        raise Refusal(f"'{node.name}' pads as its input needs it")
    pads = [int(pad) for pad in node.attrs.get("pads") or [0] * 2 * rank]
    strides, dilations = (node.attrs.get(name) or [1] * rank for name in ("strides", "dilations"))
    fits = (len(strides), len(dilations), len(pads)) == (rank, rank, 2 * rank)
    if not fits or (shift is not None and shift.shape != values.shape[:1]):
        raise Refusal(f"the attributes or the bias of '{node.name}' do not fit its weight")
    return _Window(
        values.astype(np.float64),
        np.zeros(len(values)) if shift is None else shift.astype(np.float64),
        int(node.attrs.get("group", 1)),
        tuple(strides),
        tuple(dilations),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
    )


def _laid_into(small: _Window, large: _Window) -> tuple[np.ndarray, np.ndarray] | None:
    """The small window's weight with zeros around it, of the large one's shape, and its bias; None where it does not
    fit."""
    if small.weight.shape[:2] != large.weight.shape[:2] or len(small.kernel) != len(large.kernel):
        return None
    if (small.groups, small.strides) != (large.groups, large.strides):
        return None
    places = [slice(None), slice(None)]
    for axis, length in enumerate(large.kernel):
        own, step = small.kernel[axis], large.dilations[axis]
        if own > 1 and small.dilations[axis] != step:
            return None
        before = large.begins[axis] - small.begins[axis]
        after = large.ends[axis] - small.ends[axis]
        first = before // step
        if before % step or first < 0 or before + after != step * (length - own) or first + own > length:
            return None
        places.append(slice(first, first + own))
    laid = np.zeros_like(large.weight)
    laid[tuple(places)] = small.weight
    return laid, small.bias


def _one_tap(node: ir.Node, large: _Window, opset: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A BatchNormalization as a weight and a bias of the window's shapes; None where the window changes the size or the
    number of channels."""
    scale, shift = normalization(node, opset)
    outputs, inputs = large.weight.shape[:2]
    if outputs != inputs * large.groups or outputs != scale.size or any(step != 1 for step in large.strides):
        return None
    tap: list[int] = []
    for length, step, begin, end in zip(large.kernel, large.dilations, large.begins, large.ends):
        if begin % step or begin // step >= length or begin + end != step * (length - 1):
            return None
        tap.append(begin // step)
    laid = np.zeros_like(large.weight)
    channels = np.arange(outputs)
    laid[tuple([channels, channels % inputs, *tap])] = scale
    return laid, shift
