"""A transposed convolution in codes whose windows tile its result becomes a convolution and a change of layout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

BETWEEN = ("Clip", "Relu")
"""What may stand between the convolution and the QuantizeLinear that absorbs it."""


@dataclass(frozen=True)
class SubpixelConv(Pass):
    """``QuantizeLinear(ConvTranspose(DQ(x), DQ(W), DQ(b)))`` becomes a Conv of one tap with k² times the channels, its
    QuantizeLinear, and moves of the codes to where they belong: a sub-pixel convolution (Shi et al. 2016, section 3.2),
    which ONNX Runtime computes in 8 bits. The same but for the order of sums.

    1. Strides that are as long as the kernel, two axes of one length, no padding: see ``tiles``.
    2. Relu and Clip before the QuantizeLinear stay there.
    3. Codes are moved with channels last, as ONNX Runtime's convolutions return and read them: nothing else changes
       layout, and its DepthToSpace of codes takes longer than the convolution.

    Left alone: what is read in float as well, and weights without one scale an output or in all.
    """

    name: ClassVar[str] = "subpixel-conv"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, returned, rewrites = ir.Namer(graph), ir.output_tensors(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            if not tiles(node) or not all(_dequantized(tensor) for tensor in node.inputs):
                continue
            made = _quantized(node, returned)
            if made is None:
                continue
            size = int(node.inputs[1].shape[2])
            x, *constants = node.inputs
            node.inputs = [x, *(_repeated(tensor, size, inner, namer) for tensor in constants)]
            node.op, node.attrs = "Conv", OrderedDict()
            shape = made[0].shape
            for tensor in made[:-1]:
                tensor.name, tensor.shape = namer(f"{tensor.name}_folded"), None
            _spread(made[-1], size, shape, inner, namer)
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def tiles(node: ir.Node) -> bool:
    """Whether it is a transposed convolution, of one group, whose windows lie side by side and cover its result."""
    if node.op != "ConvTranspose" or node.domain or node.attrs.get("group", 1) != 1 or "output_shape" in node.attrs:
        return False
    kernel = list(node.inputs[1].shape or ())[2:]
    if len(kernel) != 2 or kernel[0] != kernel[1] or list(node.attrs.get("strides", ())) != kernel:
        return False
    padded = any(any(node.attrs.get(name, ())) for name in ("pads", "output_padding"))
    plain = node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return plain and not padded and all(one == 1 for one in node.attrs.get("dilations", ()))


def _dequantized(tensor: ir.Tensor) -> bool:
    """Whether a DQ makes it; with the same step for all, or one for each channel."""
    node = ir.producer(tensor)
    known = node is not None and node.op == "DequantizeLinear" and "block_size" not in node.attrs
    return known and all(ir.is_constant(one) for one in node.inputs[1:])  # type: ignore[union-attr]


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


def _repeated(tensor: ir.Tensor, size: int, graph: ir.Graph, namer: ir.Namer) -> ir.Variable:
    """A weight ``[inputs, outputs, k, k]`` as ``[k² · outputs, inputs, 1, 1]``, a bias ``[outputs]`` k² times."""
    node = ir.producer(tensor)
    assert node is not None
    codes, *steps = node.inputs
    if codes.values.ndim == 4:
        values = codes.values.transpose(2, 3, 1, 0).reshape(-1, codes.values.shape[0], 1, 1)
    else:
        values = np.tile(codes.values, size * size)
    inputs = [ir.Constant(namer(f"{codes.name}_folded"), np.ascontiguousarray(values))]
    for one in steps:
        wide = one.values if one.values.ndim == 0 else np.tile(one.values, size * size)
        inputs.append(ir.Constant(namer(f"{one.name}_folded"), wide))
    result = ir.Variable(namer(f"{tensor.name}_folded"), tensor.dtype)
    attributes = {"axis": 0} if steps[0].values.ndim else {}
    name = namer(f"{node.name}_folded")
    graph.nodes.append(ir.Node("DequantizeLinear", name, attributes, inputs=inputs, outputs=[result]))
    return result


def _spread(codes: ir.Variable, size: int, shape: Sequence[object] | None, graph: ir.Graph, namer: ir.Namer) -> None:
    """Moves the codes ``[N, k² · C, H, W]`` to ``[N, C, k · H, k · W]``, the ``shape`` as far as it is known."""
    quantize = codes.inputs[0]
    folded = ir.Variable(namer(f"{codes.name}_folded"), codes.dtype)
    quantize.outputs = [folded]

    def add(op: str, *inputs: ir.Tensor, dtype: object = codes.dtype, **attributes: object) -> ir.Variable:
        result = ir.Variable(namer(f"{codes.name}_{op}"), np.dtype(dtype))  # type: ignore[call-overload]
        graph.nodes.append(ir.Node(op, namer(f"{codes.name}_{op}"), attributes, inputs=list(inputs), outputs=[result]))
        return result

    def sizes(hint: str, *values: int) -> ir.Constant:
        return ir.Constant(namer(f"{codes.name}_{hint}"), np.array(values, np.int64))

    last = add("Transpose", folded, perm=[0, 2, 3, 1])
    apart = add("Reshape", last, sizes("apart", 0, 0, 0, size, -1))
    moved = add("Transpose", apart, perm=[0, 1, 3, 2, 4])
    known = [one if isinstance(one, int) else -1 for one in (shape or [-1] * 4)]
    if known.count(-1) - (known[0] == -1) <= 1 and known[1] != -1:
        target: ir.Tensor = sizes("joined", 0, known[2], known[3], known[1])
    else:
        before = add("Shape", last, dtype=np.int64)
        wider = add("Mul", before, sizes("wider", 1, size, size, 1), dtype=np.int64)
        target = add("Div", wider, sizes("deeper", 1, 1, 1, size * size), dtype=np.int64)
    joined = add("Reshape", moved, target)
    name = namer(f"{codes.name}_first")
    graph.nodes.append(ir.Node("Transpose", name, {"perm": [0, 3, 1, 2]}, inputs=[joined], outputs=[codes]))
