"""What makes TensorRT run a layer in float that was meant to run in few bits, or rounds without a gain."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qcompiler import ir
from qcompiler.lint.rule import (
    DQ,
    HEAVY,
    Q,
    Subject,
    code_type,
    coded_constant,
    dequantizer,
    quantized,
    quantizer,
    readers,
    rule,
    same_scale,
    scale_of,
)  # fmt: skip

MOVES = frozenset(("MaxPool", "Reshape", "Transpose"))
FLOATING = frozenset(("Erf", "Gelu", "LayerNormalization", "InstanceNormalization", "ReduceMean", "Softmax", "Sqrt"))
_ACTIVATIONS = frozenset(("Clip", "Gelu", "LeakyRelu", "Relu", "Sigmoid", "Tanh"))
_WEIGHTS_ALONE = ("int4", "float4_e2m1fn")
_ENOUGH = 8


@rule("P001", "warning", "a product is in few bits when both its sides are", "quantize the other input too")
def one_side(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(*HEAVY):
        sides = [dequantizer(tensor) for tensor in node.inputs[:2]]
        if (sides[0] is None) == (sides[1] is None):
            continue
        coded = next(side for side in sides if side is not None)
        kind = code_type(coded)
        if kind is None or kind.name not in _WEIGHTS_ALONE:
            yield node.name, f"input {0 if sides[0] is None else 1} is in float"


@rule("P002", "warning", "Conv, BatchNormalization and Relu are one kernel", "quantize behind the Relu, not before it")
def inside_a_kernel(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("BatchNormalization", "Relu", "Clip"):
        source = dequantizer(node.inputs[0])
        maker = _source(source)
        if source is not None and maker is not None and maker.op in ("Conv", "Gemm", "BatchNormalization"):
            yield node.name, f"Q and DQ between {maker.name} and {node.name}"


@rule("P003", "warning", "a result that is read in float is not to be rounded", "take Q and DQ from the result away")
def rounded_result(subject: Subject) -> Iterator[tuple[str, str]]:
    outputs = ir.output_tensors(subject.graph)
    for node in subject.ops(DQ):
        maker = _source(node)
        if maker is not None and maker.op in HEAVY and node.outputs[0] in outputs:
            yield node.name, f"rounds what {maker.name} returns to the caller"


@rule("P004", "warning", "the kernel adds the shortcut to its exact sum", "quantize the shortcut only")
def both_sides_of_an_addition(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Add"):
        sides = [dequantizer(tensor) for tensor in node.inputs]
        if all(side is not None for side in sides):
            for side in sides:
                maker = _source(side)
                fresh = maker is not None and maker.op == "Conv" and len(readers(maker.outputs[0])) == 1
                codes = ir.producer(side.inputs[0]) if side is not None else None
                if fresh and codes is not None and len(readers(codes.outputs[0])) == 1:
                    yield node.name, "what a Conv returns is rounded before it is added"
                    break


@rule("P005", "warning", "joined with one scale codes are only copied", "give all inputs of the Concat one scale")
def joined(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Concat"):
        sides = [side for tensor in node.inputs if (side := dequantizer(tensor)) is not None]
        if len(sides) == len(node.inputs) and any(not same_scale(sides[0], side) for side in sides[1:]):
            yield node.name, "its inputs have different scales"


@rule("P006", "warning", "kernels take one scale an output channel", "use axis 0 (Conv, transB) or 1 (MatMul)")
def axes(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Conv", "Gemm", "MatMul"):
        side = dequantizer(node.inputs[1]) if len(node.inputs) > 1 else None
        weight = coded_constant(side) if side is not None else None
        if side is None or weight is None or side.attrs.get("block_size"):
            continue
        scale = scale_of(side)
        rank = weight.values.ndim
        wanted = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else rank - 1
        axis = int(side.attrs.get("axis", 1)) % max(rank, 1)
        if scale is not None and scale.size > 1 and axis != wanted:
            yield node.name, f"a scale an index of axis {axis} of '{weight.name}'"


@rule("P007", "warning", "activations have one scale", "use one scale for the tensor; smooth outlying channels")
def channels_of_activations(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q):
        scale = scale_of(node)
        if scale is not None and scale.size > 1 and not ir.is_constant(node.inputs[0]):
            if not node.attrs.get("block_size"):
                yield node.name, f"{scale.size} scales for '{node.inputs[0].name}'"


@rule("P008", "warning", "what moves values has one scale on both sides", "give the Q behind it the scale before it")
def moved(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(*MOVES):
        before = dequantizer(node.inputs[0])
        behind = [reader for reader in readers(node.outputs[0]) if reader.op == Q]
        if before is not None and any(not same_scale(before, one) for one in behind):
            yield node.name, "rounds anew what it only moves"


@rule("P009", "warning", "it computes in float: codes before it only cost rounding", "leave its input in float")
def floating(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(*sorted(FLOATING)):
        side = dequantizer(node.inputs[0])
        if side is not None and quantizer(side) is not None:
            others = [r for r in _readers_of_codes(side) if r.op in HEAVY]
            if not others:
                yield node.name, f"{node.op} reads rounded values"


@rule("P010", "warning", "a product with a vector only reads its weight", "leave it in float, or use INT4 weights")
def vectors(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Gemm", "MatMul"):
        shape = node.inputs[0].shape
        weight = dequantizer(node.inputs[1])
        if not quantized(node) or not shape or weight is None or coded_constant(weight) is None:
            continue
        if all(isinstance(size, int) for size in shape[:-1]) and math.prod(shape[:-1]) == 1:
            yield node.name, f"{shape} times a matrix"


@rule("P011", "warning", "kernels work on tiles of channels", "leave products with few channels in float")
def small(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Gemm", "MatMul"):
        side = dequantizer(node.inputs[1])
        weight = coded_constant(side) if side is not None else None
        if quantized(node) and weight is not None and weight.values.ndim == 2 and min(weight.values.shape) < _ENOUGH:
            yield node.name, f"{' x '.join(map(str, weight.values.shape))} weights"


@rule("P012", "warning", "attention is one kernel when both its products are alike", "quantize both or neither")
def attention(subject: Subject) -> Iterator[tuple[str, str]]:
    for softmax in subject.ops("Softmax"):
        before = _back(softmax.inputs[0])
        behind = _forward(softmax.outputs[0])
        if before is None or behind is None:
            continue
        if quantized(before) != quantized(behind):
            one, other = (before, behind) if quantized(before) else (behind, before)
            yield softmax.name, f"{one.name} is in 8 bits, {other.name} is not"


@rule("P013", "warning", "what a Softmax returns reaches 1 and FP8 448", "use the scale 1/448")
def fp8_softmax(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q):
        maker = ir.producer(node.inputs[0])
        kind, scale = code_type(node), scale_of(node)
        if maker is not None and maker.op == "Softmax" and kind is not None and kind.name == "float8_e4m3fn":
            if scale is not None and float(scale.max()) > 1.01 / 448.0:
                yield node.name, f"its scale is {float(scale.max()):.4g}"


@rule("P014", "warning", "a pooled sequence takes two kernels more", "pool four axes: Unsqueeze before, Squeeze behind")
def pooled_sequence(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("GlobalAveragePool", "GlobalMaxPool"):
        shape, activation = node.inputs[0].shape, ir.producer(node.inputs[0])
        if shape is None or len(shape) != 3 or activation is None or activation.op not in _ACTIVATIONS:
            continue
        maker = ir.producer(activation.inputs[0])
        while maker is not None and maker.op in ("Add", "Squeeze"):
            maker = ir.producer(maker.inputs[0])
        if maker is not None and maker.op == "Conv" and quantized(maker):
            yield node.name, f"pools three axes of what {maker.name} computes in few bits"


def _source(side: ir.Node | None) -> ir.Node | None:
    """What computes the tensor that a DQ returns rounded."""
    source = quantizer(side) if side is not None else None
    return ir.producer(source.inputs[0]) if source is not None else None


def _readers_of_codes(side: ir.Node) -> list[ir.Node]:
    """All that reads the same codes through DQs."""
    found: list[ir.Node] = []
    for other in readers(side.inputs[0]):
        if other.op == DQ:
            found += readers(other.outputs[0])
    return found


_AROUND = frozenset(("Add", "Cast", "Div", "Mul", "Reshape", "Sub", "Transpose", "Where"))


def _back(tensor: ir.Tensor) -> ir.Node | None:
    node = ir.producer(tensor)
    while node is not None and node.op in _AROUND:
        node = ir.producer(node.inputs[0])
    return node if node is not None and node.op == "MatMul" else None


def _forward(tensor: ir.Tensor) -> ir.Node | None:
    for _ in range(8):
        following = readers(tensor)
        if len(following) != 1 or following[0].op not in (_AROUND | {Q, DQ, "MatMul"}):
            return None
        if following[0].op == "MatMul":
            return following[0]
        tensor = following[0].outputs[0]
    return None


