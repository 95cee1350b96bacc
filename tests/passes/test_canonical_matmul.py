from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.canonical_matmul import CanonicalMatmul

RANDOM = np.random.default_rng(0)
W = RANDOM.normal(size=(4, 5)).astype(np.float32)  # K, N
B = RANDOM.normal(size=5).astype(np.float32)


def gemms(graph: ir.Graph) -> list[tuple[dict, list[tuple[int, ...]]]]:
    return [
        (dict(node.attrs), [tuple(t.values.shape) for t in node.inputs[1:]])
        for node in graph.nodes
        if node.op == "Gemm"
    ]


def test_the_weight_is_transposed() -> None:
    before = program("(float[N,4] x) => (float[N,5] y) { y = Gemm<transB = 1>(x, W, B) }", {"W": W.T.copy(), "B": B})
    after, rewrites, _ = run_pass(CanonicalMatmul(), before)
    assert rewrites == 1
    assert gemms(after) == [({}, [(4, 5), (5,)])]
    assert np.shares_memory(after.nodes[0].inputs[1].values, before.nodes[0].inputs[1].values)
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=3)
    assert run_pass(CanonicalMatmul(), after)[1] == 0


BIASES = {"none": None, "vector": B, "row": B[None], "number": np.float32(2), "one": np.float32([[2]])}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1.0, 0.25, 0.0]),
    st.sampled_from(sorted(BIASES)),
    st.sampled_from([np.float32, np.float16]),
)
def test_every_gemm_becomes_plain(
    trans_a: int, trans_b: int, alpha: float, beta: float, bias: str, dtype: type
) -> None:
    shape = "4,N" if trans_a else "N,4"
    attributes = f"transA = {trans_a}, transB = {trans_b}, alpha = {alpha}, beta = {beta}"
    constants = {"W": (W.T if trans_b else W).astype(dtype)}
    if BIASES[bias] is not None:
        constants["B"] = np.asarray(BIASES[bias]).astype(dtype)
    kind = "float16" if dtype is np.float16 else "float"
    operands = "x, W" if bias == "none" else "x, W, B"
    before = program(f"({kind}[{shape}] x) => ({kind}[N,5] y) {{ y = Gemm<{attributes}>({operands}) }}", constants)
    after, _, _ = run_pass(CanonicalMatmul(), before)
    assert ops(after) == (["Transpose", "Gemm"] if trans_a else ["Gemm"])
    assert gemms(after) == [({}, [(4, 5)] if bias == "none" or beta == 0.0 else [(4, 5), (5,)])] or (
        trans_a == trans_b == 0 and alpha == 1.0 and (beta == 1.0 or bias == "none")  # nothing to do
    )
    tolerance = 2e-2 if dtype is np.float16 else 1e-5
    assert_same(before, after, rtol=tolerance, atol=tolerance, N=3)


@pytest.mark.parametrize("bias", ["vector", "row", "number"])
@pytest.mark.parametrize("sum_", ["Add(m, B)", "Add(B, m)"])
def test_a_matrix_product_and_its_bias_become_a_gemm(bias: str, sum_: str) -> None:
    before = program(
        f"(float[N,4] x) => (float[N,5] y) {{ m = MatMul(x, W) y = {sum_} }}", {"W": W, "B": np.asarray(BIASES[bias])}
    )
    after, rewrites, _ = run_pass(CanonicalMatmul(), before)
    assert rewrites == 1
    assert gemms(after) == [({}, [(4, 5), (5,)])]
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=3)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,N,4] x) => (float[2,N,5] y) { m = MatMul(x, W) y = Add(m, B) }",  # three dimensions
        "(float[N,4] x) => (float[N,5] y) { y = MatMul(x, W) }",  # no bias
        "(float[N,4] x, float[5] b) => (float[N,5] y) { m = MatMul(x, W) y = Add(m, b) }",  # a computed bias
        "(float[4] i) => (float[5] y) { x = custom.Nothing(i) m = MatMul(x, W) y = Add(m, B) }",  # rank not known
    ],
)
def test_other_products_stay(text: str) -> None:
    constants = {"W": W} | ({"B": B} if "B)" in text else {})
    before = program(text, constants)
    after, rewrites, diagnostics = run_pass(CanonicalMatmul(), before)
    assert (ops(after), rewrites, diagnostics) == (ops(before), 0, [])


def test_two_gemms_share_the_transposed_weight() -> None:
    text = """(float[N,4] x, float[N,4] z) => (float[N,5] y, float[N,5] u)
    { y = Gemm<transB = 1>(x, W) u = Gemm<transB = 1>(z, W) }"""
    before = program(text, {"W": W.T.copy()})
    after, rewrites, _ = run_pass(CanonicalMatmul(), before)
    assert rewrites == 2
    assert after.nodes[0].inputs[1] is after.nodes[1].inputs[1]
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=3)


TIED = """(int64[N] ids) => (float[N,5] y) { x = Gather(W, ids) y = Gemm<transB = 1>(x, W) }"""


def test_refuses_to_store_a_tied_weight_twice() -> None:
    before = program(TIED, {"W": W.T.copy()})
    after, rewrites, diagnostics = run_pass(CanonicalMatmul(), before)
    assert (rewrites, gemms(after)[0][0]) == (0, {"transB": 1})
    assert refusals(diagnostics) == ["Gemm_1: the weight 'W' is used elsewhere as it is and would be stored twice"]


def test_duplicates_a_tied_weight_when_told_to() -> None:
    before = program(TIED, {"W": W.T.copy()})
    after, rewrites, _ = run_pass(CanonicalMatmul(duplicate_shared=True), before)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=3)


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            "(float[N,4] x, float[5,4] w) => (float[N,5] y) { y = Gemm<transB = 1>(x, w) }",
            "Gemm_0: its weight is computed, so transposing or scaling it would be work added",
        ),
        (
            "(float[N,4] x, float[5] b) => (float[N,5] y) { y = Gemm<beta = 0.5>(x, W, b) }",
            "Gemm_0: beta is 0.5 and the bias is computed",
        ),
        (
            "(float[3,4] x) => (float[3,5] y) { m = MatMul(x, W) y = Add(m, rows) }",
            "Add_1: a bias of shape [3, 1] is not one number a column",
        ),
        (
            "(float[N,4] x) => (float[N,5] y, float[N,5] m) { m = MatMul(x, W) y = Add(m, B) }",
            "MatMul_0: the tensor 'm' inside it is used elsewhere too",
        ),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    constants = {"W": W, "B": B, "rows": np.ones((3, 1), np.float32)}
    before = program(text, {name: value for name, value in constants.items() if name in text})
    after, rewrites, diagnostics = run_pass(CanonicalMatmul(), before)
    assert (ops(after), rewrites) == (ops(before), 0)
    assert refusals(diagnostics) == [reason]
