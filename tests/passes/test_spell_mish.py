from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, outputs, program, run_pass

from qcompiler.passes.spell_mish import SpellMish

APART = "s = Softplus(x) t = Tanh(s) y = Mul(x, t)"


@pytest.mark.parametrize("body", ["y = Mish(x)", APART, "s = Softplus(x) t = Tanh(s) y = Mul(t, x)"])
def test_it_computes_the_same(body: str) -> None:
    before = program(f"(float[3,50] x) => (float[3,50] y) {{ {body} }}", opset=18)
    after, rewrites, _ = run_pass(SpellMish(), before)
    assert rewrites == 1 and not {"Mish", "Softplus", "Tanh"} & set(ops(after))
    assert_same(before, after, rtol=1e-5, atol=1e-6)


def test_the_whole_range() -> None:
    graph = program("(float[n] x) => (float[n] y) { y = Mish(x) }", opset=18)
    after, _, _ = run_pass(SpellMish(), graph)
    x = np.array([-3e38, -1e4, -100, -88, -20, -1.19, -1e-30, 0, 1e-30, 3, 19.9, 20, 21, 50, 1e4, 3e38], np.float32)
    exact = x.astype(np.float64) * np.tanh(np.log1p(np.exp(np.minimum(x.astype(np.float64), 700))))
    np.testing.assert_allclose(outputs(after, {"x": x})["y"], exact, rtol=3e-6, atol=1e-30)


@pytest.mark.parametrize(
    "body",
    [
        "s = Softplus(x) t = Tanh(s) y = Mul(s, t)",
        "s = Softplus(x) y = Tanh(s)",
        "s = Softplus(x) t = Tanh(s) m = Mul(x, t) y = Add(m, s)",
        "s = Softplus(x) t = Tanh(s) m = Mul(x, t) y = Add(m, t)",
    ],
)
def test_what_is_left_alone(body: str) -> None:
    graph = program(f"(float[3,5] x) => (float[3,5] y) {{ {body} }}", opset=18)
    assert run_pass(SpellMish(), graph)[1] == 0
