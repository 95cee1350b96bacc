from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass
from planned import TARGET

from qcompiler import ir
from qcompiler.passes.decompose_fused import DecomposeFused
from qcompiler.pipeline import PassContext, Pipeline

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "b": RANDOM.normal(size=4).astype(np.float32),
    "m": RANDOM.normal(size=(6, 5)).astype(np.float32),
    "c": RANDOM.normal(size=5).astype(np.float32),
}
PICTURES = "(float[2,3,8,8] x) => (float[2,4,6,6] y)"
ROWS = "(float[2,7,5] x) => (float[2,7,5] y)"


def decomposed(text: str, opset: int = 17) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text, WEIGHTS, opset=opset)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(DecomposeFused(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "activation, follows",
    [
        ('activation = "Relu"', "Relu"),
        ('activation = "Tanh"', "Tanh"),
        ('activation = "Sigmoid"', "Sigmoid"),
        ('activation = "LeakyRelu", activation_params = [0.2]', "LeakyRelu"),
        ('activation = "Clip", activation_params = [0.0, 6.0]', "Clip"),
        ('activation = "HardSigmoid", activation_params = [0.2, 0.5]', "HardSigmoid"),
    ],
)
def test_a_convolution_and_its_activation(activation: str, follows: str) -> None:
    before, after, rewrites = decomposed(f"{PICTURES} {{ y = com.microsoft.FusedConv<{activation}>(x, w, b) }}")
    assert rewrites == 1 and ops(after) == ["Conv", follows]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


def test_what_is_added_to_a_convolution_is_added_before_the_activation() -> None:
    text = """(float[2,3,8,8] x, float[2,4,6,6] z) => (float[2,4,6,6] y) {
        y = com.microsoft.FusedConv<activation = "Relu">(x, w, b, z) }"""
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and ops(after) == ["Conv", "Add", "Relu"]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "activation, follows",
    [
        ('activation = "Relu"', "Relu"),
        ('activation = "LeakyRelu", activation_alpha = 0.3', "LeakyRelu"),
    ],
)
def test_a_product_and_its_activation(activation: str, follows: str) -> None:
    text = f"(float[2,6] x) => (float[2,5] y) {{ y = com.microsoft.FusedGemm<alpha = 0.5, {activation}>(x, m, c) }}"
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and ops(after) == ["Gemm", follows]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "attributes, inputs, follow",
    [
        ("alpha = 0.25", "float[2,3,4] p, float[2,4,5] q", ["MatMul", "Mul"]),
        ("transA = 1", "float[2,4,3] p, float[2,4,5] q", ["Transpose", "MatMul"]),
        ("alpha = 2.0, transB = 1", "float[2,3,4] p, float[2,5,4] q", ["Transpose", "MatMul", "Mul"]),
        ("transA = 1, transB = 1", "float[4,3] p, float[5,4] q", ["Transpose", "Transpose", "MatMul"]),
    ],
)
def test_a_product_of_what_is_transposed(attributes: str, inputs: str, follow: list[str]) -> None:
    text = f"({inputs}) => (float y) {{ y = com.microsoft.FusedMatMul<{attributes}>(p, q) }}"
    before, after, rewrites = decomposed(text)
    assert rewrites == 1 and ops(after) == follow
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("form", ["BiasGelu(x, c)", "Gelu(x)", "FastGelu(x)", "FastGelu(x, c)"])
def test_gelu(form: str, opset: int) -> None:
    before, after, rewrites = decomposed(f"{ROWS} {{ y = com.microsoft.{form} }}", opset)
    assert rewrites == 1 and ("Gelu" in ops(after)) == (opset == 20)
    assert not any(node.domain for node in after.nodes)
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attributes, follow", [("", ["Mul", "Sigmoid", "Mul"]), ("<alpha = 1.0>", ["Sigmoid", "Mul"])])
def test_quick_gelu(attributes: str, follow: list[str]) -> None:
    before, after, rewrites = decomposed(f"{ROWS} {{ y = com.microsoft.QuickGelu{attributes}(x) }}")
    assert rewrites == 1 and ops(after) == follow
    assert_same(before, after, rtol=1e-5, atol=1e-5)


def test_what_follows_learns_its_shape_from_it() -> None:
    text = f"{ROWS} {{ g = com.microsoft.QuickGelu(x) y = com.microsoft.FusedMatMul<transA = 1>(g, g) }}"
    text = text.replace("(float[2,7,5] y)", "(float[2,5,5] y)")
    before, after, rewrites = decomposed(text)
    assert rewrites == 2 and ops(after) == ["Mul", "Sigmoid", "Mul", "Transpose", "MatMul"]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "text, why",
    [
        (f'{PICTURES} {{ y = com.microsoft.FusedConv<activation = "Sinh">(x, w, b) }}', "its activation is 'Sinh'"),
        (
            f'{PICTURES} {{ y = com.microsoft.FusedConv<activation = "Clip", activation_params = [1.0]>(x, w) }}',
            "has 1 parameters, not 2",
        ),
        (
            "(float[2,2] p) => (float y) { q = custom.Any(p) y = com.microsoft.FusedMatMul<transA = 1>(q, p) }",
            "unknown number of axes",
        ),
        (
            "(float[2,2,2] p, float[2,2,2] q) => (float y) { y = com.microsoft.FusedMatMul<transBatchA = 1>(p, q) }",
            "it reads batches transposed",
        ),
        (f"{ROWS} {{ y = com.microsoft.FusedMatMul(x) }}", "an input that it needs is left out"),
    ],
)
def test_what_it_refuses(text: str, why: str) -> None:
    _, rewrites, diagnostics = run_pass(DecomposeFused(), program(text, WEIGHTS))
    assert rewrites == 0 and why in refusals(diagnostics)[0]


def test_nothing_is_taken_apart_where_nothing_is_quantized() -> None:
    graph = program(f"{ROWS} {{ y = com.microsoft.QuickGelu(x) }}")
    Pipeline([DecomposeFused()]).run(graph, PassContext(TARGET.at("float")))
    assert ops(graph) == ["QuickGelu"]
