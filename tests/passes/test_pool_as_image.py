from __future__ import annotations

import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.pool_as_image import PoolAsImage


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool"])
def test_a_sequence_is_pooled_as_a_picture(op: str) -> None:
    before = program(f"(float[N,6,50] x) => (float[N,6,1] y) {{ r = Relu(x) y = {op}(r) }}")
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(PoolAsImage(), before)
    assert rewrites == 1
    assert ops(after) == ["Relu", "Unsqueeze", op, "Squeeze"]
    assert_same(before, after)


def test_what_reads_the_result_reads_three_axes() -> None:
    before = program("(float[2,6,L] x) => (float[2,6] y) { p = GlobalMaxPool(x) y = Squeeze(p, a) }", {"a": [2]})
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(PoolAsImage(), before)
    assert rewrites == 1
    assert_same(before, after, L=7)


@pytest.mark.parametrize(
    "text, opset",
    [
        ("(float[1,6,5,5] x) => (float[1,6,1,1] y) { y = GlobalMaxPool(x) }", 17),
        ("(float[1,6,50] x) => (float[1,6,1] y) { y = GlobalMaxPool(x) }", 11),
        ("(float[1,6,50] x) => (float[1,6,1] y) { y = ReduceMax<axes = [2]>(x) }", 17),
    ],
)
def test_left_alone(text: str, opset: int) -> None:
    graph = program(text, opset=opset)
    ir.infer_shapes(graph)
    assert run_pass(PoolAsImage(), graph)[1] == 0
