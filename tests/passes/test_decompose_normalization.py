from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.decompose_normalization import DecomposeNormalization

SKIP = "com.microsoft.SkipLayerNormalization"
SKIP_SIMPLIFIED = "com.microsoft.SkipSimplifiedLayerNormalization"
RANDOM = np.random.default_rng(0)
WEIGHTS = {name: RANDOM.normal(size=8).astype(np.float32) for name in ("scale", "shift", "bias")}
TABLES = {
    "words": RANDOM.normal(size=(11, 8)).astype(np.float32),
    "places": RANDOM.normal(size=(9, 8)).astype(np.float32),
    "kinds": RANDOM.normal(size=(3, 8)).astype(np.float32),
}
INPUTS = "float[2,5,8] x, float[2,5,8] z"


def decomposed(text: str, opset: int = 17) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text, {**WEIGHTS, **TABLES}, opset=opset)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(DecomposeNormalization(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "given", ["x, z, scale", "x, z, scale, shift", "x, z, scale, shift, bias", "x, z, scale, , bias"]
)
@pytest.mark.parametrize("sum_", ["", ", , , s"])
def test_a_sum_and_its_normalization(given: str, sum_: str) -> None:
    also = ", float[2,5,8] s" if sum_ else ""
    text = f"({INPUTS}) => (float[2,5,8] y{also}) {{ y{sum_} = {SKIP}<epsilon = 0.001>({given}) }}"
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and ops(after) == ["Add"] * (2 if "bias" in given else 1) + ["LayerNormalization"]
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("given", ["x, z, scale", "x, z, scale, bias"])
@pytest.mark.parametrize("sum_", ["", ", , , s"])
def test_a_sum_and_its_normalization_without_a_mean(given: str, sum_: str, opset: int) -> None:
    also = ", float[2,5,8] s" if sum_ else ""
    text = f"({INPUTS}) => (float[2,5,8] y{also}) {{ y{sum_} = {SKIP_SIMPLIFIED}({given}) }}"
    before, after, rewrites = decomposed(text, opset)
    assert rewrites == 1 and not any(node.domain for node in after.nodes)
    assert_same(before, after, rtol=1e-4, atol=1e-5)


def test_a_normalization_without_a_mean() -> None:
    body = "y = SimplifiedLayerNormalization<axis = -1, epsilon = 0.01>(x, scale)"
    before, after, rewrites = decomposed(f"(float[2,5,8] x) => (float[2,5,8] y) {{ {body} }}")
    assert rewrites == 1 and ops(after) == ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "inputs, given, gathers",
    [
        ("int32[2,5] i", "i, , words, places, , scale, shift", 1),
        ("int32[2,5] i, int32[2,5] k", "i, k, words, places, kinds, scale, shift", 2),
        ("int32[2,5] i, int32[2,5] k, int32[2,5] p", "i, k, words, places, kinds, scale, shift, , p", 3),
    ],
)
def test_embeddings_are_gathered(inputs: str, given: str, gathers: int) -> None:
    text = f"({inputs}) => (float[2,5,8] y) {{ y, c = com.microsoft.EmbedLayerNormalization({given}) }}"
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and ops(after).count("Gather") >= gathers and "LayerNormalization" in ops(after)
    assert_same(before, after, rtol=1e-4, atol=1e-5)


def test_the_ones_of_a_mask_are_counted() -> None:
    text = """(int32[2,5] i, int32[2,5] k, int32[2,5] m) => (float[2,5,8] y, int32[2] c) {
        y, c = com.microsoft.EmbedLayerNormalization(i, k, words, places, kinds, scale, shift, m) }"""
    before, after, rewrites = decomposed(text)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text, why, opset",
    [
        (f"({INPUTS}) => (float y, float m) {{ y, m = {SKIP}(x, z, scale) }}", "for training", 17),
        (f"({INPUTS}) => (float y) {{ y = {SKIP}(x, z, scale) }}", "needs opset 17", 14),
        ("(float[2,5,8] x) => (float y) { y = SimplifiedLayerNormalization<axis = 1>(x, scale) }", "more than", 17),
        (f"({INPUTS}) => (float y) {{ y = {SKIP}(x, z) }}", "is left out", 17),
    ],
)
def test_what_it_refuses(text: str, why: str, opset: int) -> None:
    graph = program(text, WEIGHTS, opset=opset)
    _, rewrites, diagnostics = run_pass(DecomposeNormalization(), graph)
    assert rewrites == 0 and why in refusals(diagnostics)[0]
