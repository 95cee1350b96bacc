from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler.passes.recognize_silu import RecognizeSilu

NUMBERS = {"one": np.float32(1), "minus": np.float32(-1), "k": np.float32(-1.702)}


@pytest.mark.parametrize("negated", ["Neg(x)", "Mul(x, minus)", "Mul(minus, x)", "Div(x, minus)"])
@pytest.mark.parametrize("sum_", ["Add(e, one)", "Add(one, e)"])
@pytest.mark.parametrize("quotient", ["Div(one, d)", "Reciprocal(d)"])
def test_sigmoid_written_out(negated: str, sum_: str, quotient: str) -> None:
    before = program(f"(float[9] x) => (float[9] y) {{ n = {negated} e = Exp(n) d = {sum_} y = {quotient} }}", NUMBERS)
    after, rewrites, _ = run_pass(RecognizeSilu(), before)
    assert (ops(after), rewrites) == (["Sigmoid"], 1)
    assert_same(before, after, rtol=1e-5, atol=1e-6)


def test_a_factor_stays_inside() -> None:
    before = program(
        "(float[9] x) => (float[9] y) { n = Mul(x, k) e = Exp(n) d = Add(e, one) y = Div(one, d) }", NUMBERS
    )
    after, _, _ = run_pass(RecognizeSilu(), before)
    assert ops(after) == ["Mul", "Sigmoid"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


def test_x_over_its_denominator_is_silu() -> None:
    before = program("(float[9] x) => (float[9] y) { n = Neg(x) e = Exp(n) d = Add(e, one) y = Div(x, d) }", NUMBERS)
    after, _, _ = run_pass(RecognizeSilu(), before)
    assert [(n.op, [t.name for t in n.inputs]) for n in after.nodes] == [
        ("Sigmoid", ["x"]),
        ("Mul", ["x", "y_sigmoid"]),
    ]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


def test_the_source_comes_first() -> None:
    before = program("(float[9] x) => (float[9] y) { s = Sigmoid(x) y = Mul(s, x) }")
    after, rewrites, _ = run_pass(RecognizeSilu(), before)
    assert rewrites == 1
    assert [t.name for t in after.nodes[1].inputs] == ["x", "s"]
    assert_same(before, after)
    assert run_pass(RecognizeSilu(), after)[1] == 0


def test_the_exact_exponential_of_a_positive_argument_stays() -> None:
    before = program("(float[9] x) => (float[9] y) { e = Exp(x) d = Add(e, one) y = Div(one, d) }", NUMBERS)
    assert run_pass(RecognizeSilu(), before)[1] == 0


def test_refuses_when_the_exponential_is_used_elsewhere() -> None:
    text = "(float[9] x) => (float[9] y, float[9] e) { n = Neg(x) e = Exp(n) d = Add(e, one) y = Div(one, d) }"
    after, rewrites, diagnostics = run_pass(RecognizeSilu(), program(text, NUMBERS))
    assert (ops(after), rewrites) == (["Neg", "Exp", "Add", "Div"], 0)
    assert refusals(diagnostics) == ["Exp_1: the tensor 'e' inside it is used elsewhere too"]
