from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler.passes.remove_identities import RemoveIdentities
from qcompiler.passes.whole_transpose import WholeTranspose

CONSTANTS = {
    "joined": np.array([-1, 5, 7]),
    "number": np.array([6, 5, 7]),
    "parted": np.array([2, 3, 7, 5]),
    "guessed": np.array([2, -1, 7, 5]),
    "other": np.array([3, 2, 7, 5]),
    "five": np.array([1, 2, 3, 7, 5]),
    "cut": np.array([-1, 7, 5]),
    "b1": np.array([-1]),
}
GIVEN = "(float[2,3,5,7] x) => (float y)"


@pytest.mark.parametrize("join", ["joined", "number"])
@pytest.mark.parametrize("part", ["parted", "guessed"])
def test_axes_that_are_exchanged_under_others(join: str, part: str) -> None:
    text = f"{GIVEN} {{ a = Reshape(x, {join}) t = Transpose<perm = [0, 2, 1]>(a) y = Reshape(t, {part}) }}"
    before = program(text, CONSTANTS)
    after, rewrites, _ = run_pass(WholeTranspose(), before)
    assert rewrites == 1 and ops(after) == ["Transpose"]
    assert_same(before, after)


def test_keys_of_attention_are_copied_once() -> None:
    before = program(
        """(float[B,S,3,7] x) => (float y) {
            h = Transpose<perm = [0, 2, 1, 3]>(x) s = Shape(h) l = Shape<start = -2, end = -1>(h)
            d = Shape<start = -1>(h) j = Concat<axis = 0>(b1, l, d) a = Reshape(h, j)
            t = Transpose<perm = [0, 2, 1]>(a) b = Shape<end = 2>(h) p = Concat<axis = 0>(b, d, l)
            y = Reshape(t, p) }""",
        CONSTANTS,
    )
    after, rewrites, _ = run_pass(WholeTranspose(), before)
    assert rewrites == 1
    merged, _, _ = run_pass(RemoveIdentities(), after)
    assert ops(merged) == ["Transpose"] and merged.nodes[0].attrs["perm"] == [0, 2, 3, 1]
    assert_same(before, merged, B=2, S=5)


@pytest.mark.parametrize(
    "steps",
    [
        "a = Reshape(x, joined) t = Transpose<perm = [0, 2, 1]>(a) y = Reshape(t, other)",
        "a = Reshape(x, cut) t = Transpose<perm = [0, 2, 1]>(a) y = Reshape(t, parted)",
        "a = Reshape(x, joined) t = Transpose<perm = [1, 0, 2]>(a) y = Reshape(t, parted)",
        "a = Reshape(x, joined) t = Transpose<perm = [0, 2, 1]>(a) y = Reshape(t, five)",
        "a = Reshape(x, joined) t = Transpose<perm = [0, 2, 1]>(a) p = Reshape(t, parted) "
        "n = ReduceSum(t) y = Add(p, n)",
    ],
)
def test_what_is_another_tensor_stays(steps: str) -> None:
    before = program(f"{GIVEN} {{ {steps} }}", CONSTANTS)
    after, rewrites, _ = run_pass(WholeTranspose(), before)
    assert rewrites == 0 and ops(after) == ops(before)
