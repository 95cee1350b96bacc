"""Zeros put around a tensor right before a convolution or a pooling are what its own padding means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._edit import constant, integers, operand
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.saturation import clip_bounds

_READERS = ("Conv", "AveragePool", "MaxPool")
_CHOOSING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Slice")
"""Operators that return some of the values that they read, and nothing else."""


class _Refusal(Exception):
    """A Pad that cannot go; the text says why."""


@dataclass(frozen=True)
class FoldPad(Pass):
    """Pad of spatial axes with a constant becomes the ``pads`` of what reads it, at every depth:

    1. zeros before Conv, added to the padding that it has;
    2. zeros before AveragePool, which counts them from then on (``count_include_pad``);
    3. -inf before MaxPool, or any value that the input is certainly not below, such as 0 behind a Relu.

    A Pad behind a Pad goes too, and one that several of these read goes into each of them. Refused: other modes and
    values; amounts that are computed or negative; batch and channel axes; a padded tensor that is returned or that
    something else reads, as the Pad would have to stay for it; readers that pad by ``auto_pad``, that round their
    output's size up, that count padding differently, or whose window the padding could fill; MaxPool with indices.
    """

    name: ClassVar[str] = "fold-pad"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        returned = ir.output_tensors(graph)
        rewrites, notes = 0, []
        for inner in ir.all_graphs(graph):
            for node in reversed(list(inner.nodes)):  # of two Pads the later one first
                readers = list(dict.fromkeys(node.outputs[0].outputs)) if node.op == "Pad" and not node.domain else []
                if not any(reader.op in _READERS for reader in readers):
                    continue
                try:
                    if node.outputs[0] in returned:
                        raise _Refusal(f"'{node.outputs[0].name}' is an output")
                    padded = [_padded(node, reader) for reader in readers]
                except _Refusal as refusal:
                    notes.append(Diagnostic(node.name, str(refusal), "refused"))
                    continue
                for reader, pads in zip(readers, padded):
                    reader.attrs.pop("auto_pad", None)
                    reader.attrs["pads"] = pads
                    if reader.op == "AveragePool":
                        reader.attrs["count_include_pad"] = 1
                    reader.inputs[0] = node.inputs[0]
                ir.detach(node)
                inner.nodes.remove(node)
                rewrites += 1
        return PassResult(rewrites, tuple(notes))


def _padded(pad: ir.Node, reader: ir.Node) -> list[int]:
    """The ``pads`` with which the reader does without the Pad."""
    if reader.op not in _READERS or reader.domain or any(t is pad.outputs[0] for t in reader.inputs[1:]):
        raise _Refusal(f"'{reader.name}' ({reader.op}) reads the padded tensor as well")
    begin, end = _amounts(pad, reader)
    spatial = len(begin)
    own = [int(p) for p in reader.attrs.get("pads", [0] * 2 * spatial)]
    # SAME sizes the padding by the padded input.
    automatic = reader.attrs.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        raise _Refusal(f"'{reader.name}' pads by auto_pad {automatic}")
    if automatic == "VALID":
        own = [0] * 2 * spatial
    pads = [p + o for p, o in zip((*begin, *end), own)]
    if reader.op == "Conv":
        if _value(pad) != 0.0:
            raise _Refusal(f"a Conv pads with zeros, this with {_value(pad):g}")
        return pads
    _check_pool(pad, reader, own, pads)
    return pads


def _check_pool(pad: ir.Node, pool: ir.Node, own: list[int], pads: list[int]) -> None:
    # Windows that start in the padding at the far end are left out there, and in a tensor they are not.
    if pool.attrs.get("ceil_mode", 0):
        raise _Refusal(f"'{pool.name}' rounds the size of its output up")
    kernel = [int(k) for k in pool.attrs["kernel_shape"]] * 2
    # A window of nothing but padding has no maximum, and ONNX Runtime takes no such padding for a mean either.
    if any(p >= k for p, k in zip(pads, kernel)) or any(d != 1 for d in pool.attrs.get("dilations", [])):
        raise _Refusal(f"a window of '{pool.name}' could lie in the padding only")
    value = _value(pad)
    if pool.op == "AveragePool":
        if value != 0.0:
            raise _Refusal(f"a mean takes in zeros for padding, this pads with {value:g}")
        # Its own padding would be counted from then on.
        if any(own) and not pool.attrs.get("count_include_pad", 0):
            raise _Refusal(f"'{pool.name}' does not count its own padding")
        return
    # Indices are positions in the padded tensor.
    if len(pool.outputs) > 1 and pool.outputs[1].name:
        raise _Refusal(f"'{pool.name}' returns indices")
    if not _least(pad.inputs[0]) >= value:
        raise _Refusal(f"'{pool.name}' ignores its padding, but the input may be below {value:g}")


def _amounts(pad: ir.Node, reader: ir.Node) -> tuple[list[int], list[int]]:
    """How many elements come before and behind, on each spatial axis."""
    if pad.attrs.get("mode", "constant") != "constant":
        raise _Refusal(f"it pads by mode {pad.attrs['mode']}")
    pads = integers(pad, "pads", 1)
    if pads is None:
        raise _Refusal("how much it pads is computed")
    half = len(pads) // 2
    rank, axes = half, list(range(half))
    if operand(pad, 3) is not None:
        given = integers(pad, "axes", 3)
        spatial = _spatial(reader)
        if given is None or spatial is None:
            raise _Refusal("which axes it pads is computed, or how many there are")
        rank = spatial + 2
        axes = [axis % rank for axis in given]
    begin, end = [0] * rank, [0] * rank
    for axis, before, behind in zip(axes, pads[:half], pads[half:]):
        begin[axis], end[axis] = before, behind
    # Negative amounts cut off.
    if min((*begin, *end)) < 0:
        raise _Refusal("it cuts elements off")
    if any((*begin[:2], *end[:2])):
        raise _Refusal("it pads the batch or the channels")
    return begin[2:], end[2:]


def _spatial(reader: ir.Node) -> int | None:
    """How many spatial axes a reader works on."""
    if reader.op != "Conv":
        return len(reader.attrs["kernel_shape"])
    shape = reader.inputs[1].shape
    return None if shape is None else len(shape) - 2


def _value(pad: ir.Node) -> float:
    tensor = operand(pad, 2)
    if tensor is None:
        return float(pad.attrs.get("value", 0.0))
    values = constant(tensor)
    if values is None or values.size != 1:
        raise _Refusal("what it pads with is computed")
    return float(values.reshape(-1)[0])


def _least(tensor: ir.Tensor) -> float:
    """A number that no element of the tensor is below (a NaN is below nothing)."""
    node = ir.producer(tensor)
    while node is not None and node.op in _CHOOSING and not node.domain:
        node = ir.producer(node.inputs[0])
    if node is None or node.domain:
        return -math.inf
    if node.op in ("Relu", "Sigmoid", "HardSigmoid", "Softmax"):
        return 0.0
    return (clip_bounds(node) or (-math.inf,))[0] if node.op == "Clip" else -math.inf
