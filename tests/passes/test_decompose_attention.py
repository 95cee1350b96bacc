from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, feed, ops, outputs, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.decompose_attention import DecomposeAttention

ATTENTION = "com.microsoft.Attention"
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": RANDOM.normal(size=(12, 36)).astype(np.float32),
    "b": RANDOM.normal(size=36).astype(np.float32),
    "u": RANDOM.normal(size=(12, 44)).astype(np.float32),
    "lengths": np.array([3, 5], np.int32),
}


def decomposed(text: str) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text, WEIGHTS)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(DecomposeAttention(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "inputs, given, attributes",
    [
        ("", "w", ""),
        ("", "w, b", ""),
        ("", "w, b", ", unidirectional = 1"),
        ("", "w, b", ", scale = 0.125"),
        (", int32[2,5] m", "w, b, m", ""),
        (", int32[2,5] m", "w, b, m", ", mask_filter_value = -50.0"),
        (", int32[2,5,5] m", "w, b, m", ""),
        (", int32[2,5] m", "w, b, m", ", unidirectional = 1"),
        ("", "w, b, lengths", ""),
        (", float[2,3,5,5] a", "w, b, , , a", ""),
    ],
)
def test_it_computes_the_same(inputs: str, given: str, attributes: str) -> None:
    body = f"y = {ATTENTION}<num_heads = 3{attributes}>(x, {given})"
    text = f"(float[2,5,12] x{inputs}) => (float[2,5,12] y) {{ {body} }}"
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and not any(node.domain for node in after.nodes)
    assert ops(after).count("MatMul") == 5
    assert_same(before, after, rtol=1e-4, atol=1e-4)


def test_values_may_be_longer_than_queries() -> None:
    text = """(float[N,L,12] x) => (float[N,L,20] y) {
        y = com.microsoft.Attention<num_heads = 4, qkv_hidden_sizes = [12, 12, 20]>(x, u) }"""
    before, after, rewrites = decomposed(text)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-4, atol=1e-4, N=2, L=6)


def test_a_row_that_is_hidden_whole_sees_all_alike() -> None:
    text = f"(float[2,5,12] x, int32[2,5] m) => (float[2,5,12] y) {{ y = {ATTENTION}<num_heads = 3>(x, w, b, m) }}"
    before, after, _ = decomposed(text)
    given = {**feed(before), "m": np.zeros((2, 5), np.int32)}
    np.testing.assert_allclose(outputs(after, given)["y"], outputs(before, given)["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "inputs, given, attributes, why",
    [
        (", float[12,36] v", "v", "", "weights are computed"),
        ("", "w, b", ", do_rotary = 1", "rotates"),
        (", float[2,2,3,4,4] p", "w, b, , p", "", "step to step"),
        (", int32[4] m", "w, b, m", "", "where rows begin"),
        (", int32[2,1,5,5] m", "w, b, m", "", "4 axes"),
        (", int32 m", "w, b, m", "", "axes"),
        ("", "u", "", "are not query, key and value"),
        ("", "b", "", "are no matrix"),
        ("", "w, lengths", "", "are no matrix"),
    ],
)
def test_what_it_refuses(inputs: str, given: str, attributes: str, why: str) -> None:
    text = f"(float[2,5,12] x{inputs}) => (float y) {{ y = {ATTENTION}<num_heads = 3{attributes}>(x, {given}) }}"
    _, rewrites, diagnostics = run_pass(DecomposeAttention(), program(text, WEIGHTS))
    assert rewrites == 0 and why in refusals(diagnostics)[0]
