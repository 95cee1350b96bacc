"""A transposed convolution in codes becomes a convolution and a change of layout."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import operand
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

BETWEEN = ("Clip", "Relu")
"""What may stand between the convolution and the QuantizeLinear that absorbs it."""


@dataclass(frozen=True)
class SubpixelConv(Pass):
    """``QuantizeLinear(ConvTranspose(DQ(x), DQ(W), DQ(b)))`` with strides of s becomes a Conv with s (of pictures, s²)
    times the channels, its QuantizeLinear, and moves of the codes to where they belong: a sub-pixel convolution (Shi et
    al. 2016, section 3.2), which ONNX Runtime computes in 8 bits. The same but for the order of sums.

    1. Results that are s times as long as the input, see ``phases``. Where windows lie side by side the Conv has one
       tap; where they overlap it has those that any phase of the result sees, and zeros where one does not.
    2. Relu and Clip before the QuantizeLinear stay there.
    3. Codes are moved with channels last, as ONNX Runtime's convolutions return and read them: nothing else changes
       layout, and its DepthToSpace of codes takes longer than the convolution.

    Left alone: what is read in float as well, and weights without one scale an output or in all, or with zero points.
    """

    name: ClassVar[str] = "subpixel-conv"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, returned, rewrites = ir.Namer(graph), ir.output_tensors(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            found = phases(node)
            if found is None or not all(_dequantized(tensor) for tensor in node.inputs) or _has_zero_points(node):
                continue
            made = _quantized(node, returned)
            if made is None:
                continue
            x, *constants = node.inputs
            node.inputs = [x, *(_repeated(tensor, found, inner, namer) for tensor in constants)]
            pads = [-axis.first for axis in found.axes] + [axis.last for axis in found.axes]
            node.op, node.attrs = "Conv", OrderedDict({"pads": pads} if any(pads) else {})
            shape = made[0].shape
            for tensor in made[:-1]:
                tensor.name, tensor.shape = namer(f"{tensor.name}_folded"), None
            _spread(made[-1], found, shape, inner, namer)
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


@dataclass(frozen=True)
class Axis:
    """Of one axis: result ``stride · m + r`` sees the inputs ``m + first`` to ``m + last``, that at ``m + j`` through
    the tap ``r + pad − stride · j``, if there is one."""

    kernel: int
    pad: int
    first: int
    last: int

    def tap(self, phase: int, offset: int, stride: int) -> int | None:
        place = phase + self.pad - stride * offset
        return place if 0 <= place < self.kernel else None


@dataclass(frozen=True)
class Phases:
    """How a transposed convolution falls apart into ordinary ones, one for each phase of its result on each axis."""

    stride: int
    axes: tuple[Axis, ...]

    @property
    def count(self) -> int:
        return int(self.stride ** len(self.axes))


def phases(node: ir.Node) -> Phases | None:
    """Of a transposed convolution of one group, on one or two axes, whose result is ``stride`` times as long as its
    input on each: its kernel and output_padding less its pads are the stride. None of any other."""
    if node.op != "ConvTranspose" or node.domain or node.attrs.get("group", 1) != 1 or "output_shape" in node.attrs:
        return None
    kernel = list(node.inputs[1].shape or ())[2:]
    strides, count = list(node.attrs.get("strides", ())), len(kernel)
    if count not in (1, 2) or len(strides) != count or len(set(strides)) != 1:
        return None
    plain = node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if not plain or any(one != 1 for one in node.attrs.get("dilations", ())):
        return None
    (stride,) = set(strides)
    pads, more = node.attrs.get("pads", [0] * 2 * count), node.attrs.get("output_padding", [0] * count)
    if len(pads) != 2 * count or len(more) != count:
        return None
    axes: list[Axis] = []
    for size, before, after, extra in zip(kernel, pads, pads[count:], more):
        if size + extra - before - after != stride or stride < 2:
            return None
        first = min(math.ceil((phase + before - size + 1) / stride) for phase in range(stride))
        last = max((phase + before) // stride for phase in range(stride))
        if first > 0 or last < 0:
            return None
        axes.append(Axis(size, before, first, last))
    return Phases(stride, tuple(axes))


def _dequantized(tensor: ir.Tensor) -> bool:
    """Whether a DQ makes it; with the same step for all, or one for each channel."""
    node = ir.producer(tensor)
    known = node is not None and node.op == "DequantizeLinear" and "block_size" not in node.attrs
    return known and all(ir.is_constant(one) for one in node.inputs[1:])  # type: ignore[union-attr]


def _has_zero_points(node: ir.Node) -> bool:
    """Whether zero is not code 0 in the weight."""
    made = ir.producer(node.inputs[1])
    zero = None if made is None else operand(made, 2)
    return zero is not None and bool(zero.values.any())


def _quantized(node: ir.Node, returned: set[ir.Tensor]) -> list[ir.Variable] | None:
    """What the node and those between compute, and then the codes of it; None where somebody else reads one of them."""
    made = [node.outputs[0]]
    while len(made[-1].outputs) == 1 and made[-1] not in returned:
        reader = made[-1].outputs[0]
        made.append(reader.outputs[0])
        if reader.op == "QuantizeLinear":
            return made if per_tensor(reader) and made[-1] not in returned else None
        if reader.op not in BETWEEN:
            return None
    return None


def _repeated(tensor: ir.Tensor, found: Phases, graph: ir.Graph, namer: ir.Namer) -> ir.Variable:
    """A weight ``[inputs, outputs, kernel]`` as ``[phases · outputs, inputs, taps]``, a bias ``[outputs]`` so many
    times."""
    node = ir.producer(tensor)
    assert node is not None
    codes, *steps = node.inputs
    values = by_phase(codes.values, found) if codes.values.ndim > 1 else np.tile(codes.values, found.count)
    inputs = [ir.Constant(namer(f"{codes.name}_folded"), np.ascontiguousarray(values))]
    for one in steps:
        wide = one.values if one.values.ndim == 0 else np.tile(one.values, found.count)
        inputs.append(ir.Constant(namer(f"{one.name}_folded"), wide))
    result = ir.Variable(namer(f"{tensor.name}_folded"), tensor.dtype)
    attributes = {"axis": 0} if steps[0].values.ndim else {}
    name = namer(f"{node.name}_folded")
    graph.nodes.append(ir.Node("DequantizeLinear", name, attributes, inputs=inputs, outputs=[result]))
    return result


def by_phase(weight: np.ndarray, found: Phases) -> np.ndarray:
    """The weight ``[inputs, outputs, kernel]`` of a transposed convolution as that of a Conv of all phases, phase by
    phase, ``[phases · outputs, inputs, taps]``."""
    inputs, outputs = weight.shape[:2]
    taps = [axis.last - axis.first + 1 for axis in found.axes]
    axes = len(taps)
    moved = np.moveaxis(weight, (0, 1), (-1, -2))  # [kernel, outputs, inputs]
    wide = np.zeros((*[found.stride] * axes, *taps, outputs, inputs), weight.dtype)
    for phase in itertools.product(range(found.stride), repeat=axes):
        for place in itertools.product(*map(range, taps)):
            through = zip(found.axes, phase, place)
            seen = [axis.tap(r, axis.first + step, found.stride) for axis, r, step in through]
            known = tuple(one for one in seen if one is not None)
            if len(known) == axes:
                wide[phase + place] = moved[known]
    return np.moveaxis(wide, (-2, -1), (axes, axes + 1)).reshape(-1, inputs, *taps)


def _spread(
    codes: ir.Variable, found: Phases, shape: Sequence[object] | None, graph: ir.Graph, namer: ir.Namer
) -> None:
    """Moves the codes ``[N, phases · C, H, W]`` to ``[N, C, s · H, s · W]``, the ``shape`` as far as it is known; those
    of one axis without the second."""
    size, axes = found.stride, len(found.axes)
    quantize = codes.inputs[0]
    folded = ir.Variable(namer(f"{codes.name}_folded"), codes.dtype)
    quantize.outputs = [folded]

    def add(op: str, *inputs: ir.Tensor, dtype: object = codes.dtype, **attributes: object) -> ir.Variable:
        result = ir.Variable(namer(f"{codes.name}_{op}"), np.dtype(dtype))  # type: ignore[call-overload]
        graph.nodes.append(ir.Node(op, namer(f"{codes.name}_{op}"), attributes, inputs=list(inputs), outputs=[result]))
        return result

    def sizes(hint: str, *values: int) -> ir.Constant:
        return ir.Constant(namer(f"{codes.name}_{hint}"), np.array(values, np.int64))

    last = add("Transpose", folded, perm=[0, *range(2, axes + 2), 1])
    moved = last  # of one axis they lie as they are to
    if axes == 2:
        apart = add("Reshape", last, sizes("apart", 0, 0, 0, size, -1))
        moved = add("Transpose", apart, perm=[0, 1, 3, 2, 4])
    known = [one if isinstance(one, int) else -1 for one in (shape or [-1] * (axes + 2))]
    if known.count(-1) - (known[0] == -1) <= 1 and known[1] != -1:
        target: ir.Tensor = sizes("joined", 0, *known[2:], known[1])
    else:
        before = add("Shape", last, dtype=np.int64)
        wider = add("Mul", before, sizes("wider", 1, *[size] * axes, 1), dtype=np.int64)
        target = add("Div", wider, sizes("deeper", *[1] * (axes + 1), found.count), dtype=np.int64)
    joined = add("Reshape", moved, target)
    perm = [0, axes + 1, *range(1, axes + 1)]
    name = namer(f"{codes.name}_first")
    graph.nodes.append(ir.Node("Transpose", name, {"perm": perm}, inputs=[joined], outputs=[codes]))
