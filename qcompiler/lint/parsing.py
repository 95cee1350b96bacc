"""What TensorRT or ONNX rules out: most of it does not parse or build, the rest is taken for something else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompiler import ir
from qcompiler.lint.rule import (
    DQ,
    STANDARD,
    Q,
    Subject,
    code_type,
    coded_constant,
    dequantizer,
    quantizer,
    readers,
    rule,
    scale_of,
)  # fmt: skip

_FOUR_BITS = ("int4", "uint4", "float4_e2m1fn")
_BLOCKS = {"int4": (64, 128), "float4_e2m1fn": (16,)}


@rule("T001", "error", "TensorRT has no such operator", "start from a float model that does without it")
def refused(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.domain in STANDARD and node.op in subject.target.refused:
            yield node.name, f"{node.op}: {subject.target.refused[node.op]}"


@rule("T002", "error", "only ONNX's own operators parse", "export without operators of other domains")
def foreign(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.nodes:
        if node.domain not in STANDARD and node.domain not in subject.target.domains:
            yield node.name, f"{node.op} of domain '{node.domain}'"


@rule("T003", "error", "TensorRT quantizes to int8, FP8 and 4 bits only", "quantize symmetrically to int8")
def types(subject: Subject) -> Iterator[tuple[str, str]]:
    known = ("int8", "int32", "float8_e4m3fn", "float8_e5m2", *_FOUR_BITS)
    for node in subject.ops(Q, DQ):
        kind = code_type(node)
        if kind is not None and kind.name not in known and (node.op == Q or quantizer(node) is None):
            yield node.name, f"codes are {kind.name}"


@rule("T004", "error", "zero points must be zero", "quantize symmetrically")
def zero_points(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q, DQ):
        point = node.inputs[2] if len(node.inputs) > 2 and _first(node) else None
        if isinstance(point, ir.Constant) and point.values.dtype.name == "int8" and point.values.any():
            yield node.name, f"zero point {point.values.reshape(-1)[0]}"


@rule("T005", "error", "a bias in int32 is not parsed", "leave biases in float: the kernel adds them")
def biases(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(DQ):
        if code_type(node) == np.int32:
            yield node.name, "dequantizes int32"


@rule("T006", "error", "scales must be known when the engine is built", "calibrate: INT8 is not dynamic here")
def computed_scales(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q, DQ):
        if scale_of(node) is None and dequantizer(node.inputs[1]) is None:  # those of NVFP4's blocks are codes
            yield node.name, f"its scale '{node.inputs[1].name}' is computed"


@rule("T007", "error", "a scale is a positive number", "calibrate again; leave out what never has a value")
def positive_scales(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q, DQ):
        scale = scale_of(node)
        if scale is not None and not bool(np.all(np.isfinite(scale) & (scale > 0))):
            yield node.name, f"a scale is {scale.reshape(-1)[np.argmin(scale)]:g}"


def _since(subject: Subject, opset: int, uses: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    if subject.graph.opset < opset:
        yield from uses


@rule("T008", "error", "Q and DQ know axes since opset 13", "raise the opset: qcompiler compile does")
def old_axes(subject: Subject) -> Iterator[tuple[str, str]]:
    found = ((n.name, f"opset {subject.graph.opset}, a scale an index") for n in subject.ops(Q, DQ) if _many(n))
    yield from _since(subject, 13, found)


@rule("T009", "error", "FP8 and 16-bit scales came with opset 19", "raise the opset: qcompiler compile does")
def old_types(subject: Subject) -> Iterator[tuple[str, str]]:
    def uses() -> Iterator[tuple[str, str]]:
        for node in subject.ops(Q, DQ):
            kind, scale = code_type(node), node.inputs[1].dtype
            narrow = scale is not None and np.dtype(scale).itemsize == 2
            if narrow or (kind is not None and kind.name.startswith("float8")):
                yield node.name, f"opset {subject.graph.opset}"

    yield from _since(subject, 19, uses())


@rule("T010", "error", "4-bit types and blocks came with opset 21", "raise the opset: qcompiler compile does")
def old_blocks(subject: Subject) -> Iterator[tuple[str, str]]:
    found = ((n.name, f"opset {subject.graph.opset}") for n in subject.ops(Q, DQ) if _bits4(n) or _block(n))
    yield from _since(subject, 21, found)


@rule("T018", "error", "FP4 came with opset 23", "raise the opset: qcompiler compile does")
def old_fp4(subject: Subject) -> Iterator[tuple[str, str]]:
    def uses() -> Iterator[tuple[str, str]]:
        for node in subject.ops(Q, DQ):
            kind = code_type(node)
            if kind is not None and kind.name == "float4_e2m1fn":
                yield node.name, f"opset {subject.graph.opset}"

    yield from _since(subject, 23, uses())


@rule("T011", "error", "of the FP8 types TensorRT has E4M3", "quantize to float8_e4m3fn")
def other_fp8(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q, DQ):
        kind = code_type(node)
        if kind is not None and kind.name.startswith("float8") and kind.name != "float8_e4m3fn" and _first(node):
            yield node.name, f"codes are {kind.name}"


@rule("T012", "error", "INT4 is for weights", "leave activations in 16 bits, or quantize to 8")
def four_bit_activations(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(Q):
        kind = code_type(node)
        if kind is not None and kind.name in ("int4", "uint4") and not ir.is_constant(node.inputs[0]):
            yield node.name, f"quantizes '{node.inputs[0].name}' to {kind.name}"


@rule("T013", "error", "4-bit weights come in blocks of one size", "use blocks of 64 or 128 (INT4), 16 (FP4)")
def blocks(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(DQ):
        kind = code_type(node)
        sizes = _BLOCKS.get(kind.name) if kind is not None else None
        if sizes and coded_constant(node) is not None and _block(node) not in sizes:
            yield node.name, f"blocks of {_block(node)}" if _block(node) else "no blocks"


@rule("T014", "error", "two 4-bit codes share a byte", "pad the last axis to an even length")
def odd_lengths(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(DQ):
        weight = coded_constant(node)
        length = weight.values.shape[-1] if weight is not None and weight.values.ndim else 0
        if length % 2 and _bits4(node):
            yield node.name, f"the last axis of its weight is {length} long"


@rule("T015", "error", "codes are only for a DQ to read", "put a DQ behind every Q")
def bare_codes(subject: Subject) -> Iterator[tuple[str, str]]:
    moves = frozenset((DQ, "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Flatten", "Slice", "Concat"))
    outputs = ir.output_tensors(subject.graph)
    for node in subject.ops(Q):
        codes = node.outputs[0]
        strange = [reader.op for reader in readers(codes) if reader.op not in moves]
        if strange or codes in outputs:
            yield node.name, f"its codes are read by {strange[0]}" if strange else "its codes are an output"


@rule("T016", "error", "a Q and its DQ are one rounding", "give both the same scale")
def pairs(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops(DQ):
        source = quantizer(node)
        if source is not None:
            first, second = scale_of(source), scale_of(node)
            if first is not None and second is not None and not np.array_equal(first, second):
                yield node.name, f"another scale than {source.name} has"


@rule("T017", "error", "types are not converted by themselves", "put a Cast between")
def mixed_floats(subject: Subject) -> Iterator[tuple[str, str]]:
    for node in subject.ops("Add", "Conv", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "Sub"):
        kinds = {np.dtype(t.dtype).name for t in node.inputs if t.name and t.dtype is not None}
        if len(kinds) > 1:
            yield node.name, f"reads {' and '.join(sorted(kinds))}"


def _many(node: ir.Node) -> bool:
    scale = scale_of(node)
    return scale is not None and scale.size > 1


def _block(node: ir.Node) -> int:
    return int(node.attrs.get("block_size", 0))


def _bits4(node: ir.Node) -> bool:
    kind = code_type(node)
    return kind is not None and kind.name in _FOUR_BITS


def _first(node: ir.Node) -> bool:
    """Whether it is the first to say the type: a Q, or a DQ of stored codes."""
    return node.op == Q or quantizer(node) is None

