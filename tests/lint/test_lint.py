"""Each planted fault breaks one rule, and that one only; good models break none."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pass_helpers import program
from planned import weights

from qcompiler import Options, ir
from qcompiler.compiler import compile
from qcompiler.errors import ModelError, TargetError, VerificationError
from qcompiler.lint import RULES, lint, refuse
from qcompiler.target_files import load_target
from qcompiler.verify import tensorrt
from qcompiler.verify.tensorrt_builder import package

TARGET = load_target("tensorrt")
FP8, INT4 = ml_dtypes.float8_e4m3fn, ml_dtypes.int4


def codes(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    return np.random.default_rng(1).integers(-7, 8, shape).astype(dtype)


def steps(count: int, dtype: Any = np.float32) -> np.ndarray:
    return np.full(count, 0.5, dtype)


CONSTANTS: dict[str, np.ndarray] = {
    "s": np.float32(0.25), "t": np.float32(0.5), "z": np.int8(0),
    "w": codes(8, 8, 3, 3), "ws": steps(8), "wz": np.zeros(8, np.int8),
    "m": codes(64, 64), "ms": steps(64), "mz": np.zeros(64, np.int8),
    "f": np.ones((8, 8, 3, 3), np.float32), "fm": np.ones((64, 64), np.float32),
}  # fmt: skip


def rounded(name: str, scale: str = "s", zero: str = "z") -> str:
    """``NAMEd``: the tensor through Q and DQ."""
    return f"{name}q = QuantizeLinear({name}, {scale}, {zero}) {name}d = DequantizeLinear({name}q, {scale}, {zero}) "


CONV = "v = DequantizeLinear<axis = 0>(w, ws, wz) "
MATMUL = "v = DequantizeLinear<axis = 1>(m, ms, mz) "
PICTURE = "(float[1,8,8,8] x) => (float y) "
ROWS = "(float[16,64] x) => (float y) "
HEADS = "(float[1,4,32,32] q, float[1,4,32,32] k, float[1,4,32,32] u) => (float y) "

FAULTS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "MatMulInteger": ("T001", "(int8[16,64] x) => (int32 y) { y = MatMulInteger(x, m) }", {}, 21),
    "NonZero": ("T001", "(float[4] x) => (int64 y) { y = NonZero(x) }", {}, 21),
    "other domain": ("T002", "(float[4] x) => (float[4] y) { y = custom.Gelu(x) }", {}, 21),
    "uint8": ("T003", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {"z": np.uint8(0)}, 21),
    "int16": ("T003", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {"z": np.int16(0)}, 21),
    "zero point": ("T004", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {"z": np.int8(3)}, 21),
    "bias": (
        "T005", PICTURE + "{ " + rounded("x") + CONV + "c = DequantizeLinear<axis = 0>(b, ws) y = Conv(xd, v, c) }",
        {"b": codes(8, dtype=np.int32)}, 21),
    "computed scale": (
        "T006", "(float[1,8,8,8] x, float[] n) => (float y) { " + rounded("x", "n") + CONV + "y = Conv(xd, v) }",
        {}, 21),
    "scale of zero": (
        "T007", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {"ws": np.zeros(8, np.float32)}, 21),
    "infinite scale": (
        "T007", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {"s": np.float32(np.inf)}, 21),
    "axes before 13": (
        "T008", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {}, 12),
    "FP8 before 19": ("T009", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {
        "z": np.array(0, FP8), "w": codes(8, 8, 3, 3, dtype=FP8), "wz": np.zeros(8, FP8)}, 17),
    "float16 scale before 19": (
        "T009", "(float16[16,64] x) => (float16 y) { " + rounded("x") + MATMUL + "y = MatMul(xd, v) }",
        {"s": np.float16(0.25), "ms": steps(64, np.float16)}, 17),
    "INT4 before 21": (
        "T010", ROWS + "{ v = DequantizeLinear<axis = 0, block_size = 64>(m, ms) y = MatMul(x, v) }",
        {"m": codes(64, 64, dtype=INT4), "ms": np.ones((1, 64), np.float32)}, 19),
    "FP4 before 23": (
        "T018", ROWS + "{ v = DequantizeLinear<axis = 0, block_size = 16>(m, c) y = MatMul(x, v) }",
        {"m": codes(64, 64, dtype=ml_dtypes.float4_e2m1fn), "c": np.ones((4, 64), np.float32)}, 21),
    "E5M2": ("T011", PICTURE + "{ " + rounded("x") + CONV + "y = Conv(xd, v) }", {
        "z": np.array(0, ml_dtypes.float8_e5m2), "w": codes(8, 8, 3, 3, dtype=FP8), "wz": np.zeros(8, FP8)}, 21),
    "INT4 activation": (
        "T012",
        ROWS + "{ " + rounded("x") + "v = DequantizeLinear<axis = 0, block_size = 64>(m, ms) y = MatMul(xd, v) }",
        {"z": np.array(0, INT4), "m": codes(64, 64, dtype=INT4), "ms": np.ones((1, 64), np.float32)}, 21),
    "small blocks": (
        "T013", ROWS + "{ v = DequantizeLinear<axis = 0, block_size = 32>(m, ms) y = MatMul(x, v) }",
        {"m": codes(64, 64, dtype=INT4), "ms": np.ones((2, 64), np.float32)}, 21),
    "odd length": (
        "T014", ROWS + "{ v = DequantizeLinear<axis = 0, block_size = 64>(m, ms) y = MatMul(x, v) }",
        {"m": codes(64, 63, dtype=INT4), "ms": np.ones((1, 63), np.float32)}, 21),
    "codes as output": (
        "T015", "(float[1,8,8,8] x) => (float y, int8 xq) { " + rounded("x") + CONV + "y = Conv(xd, v) }", {}, 21),
    "codes read": (
        "T015", "(float[4] x) => (float y) { c = QuantizeLinear(x, s, z) y = Cast<to = 1>(c) }", {}, 21),
    "another scale": (
        "T016",
        PICTURE + "{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, t, z) " + CONV + "y = Conv(xd, v) }",
        {}, 21),
    "mixed types": ("T017", "(float[4] x, float16[4] h) => (float[4] y) { y = Add(x, h) }", {}, 21),
    "weight in float": ("P001", PICTURE + "{ " + rounded("x") + "y = Conv(xd, f) }", {}, 21),
    "activation in float": ("P001", ROWS + "{ " + MATMUL + "y = MatMul(x, v) }", {}, 21),
    "Q before Relu": (
        "P002", PICTURE + "{ " + rounded("x") + CONV + "a = Conv(xd, v) " + rounded("a") + "y = Relu(ad) }", {}, 21),
    "rounded output": (
        "P003", "(float[1,8,8,8] x) => (float yd) { " + rounded("x") + CONV + "y = Conv(xd, v) " + rounded("y") + "}",
        {}, 21),
    "both sides of an addition": (
        "P004",
        PICTURE + "{ " + rounded("x") + CONV + "a = Conv<pads = [1,1,1,1]>(xd, v) " + rounded("a")
        + "y = Add(xd, ad) }", {}, 21),
    "joined scales": (
        "P005", "(float[1,8,8,8] x, float[1,8,8,8] o) => (float y) { " + rounded("x") + rounded("o", "t")
        + "y = Concat<axis = 1>(xd, od) }", {}, 21),
    "axis of a MatMul": (
        "P006", ROWS + "{ " + rounded("x") + "v = DequantizeLinear<axis = 0>(m, ms, mz) y = MatMul(xd, v) }", {}, 21),
    "channels of an activation": (
        "P007", PICTURE + "{ xq = QuantizeLinear<axis = 1>(x, ws, wz) xd = DequantizeLinear<axis = 1>(xq, ws, wz) "
        + CONV + "y = Conv(xd, v) }", {}, 21),
    "moved and rounded anew": (
        "P008", "(float[1,8,8,8] x) => (float y) { " + rounded("x") + "a = Transpose<perm = [0,2,1,3]>(xd) "
        + rounded("a", "t") + CONV + "y = Conv(ad, v) }", {}, 21),
    "rounded sums": (
        "P009", "(float[16,64] x) => (float y) { " + rounded("x") + "y = Softmax(xd) }", {}, 21),
    "vector": (
        "P010", "(float[1,64] x) => (float y) { " + rounded("x") + MATMUL + "y = MatMul(xd, v) }", {}, 21),
    "few channels": (
        "P011", "(float[16,64] x) => (float y) { " + rounded("x") + MATMUL + "y = MatMul(xd, v) }",
        {"m": codes(64, 4), "ms": steps(4), "mz": np.zeros(4, np.int8)}, 21),
    "half an attention": (
        "P012", HEADS + "{ " + rounded("q") + rounded("k") + "a = MatMul(qd, kd) p = Softmax(a) y = MatMul(p, u) }",
        {}, 21),
    "FP8 softmax": (
        "P013", HEADS + "{ " + rounded("q") + rounded("k") + rounded("u")
        + "a = MatMul(qd, kd) p = Softmax(a) " + rounded("p") + "y = MatMul(pd, ud) }", {"z": np.array(0, FP8)}, 21),
    "pooled sequence": (
        "P014", "(float[1,8,50] x) => (float y) { " + rounded("x") + CONV + "c = Conv(xd, v) r = Relu(c) "
        "p = GlobalMaxPool(r) y = Neg(p) }", {"w": codes(8, 8, 3)}, 21),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_breaks_one_rule(name: str) -> None:
    rule, text, constants, opset = FAULTS[name]
    used = {key: value for key, value in {**CONSTANTS, **constants}.items() if _occurs(key, text)}
    found = lint(program(text, used, opset, 10), TARGET)
    assert {finding.rule for finding in found} == {rule}, [str(finding) for finding in found]
    assert all(finding.where and finding.detail and finding.fix for finding in found)


def _occurs(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text.partition("{")[2]) is not None


def test_faults_are_planted_for_every_rule() -> None:
    assert len(FAULTS) >= 25
    assert {rule for rule, *_ in FAULTS.values()} == set(RULES)


@pytest.mark.fetched
@pytest.mark.parametrize("name", ["NonZero", "int16", "zero point", "bias", "scale of zero", "E5M2", "mixed types"])
def test_the_parser_refuses_what_the_rules_do(name: str) -> None:
    _, text, constants, opset = FAULTS[name]
    used = {key: value for key, value in {**CONSTANTS, **constants}.items() if _occurs(key, text)}
    graph = program(text, used, opset, 10)
    with pytest.raises(VerificationError, match="does not parse"):
        tensorrt.build(graph, "sm89", graph.inputs, [])


GOOD = {
    "residual": "(float[1,8,8,8] x) => (float[1,8,8,8] y) { a = Conv<pads = [1,1,1,1]>(x, f) r = Relu(a) "
    "b = Conv<pads = [1,1,1,1]>(r, f) t = Add(b, r) c = Relu(t) y = Conv<pads = [1,1,1,1]>(c, f) }",
    "sequence": "(float[1,8,50] x) => (float[1,8,1] y) { c = Conv(x, fs) r = Relu(c) y = GlobalMaxPool(r) }",
    "attention": "(float[1,32,64] x) => (float[1,32,64] y) { q = MatMul(x, fm) k = MatMul(x, fm) u = MatMul(x, fm) "
    "l = Transpose<perm = [0,2,1]>(k) a = MatMul(q, l) p = Softmax(a) o = MatMul(p, u) y = MatMul(o, fm) }",
}


@pytest.mark.parametrize("precision", ["int8", "int8+fp16", "fp8", "fp16", "bf16", "int4", "nvfp4"])
@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_what_we_compile(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.verify.tensorrt.installed", lambda: False)
    graph = program(GOOD[name], weights(f=(8, 8, 3, 3), fs=(8, 8, 3), fm=(64, 64)), 17)
    samples = [{"x": np.random.default_rng(seed).normal(size=graph.inputs[0].shape)} for seed in range(3)]
    compiled = compile(graph, samples, target="tensorrt", precision=precision, options=Options(timing=False)).graph
    assert [str(finding) for finding in lint(compiled, TARGET)] == []


def test_a_float_model_that_cannot_be_taken_is_refused_with_the_node() -> None:
    graph = program("(float[4] x) => (int64 y) { r = Relu(x) y = NonZero(r) }", {}, 17)
    with pytest.raises(ModelError, match=r"cannot take node 'NonZero_1' .*depends on data"):
        refuse(graph, TARGET, "m.onnx")


@pytest.mark.fetched
def test_what_is_refused_is_what_the_parser_does_not_support() -> None:
    trt = package()
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = {op for op in TARGET.refused if parser.supports_operator(op)}
    assert parsed == {"NonZero", "NonMaxSuppression", "RoiAlign"}  # parsed, and not built


def test_there_are_no_rules_for_other_targets() -> None:
    with pytest.raises(TargetError, match="no rules for target ort-cpu"):
        lint(ir.load(ir.to_proto(program("(float[4] x) => (float[4] y) { y = Relu(x) }"))), load_target("ort-cpu"))
