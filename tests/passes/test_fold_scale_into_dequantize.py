from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler.passes.fold_scale_into_dequantize import FoldScaleIntoDequantize
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan

CODES = {"s": np.float32(0.1), "z": np.uint8(7), "k": np.float32(0.5), "zero": np.float32(0), "minus": np.float32(-2)}


@pytest.mark.parametrize("product", ["Mul(d, k)", "Mul(k, d)", "Div(d, k)"])
def test_a_factor_becomes_part_of_the_scale(product: str) -> None:
    text = f"(uint8[2,5] x) => (float[2,5] y) {{ d = DequantizeLinear(x, s, z) m = {product} y = Neg(m) }}"
    before = program(text, CODES)
    after, rewrites, _ = run_pass(FoldScaleIntoDequantize(), before)
    assert (ops(after), rewrites) == (["DequantizeLinear", "Neg"], 1)
    assert_same(before, after, rtol=1e-6)


def test_other_readers_keep_the_plain_values() -> None:
    text = "(uint8[2,5] x) => (float[2,5] y) { d = DequantizeLinear(x, s, z) m = Mul(d, k) y = Add(m, d) }"
    before = program(text, CODES)
    after, _, _ = run_pass(FoldScaleIntoDequantize(), before)
    assert sorted(ops(after)) == ["Add", "DequantizeLinear", "DequantizeLinear"]
    assert_same(before, after, rtol=1e-6)


def test_among_readers_in_float_it_is_not_dequantized_twice() -> None:
    text = "(uint8[2,5] x) => (float[2,5] y) { d = DequantizeLinear(x, s, z) m = Mul(d, k) y = Add(m, d) }"
    for intended, expected in ((frozenset[str](), 0), (frozenset(["Add_2"]), 1)):
        graph = program(text, CODES)
        pipeline = Pipeline([FoldScaleIntoDequantize()])
        pipeline.run(graph, PassContext(plan=Plan(intended=intended)))
        assert pipeline.runs[0].result.rewrites == expected


def test_a_scale_for_each_channel() -> None:
    text = """(uint8[2,3] x) => (float[2,3] y) {
        d = DequantizeLinear<axis = 1>(x, ss, zs) m = Mul(d, k) y = Neg(m)
    }"""
    before = program(text, {**CODES, "ss": np.float32([1, 2, 3]), "zs": np.uint8([1, 2, 3])})
    after, rewrites, _ = run_pass(FoldScaleIntoDequantize(), before)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    "product",
    [
        "Mul(d, minus)",  # scales are positive
        "Mul(d, zero)",
        "Div(k, d)",
        "Mul(d, d)",
        "Mul(d, row)",  # a factor for each column
        "Mul(d, wide)",  # broadcasts to more dimensions
    ],
)
def test_others_stay(product: str) -> None:
    text = f"(uint8[2,3] x) => (float y) {{ d = DequantizeLinear(x, s, z) m = {product} y = Neg(m) }}"
    before = program(text, {**CODES, "row": np.float32([1, 2, 3]), "wide": np.full((1, 1, 1), 2, np.float32)})
    after, rewrites, _ = run_pass(FoldScaleIntoDequantize(), before)
    assert (ops(after), rewrites) == (ops(before), 0)


def test_an_output_stays() -> None:
    before = program("(uint8[2,3] x) => (float[2,3] y) { d = DequantizeLinear(x, s, z) y = Mul(d, k) }", CODES)
    assert run_pass(FoldScaleIntoDequantize(), before)[1] == 0


def test_a_scale_that_would_leave_float32_is_refused() -> None:
    text = "(uint8[2,3] x) => (float[2,3] y) { d = DequantizeLinear(x, s, z) m = Mul(d, tiny) y = Neg(m) }"
    before = program(text, {**CODES, "s": np.float32(1e-30), "tiny": np.float32(1e-30)})
    _, rewrites, diagnostics = run_pass(FoldScaleIntoDequantize(), before)
    assert rewrites == 0
    assert refusals(diagnostics) == ["Mul_1: the scaled step is not a positive number"]
