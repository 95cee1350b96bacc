from __future__ import annotations

import numpy as np
from pass_helpers import assert_same, ops, outputs, program, run_pass

from qcompiler.passes.spell_softplus import SpellSoftplus


def test_it_computes_the_same() -> None:
    before = program("(float[3,50] x) => (float[3,50] y) { y = Softplus(x) }")
    after, rewrites, _ = run_pass(SpellSoftplus(), before)
    assert rewrites == 1 and "Softplus" not in ops(after)
    assert_same(before, after, rtol=1e-6, atol=1e-6)


def test_the_whole_range() -> None:
    after, _, _ = run_pass(SpellSoftplus(), program("(float[n] x) => (float[n] y) { y = Softplus(x) }"))
    values = [-np.inf, -3e38, -1e4, -100, -88, -20, -1, -1e-4, 0, 1e-30, 1e-4, 1, 20, 88, 100, 1e4, 3e38, np.inf]
    x = np.array(values, np.float32)
    exact = np.logaddexp(0.0, x.astype(np.float64))
    np.testing.assert_allclose(outputs(after, {"x": x})["y"], exact, rtol=1e-6, atol=2e-7)
    assert np.isnan(outputs(after, {"x": np.array([np.nan], np.float32)})["y"]).all()


def test_other_types_are_left_alone() -> None:
    assert run_pass(SpellSoftplus(), program("(float16[3,5] x) => (float16[3,5] y) { y = Softplus(x) }"))[1] == 0
