from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler.passes.spell_lrn import SpellLrn


def normalized(attributes: str, shape: str = "2,7,4,3", opset: int = 17) -> str:
    return f"(float[{shape}] x) => (float[{shape}] y) {{ y = LRN<{attributes}>(x) }}"


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([1, 3, 5, 7, 9]),
    bias=st.floats(0.5, 3),
    alpha=st.floats(0.001, 2),
    beta=st.sampled_from([0.5, 0.75, 1.0, 0.6]),
)
def test_it_computes_the_same(size: int, bias: float, alpha: float, beta: float) -> None:
    before = program(normalized(f"size = {size}, bias = {bias:f}, alpha = {alpha:f}, beta = {beta:f}"))
    after, rewrites, _ = run_pass(SpellLrn(), before)
    assert rewrites == 1 and "LRN" not in ops(after) and ("Pow" in ops(after)) == (beta == 0.6)
    assert_same(before, after, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("shape", ["1,2,5,5", "n,6,h,w"])
def test_any_sizes_around_the_channels(shape: str) -> None:
    before = program(normalized("size = 5", shape))
    after, rewrites, _ = run_pass(SpellLrn(), before)
    assert rewrites == 1
    assert_same(before, after, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "attributes, shape, opset",
    [("size = 11", "2,7,4,3", 17), ("size = 4", "2,7,4,3", 17), ("size = 5", "2,c,4,3", 17),
     ("size = 5, bias = -1.0", "2,7,4,3", 17), ("size = 5", "2,7,4,3", 11)],
)  # fmt: skip
def test_what_is_left_alone(attributes: str, shape: str, opset: int) -> None:
    graph = program(normalized(attributes, shape), opset=opset)
    assert run_pass(SpellLrn(), graph)[1] == 0
