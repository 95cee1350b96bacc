from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler.passes.remove_expand import RemoveExpand

CONSTANTS = {"shape": np.array([2, 3, 5]), "c": np.ones((3, 1), np.float32)}


@pytest.mark.parametrize(
    "text",
    [
        "(float[B,S,8] x, float[B,S,1] n) => (float y) { s = Shape(x) e = Expand(n, s) y = Div(x, e) }",
        "(float[B,S,8] x, float[S,1] n) => (float y) { s = Shape(x) e = Expand(n, s) y = Mul(e, x) }",
        "(float[2,3,5] x, float[2,3,1] n) => (float y) { e = Expand(n, shape) y = Sub(e, x) }",
        "(float[2,3,5] x, bool[3,1] n) => (float y) { e = Expand(n, shape) y = Where(e, x, x) }",
        "(float[2,3,5] x, float[2,1,1] n) => (float y) { e = Expand(n, shape) y = Max(x, e, x) }",
        "(float[2,3,5] x) => (float y) { e = Expand(c, shape) y = Add(x, e) }",
        "(float[2,3,5] x, float[2,3,1] n) => (float y) { e = Expand(n, shape) r = Relu(x) y = Pow(r, e) }",
    ],
)
def test_what_broadcasts_needs_no_copies(text: str) -> None:
    before = program(text, CONSTANTS)
    after, rewrites, _ = run_pass(RemoveExpand(), before)
    assert rewrites == 1 and "Expand" not in ops(after)
    assert_same(before, after, B=2, S=4)


def test_both_sides_of_a_product_are_not_left_small() -> None:
    before = program(
        "(float[2,3,1] x, float[3,5] z) => (float y) { e = Expand(x, shape) f = Expand(z, shape) y = Add(e, f) }",
        CONSTANTS,
    )
    after, rewrites, _ = run_pass(RemoveExpand(), before)
    assert rewrites == 2  # the one has what the other one lacks
    assert_same(before, after)
    same = program("(float[2,3,1] x) => (float y) { e = Expand(x, shape) y = Add(e, e) }", CONSTANTS)
    after, rewrites, _ = run_pass(RemoveExpand(), same)
    assert rewrites == 1 and "Expand" in ops(after)
    assert_same(same, after)


@pytest.mark.parametrize(
    "text",
    [
        "(float[B,1] x, float[B,S] z) => (float y) { s = Shape(z) e = Expand(x, s) y = Add(x, e) }",
        "(float[A,8] x, float[1,8] n, float[B,8] z) => (float y) { s = Shape(z) e = Expand(n, s) y = Add(x, e) }",
        "(float[2,3,5] x, float[2,3,1] n) => (float y) { e = Expand(n, shape) y = Softmax(e) }",
        "(float[2,3,5] x, float[2,3,1] n) => (float y) { e = Expand(n, shape) y = Concat<axis = 0>(x, e) }",
    ],
)
def test_what_needs_them_keeps_them(text: str) -> None:
    before = program(text, CONSTANTS)
    after, rewrites, _ = run_pass(RemoveExpand(), before)
    assert rewrites == 0 and ops(after) == ops(before)


def test_other_readers_keep_theirs() -> None:
    before = program(
        "(float[2,3,5] x, float[2,3,1] n) => (float y, float z) { e = Expand(n, shape) y = Div(x, e) z = Softmax(e) }",
        CONSTANTS,
    )
    after, rewrites, _ = run_pass(RemoveExpand(), before)
    assert rewrites == 1 and "Expand" in ops(after)
    assert_same(before, after)
