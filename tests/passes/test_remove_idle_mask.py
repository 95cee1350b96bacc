from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.remove_idle_mask import RemoveIdleMask

CONSTANTS = {
    "all": np.ones((1, 5, 5), bool),
    "none": np.zeros((1, 5, 5), bool),
    "some": np.tri(5, dtype=bool)[None],
    "zero": np.float32(0.0),
    "hidden": np.float32(-1e9),
    "zeros": np.zeros((5, 5), np.float32),
    "halves": np.full((2, 5, 1), 0.5, np.float32),
    "wide": np.zeros((2, 2, 5, 5), np.float32),
    "infinite": np.full((5, 5), np.inf, np.float32),
}


def unmasked(text: str) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text, CONSTANTS)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(RemoveIdleMask(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "masked",
    [
        "m = Add(x, zeros)",
        "m = Add(zeros, x)",
        "m = Add(x, halves)",
        "w = Where(all, zero, hidden) m = Add(x, w)",
        "w = Where(none, hidden, zero) m = Add(x, w)",
    ],
)
def test_a_mask_that_hides_nothing_is_not_added(masked: str) -> None:
    before, after, rewrites = unmasked(f"(float[2,5,5] x) => (float[2,5,5] y) {{ {masked} y = Softmax(m) }}")
    assert rewrites == 1 and ops(after) == ["Softmax"]
    assert_same(before, after, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,5,5] x) => (float y) { w = Where(some, zero, hidden) m = Add(x, w) y = Softmax(m) }",
        "(float[2,5,5] x) => (float y) { m = Add(x, infinite) y = Softmax(m) }",
        "(float[2,5,5] x) => (float y) { m = Add(x, wide) y = Softmax(m) }",
        "(float[N,1,5] x) => (float y) { m = Add(x, zeros) y = Softmax(m) }",
        "(float[2,5,5] x) => (float y, float m) { m = Add(x, zeros) y = Softmax(m) }",
        "(float[2,5,5] x) => (float y, float z) { m = Add(x, zeros) y = Softmax(m) z = Exp(m) }",
        "(float[2,5,5] x) => (float y) { m = Add(x, zeros) y = Sigmoid(m) }",
    ],
)
def test_what_may_hide_something_stays(text: str) -> None:
    before, after, rewrites = unmasked(text)
    assert rewrites == 0 and ops(after) == ops(before)
