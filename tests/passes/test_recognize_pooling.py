from __future__ import annotations

import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.recognize_pooling import RecognizePooling


@pytest.mark.parametrize("axes", ([2, 3], [-1, -2], [-2, 3]))
@pytest.mark.parametrize("opset", [13, 18])
def test_the_mean_of_pictures_is_pooled(opset: int, axes: list[int]) -> None:
    given = "ReduceMean(r, a)" if opset >= 18 else f"ReduceMean<axes = {axes}>(r)"
    text = f"(float[N,6,5,7] x) => (float[N,6,1,1] y) {{ r = Relu(x) y = {given} }}"
    before = program(text, {"a": axes}, opset=opset)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(RecognizePooling(), before)
    assert rewrites == 1 and ops(after) == ["Relu", "GlobalAveragePool"]
    assert_same(before, after, rtol=1e-5, atol=1e-6, N=2)


@pytest.mark.parametrize("shape, axes", [("N,6,5,7", "2, 3"), ("N,6,5,7,3", "2, 3, 4")])
def test_where_axes_are_dropped_the_result_is_flat(shape: str, axes: str) -> None:
    text = f"(float[{shape}] x) => (float[N,6] y) {{ m = ReduceMean<axes = [{axes}], keepdims = 0>(x) y = Relu(m) }}"
    before = program(text)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(RecognizePooling(), before)
    assert rewrites == 1 and ops(after) == ["GlobalAveragePool", "Flatten", "Relu"]
    assert_same(before, after, rtol=1e-5, atol=1e-6, N=2)


def test_an_output_keeps_its_name() -> None:
    before = program("(float[2,6,5,7] x) => (float[2,6] y) { y = ReduceMean<axes = [2, 3], keepdims = 0>(x) }")
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(RecognizePooling(), before)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,5,8] x) => (float[2,5,1] y) { y = ReduceMean<axes = [2]>(x) }",
        "(float[2,6,5,7] x) => (float[2,1,5,7] y) { y = ReduceMean<axes = [1]>(x) }",
        "(float[2,6,5,7] x) => (float[2,6,1,7] y) { y = ReduceMean<axes = [2]>(x) }",
        "(float[2,6,5,7] x) => (float[1,1,1,1] y) { y = ReduceMean(x) }",
        "(float[2,6,5,7] x) => (float[2,6,1,1] y) { y = ReduceMax<axes = [2, 3]>(x) }",
        "(int32[2,6,5,7] x) => (int32[2,6,1,1] y) { y = ReduceMean<axes = [2, 3]>(x) }",
    ],
)
def test_left_alone(text: str) -> None:
    graph = program(text)
    ir.infer_shapes(graph)
    assert run_pass(RecognizePooling(), graph)[1] == 0


def test_the_means_of_a_normalization_stay() -> None:
    graph = program(
        """(float[2,6,5,7] x) => (float[2,6,5,7] y) {
            m = ReduceMean<axes = [2, 3]>(x) d = Sub(x, m) s = Mul(d, d) v = ReduceMean<axes = [2, 3]>(s)
            e = Sqrt(v) y = Div(d, e) }"""
    )
    ir.infer_shapes(graph)
    _, rewrites, refused = run_pass(RecognizePooling(), graph)
    assert rewrites == 0 and len(refused) == 2 and "normalization" in refused[0].message
