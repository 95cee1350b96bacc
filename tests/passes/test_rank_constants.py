from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.rank_constants import RankConstants
from qcompiler.passes.spell_elu import SpellElu

NUMBERS = {
    "half": np.float32(0.5),
    "one": np.float32([1]),
    "pair": np.float32([1, 2]),
    "wide": np.full((1, 1, 1, 1), 0.5, np.float32),
}


def shapes(text: str) -> tuple[ir.Graph, ir.Graph, list[tuple[int, ...]]]:
    before = program(text, NUMBERS)
    ir.infer_shapes(before)
    after, _, _ = run_pass(RankConstants(), before)
    constants = [one for node in after.nodes for one in node.inputs if ir.is_constant(one)]
    return before, after, [tuple(one.shape) for one in constants]


@pytest.mark.parametrize("body", ["y = Add(x, half)", "y = Max(half, x)", "y = Pow(x, one)", "y = Div(one, x)"])
def test_a_number_gets_the_axes_of_what_it_meets(body: str) -> None:
    before, after, found = shapes(f"(float[2,7,5,1] x) => (float[2,7,5,1] y) {{ {body} }}")
    assert found == [(1, 1, 1, 1)] and ops(after) == ops(before)
    assert_same(before, after, rtol=0, atol=0)


def test_in_a_choice_and_with_free_axes() -> None:
    text = "(float[n,m,1] x) => (float[n,m,1] y) { c = Greater(x, half) y = Where(c, x, one) }"
    before, after, found = shapes(text)
    assert found == [(1, 1, 1), (1, 1, 1)]
    assert_same(before, after, rtol=0, atol=0, n=3, m=4)


def test_one_number_at_two_ranks() -> None:
    text = """(float[4,1] x, float[2,4,1] z) => (float[4,1] y, float[2,4,1] u) {
        y = Mul(x, half) u = Mul(z, half) }"""
    before, after, found = shapes(text)
    assert found == [(1, 1), (1, 1, 1)]
    assert_same(before, after, rtol=0, atol=0)


def test_what_another_pass_has_just_written() -> None:
    before = program("(float[2,9,1] x) => (float[2,9,1] y) { y = Elu(x) }")
    ir.infer_shapes(before)
    spelled, _, _ = run_pass(SpellElu(), before)
    after, rewrites, _ = run_pass(RankConstants(), spelled)
    assert rewrites == 2
    assert_same(before, after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3] x) => (float[2,3] y) { y = Add(x, half) }",  # its last axis is long
        "(float[2,1] x) => (float[2,2] y) { y = Add(x, pair) }",  # no single number
        "(float[2,n] x) => (float[2,n] y) { y = Add(x, half) }",
        "(float[2,1] x) => (float[1,1,2,1] y) { y = Add(x, wide) }",  # has more axes
        "(float[1] x) => (float[1] y) { y = Add(x, one) }",
        "(float[2,3,5] x) => (float[2,3,1] y) { m = ReduceMean<axes = [2]>(x) y = Add(m, half) }",
        "(float[5,1] x, float[2,5,1] z) => (float[2,5,1] y) { c = Greater(x, half) y = Where(c, z, half) }",
        "(float[2,1] x) => (float y) { y = Concat<axis = 1>(x, x) }",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    before, _, found = shapes(text)
    known = [tuple(one.shape) for node in before.nodes for one in node.inputs if ir.is_constant(one)]
    if "Where" not in text:
        assert found == known
    else:
        assert found == [(1, 1), ()]  # the comparison alone
