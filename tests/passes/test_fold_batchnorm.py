"""BatchNormalization folded: small programs in, programs out, the same numbers but for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes import _linear
from qcompiler.passes.fold_batchnorm import FoldBatchNorm


def normalization(channels: int, dtype: type = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "gamma": random.normal(1, 0.3, channels).astype(dtype),
        "beta": random.normal(size=channels).astype(dtype),
        "mean": random.normal(size=channels).astype(dtype),
        "var": random.uniform(0.5, 2, channels).astype(dtype),
    }


def weights(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(1).normal(size=shape) / 2).astype(dtype)


def check(text: str, constants: dict[str, Any], expected: list[str], tolerance: float = 1e-4, **dims: int) -> ir.Graph:
    before = program(text, constants)
    after, rewrites, _ = run_pass(FoldBatchNorm(), before)
    assert rewrites == 1 and ops(after) == expected
    assert_same(before, after, rtol=tolerance, atol=tolerance, **dims)
    return after


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (2, True), (4, False)])
def test_conv(groups: int, bias: bool) -> None:
    text = f"""(float[n,4,h,w] x) => (float[n,8,a,b] y) {{
        c = Conv<group={groups},pads=[1,1,1,1]>(x, w{", b" if bias else ""})
        y = BatchNormalization<epsilon=0.01>(c, gamma, beta, mean, var)
    }}"""
    constants = {"w": weights(8, 4 // groups, 3, 3), **normalization(8)}
    if bias:
        constants["b"] = weights(8)
    check(text, constants, ["Conv"], h=5, w=6)


def test_double_precision() -> None:
    text = """(double[n,3] x) => (double[n,4] y) {
        c = Gemm(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
    }"""
    constants = {"w": weights(3, 4, dtype=np.float64), **normalization(4, np.float64)}
    after = check(text, constants, ["Gemm"], tolerance=1e-12)
    assert after.nodes[0].inputs[1].dtype == np.float64


def test_half_precision_is_computed_in_double() -> None:
    random = np.random.default_rng(2)
    constants = {"w": random.normal(size=(2, 1, 1)).astype(np.float16), **normalization(2, np.float16)}
    constants["var"] = np.full(2, 1e-4, np.float16)
    graph = program(
        """(float16[1,1,4] x) => (float16[1,2,4] y) {
            c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
        }""",
        constants,
    )
    after, _, _ = run_pass(FoldBatchNorm(), graph)
    scale = constants["gamma"].astype(np.float64) / np.sqrt(constants["var"].astype(np.float64) + 1e-5)
    np.testing.assert_array_equal(
        after.nodes[0].inputs[1].values, (constants["w"] * scale[:, None, None]).astype(np.float16)
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(groups: int) -> None:
    text = f"""(float[n,4,5] x) => (float[n,6,k] y) {{
        c = ConvTranspose<group={groups},strides=[2]>(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
    }}"""
    check(text, {"w": weights(4, 6 // groups, 3), **normalization(6)}, ["ConvTranspose"])


@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.5,beta=2.0>", "<transA=1,transB=1,beta=0.5>"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm(attributes: str, bias: str) -> None:
    shape = "3,n" if "transA" in attributes else "n,3"
    text = f"""(float[{shape}] x) => (float[n,4] y) {{
        c = Gemm{attributes}(x, w{bias})  y = BatchNormalization(c, gamma, beta, mean, var)
    }}"""
    constants = {"w": weights(4, 3) if "transB" in attributes else weights(3, 4), **normalization(4)}
    check(text, constants | ({"b": weights(1, 4)} if bias else {}), ["Gemm"])


@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.5,beta=2.0>"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_gemm_behind_it(attributes: str, bias: str) -> None:
    text = f"""(float[n,6] x) => (float[n,4] y) {{
        r = Relu(x)  s = BatchNormalization(r, gamma, beta, mean, var)  y = Gemm{attributes}(s, w{bias})
    }}"""
    constants = {"w": weights(4, 6) if "transB" in attributes else weights(6, 4), **normalization(6)}
    check(text, constants | ({"b": weights(4)} if bias else {}), ["Relu", "Gemm"])


@pytest.mark.parametrize(
    "behind", ["z = Gemm(s, w)  y = Add(z, s)", "t = Transpose(s)  y = Gemm<transA=1>(t, w)", "y = MatMul(s, w)"]
)
def test_what_reads_it_stays_apart(behind: str) -> None:
    text = f"r = Relu(x)  s = BatchNormalization(r, gamma, beta, mean, var) {behind}"
    before = program(f"(float[6,6] x) => (float[6,6] y) {{ {text} }}", {"w": weights(6, 6), **normalization(6)})
    assert run_pass(FoldBatchNorm(), before)[1] == 0


def test_matmul_of_rank_two_keeps_an_add() -> None:
    text = """(float[n,3] x) => (float[n,4] y) {
        c = MatMul(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
    }"""
    after = check(text, {"w": weights(3, 4), **normalization(4)}, ["MatMul", "Add"])
    assert after.outputs[0].name == "y"


def test_a_weight_that_others_read_is_copied() -> None:
    text = """(float[1,2,3] x) => (float[1,2,3] y, float[1,2,3] z) {
        c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)  z = Conv(x, w)
    }"""
    check(text, {"w": weights(2, 2, 1), **normalization(2)}, ["Conv", "Conv"])


def test_weights_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "_BLOCK", 20)
    text = """(float[1,4,5] x) => (float[1,7,k] y) {
        c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
    }"""
    check(text, {"w": weights(7, 4, 2), **normalization(7)}, ["Conv"])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_any_grouping(groups: int, inputs: int, outputs: int, transposed: bool, seed: int) -> None:
    op = "ConvTranspose" if transposed else "Conv"
    shape = (groups * inputs, outputs, 2) if transposed else (groups * outputs, inputs, 2)
    text = f"""(float[1,{groups * inputs},4] x) => (float[1,{groups * outputs},k] y) {{
        c = {op}<group={groups}>(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
    }}"""
    check(text, {"w": weights(*shape), **normalization(groups * outputs, seed=seed)}, [op])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)  z = Relu(c)", "'c' has other readers"),
        ("z = Conv(x, w)  y = BatchNormalization(z, gamma, beta, mean, var)", "'z' is an output"),
        ("z = Relu(x)  y = BatchNormalization(x, gamma, beta, mean, var)", "it follows an input, not one of Conv"),
        ("z = Relu(x)  y = BatchNormalization(z, gamma, beta, mean, var)", "it follows Relu, not one of Conv"),
        (
            "z = Relu(x)  c = Conv(x, w)  y, p, v = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var)",
            "it trains",
        ),
        ("z = Relu(x)  c = Conv(x, w)  g = Neg(gamma)  y = BatchNormalization(c, g, beta, mean, var)", "not constant"),
        ("z = Relu(x)  v = Neg(w)  c = Conv(x, v)  y = BatchNormalization(c, gamma, beta, mean, var)", "not constant"),
        ("z = Relu(x)  c = MatMul(x, m)  y = BatchNormalization(c, gamma, beta, mean, var)", "may not be on axis 1"),
        (
            "z = Relu(x)  d = Relu(b)  c = Conv(x, w, d)  y = BatchNormalization(c, gamma, beta, mean, var)",
            "its bias is not constant",
        ),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    constants = {"w": weights(2, 2, 1), "m": weights(3, 3), "b": weights(2), **normalization(2)}
    graph = program(f"(float[1,2,3] x) => (float[1,2,3] y, float[1,2,3] z) {{ {text} }}", constants)
    before = ops(graph)
    after, rewrites, diagnostics = run_pass(FoldBatchNorm(), graph)
    assert rewrites == 0 and ops(after) == before
    (found,) = refusals(diagnostics)
    assert reason in found


def test_weights_that_would_overflow() -> None:
    constants = {"w": np.full((2, 1, 1), 6e4, np.float16), **normalization(2, np.float16)}
    constants["var"] = np.full(2, 0, np.float16)
    graph = program(
        """(float16[1,1,4] x) => (float16[1,2,4] y) {
            c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)
        }""",
        constants,
    )
    after, rewrites, diagnostics = run_pass(FoldBatchNorm(), graph)
    assert rewrites == 0 and ops(after) == ["Conv", "BatchNormalization"]
    assert after.nodes[0].inputs[1].values is not None and "do not fit float16" in refusals(diagnostics)[0]
