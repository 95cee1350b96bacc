from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, outputs, program, run_pass

from qcompiler.passes.spell_elu import SpellElu

UNITS = [
    "Elu(x)", "Elu<alpha = 0.3>(x)", "Elu<alpha = 2.5>(x)", "Elu<alpha = 0.0>(x)", "Elu<alpha = -0.5>(x)",
    "Celu(x)", "Celu<alpha = 0.4>(x)", "Celu<alpha = 3.0>(x)", "Selu(x)", "Selu<alpha = 0.5, gamma = 2.0>(x)",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_it_computes_the_same(unit: str) -> None:
    before = program(f"(float[3,50] x) => (float[3,50] y) {{ y = {unit} }}")
    after, rewrites, _ = run_pass(SpellElu(), before)
    assert rewrites == 1 and "Exp" in ops(after) and not {"Elu", "Celu", "Selu"} & set(ops(after))
    assert_same(before, after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_the_whole_range(unit: str) -> None:
    before = program(f"(float[n] x) => (float[n] y) {{ y = {unit} }}")
    after, _, _ = run_pass(SpellElu(), before)
    values = [-np.inf, -3e38, -1e4, -100, -88, -20, -1, -1e-4, 0, 1e-30, 1e-4, 1, 20, 88, 100, 1e4, 1e38, np.inf]
    feed = {"x": np.array([*values, np.nan], np.float32)}
    np.testing.assert_allclose(outputs(after, feed)["y"], outputs(before, feed)["y"], rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize(
    "text",
    [
        "(float16[3,5] x) => (float16[3,5] y) { y = Elu(x) }",
        "(float[3,5] x) => (float[3,5] y) { y = Celu<alpha = -1.0>(x) }",
        "(float[3,5] x) => (float[3,5] y) { y = LeakyRelu(x) }",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert run_pass(SpellElu(), program(text))[1] == 0
