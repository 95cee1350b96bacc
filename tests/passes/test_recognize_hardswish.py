from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler.passes.recognize_hardsigmoid import RecognizeHardSigmoid
from qcompiler.passes.recognize_hardswish import RecognizeHardSwish

NUMBERS = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32([6]), "sixth": np.float32(1 / 6)}
NUMBERS["top"] = np.float32(6)


@pytest.mark.parametrize("product", ["Mul(x, s)", "Mul(s, x)"])
def test_x_times_its_hard_sigmoid(product: str) -> None:
    before = program(
        f"(float[4] x) => (float[4] y) {{ s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = {product} }}"
    )
    after, rewrites, _ = run_pass(RecognizeHardSwish(), before)
    assert (ops(after), rewrites) == (["HardSwish"], 1)
    assert_same(before, after, rtol=1e-6, atol=1e-6)


PRODUCTS = [
    "m = Mul(x, c) y = Div(m, six)",
    "m = Mul(c, x) y = Div(m, six)",
    "m = Mul(c, x) y = Mul(sixth, m)",
    "m = Div(x, six) y = Mul(m, c)",
    "m = Mul(sixth, x) y = Mul(c, m)",
    "m = Div(c, six) y = Mul(x, m)",
]
CLAMPS = ["c = Clip(a, zero, top)", "b = Relu(a) c = Min(top, b)", "b = Min(a, top) c = Max(b, zero)"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["Add(x, three)", "Add(three, x)"]), st.sampled_from(CLAMPS), st.sampled_from(PRODUCTS))
def test_every_way_of_writing_it(shift: str, clamp: str, product: str) -> None:
    text = f"(float[N,3] i) => (float[N,3] y) {{ x = Neg(i) a = {shift} {clamp} {product} }}"
    before = program(text, {name: value for name, value in NUMBERS.items() if name in text})
    middle, _, _ = run_pass(RecognizeHardSigmoid(), before)
    after, _, _ = run_pass(RecognizeHardSwish(), middle)
    assert ops(after) == ["Neg", "HardSwish"]
    assert_same(before, after, rtol=1e-5, atol=1e-6, N=20)


def test_refuses_other_slopes() -> None:
    text = "(float[4] x) => (float[4] y) { s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, s) }"
    after, rewrites, diagnostics = run_pass(RecognizeHardSwish(), program(text))
    assert (ops(after), rewrites) == (["HardSigmoid", "Mul"], 0)
    assert refusals(diagnostics) == ["Mul_1: a slope of 0.2 and an offset of 0.5 are not HardSwish's 1/6 and 1/2"]


def test_refuses_below_opset_14() -> None:
    text = "(float[4] x) => (float[4] y) { s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s) }"
    after, rewrites, diagnostics = run_pass(RecognizeHardSwish(), program(text, opset=13))
    assert (ops(after), rewrites) == (["HardSigmoid", "Mul"], 0)
    assert refusals(diagnostics) == ["Mul_1: HardSwish needs opset 14, the model has 13"]


def test_refuses_when_the_gate_is_used_elsewhere() -> None:
    text = """(float[4] x) => (float[4] y, float[4] s)
    { s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s) }"""
    after, rewrites, diagnostics = run_pass(RecognizeHardSwish(), program(text))
    assert (ops(after), rewrites) == (["HardSigmoid", "Mul"], 0)
    assert refusals(diagnostics) == ["HardSigmoid_0: the tensor 's' inside it is used elsewhere too"]


def test_a_gate_on_something_else_stays() -> None:
    text = "(float[4] x, float[4] z) => (float[4] y) { s = HardSigmoid<alpha = 0.16666667>(x) y = Mul(z, s) }"
    after, rewrites, diagnostics = run_pass(RecognizeHardSwish(), program(text))
    assert (ops(after), rewrites, diagnostics) == (["HardSigmoid", "Mul"], 0, [])
