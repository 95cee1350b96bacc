from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.fold_scale_into_normalization import FoldScaleIntoNormalization

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "scale": RANDOM.normal(size=8).astype(np.float32),
    "shift": RANDOM.normal(size=8).astype(np.float32),
    "f": RANDOM.uniform(0.1, 4.0, 8).astype(np.float32),
    "one": np.float32(0.5),
    "rows": RANDOM.normal(size=(5, 1)).astype(np.float32),
    "large": np.full(8, 1e38, np.float32),
}
ROWS = "(float[2,5,8] x) => (float[2,5,8] y)"


def folded(text: str, opset: int = 17) -> tuple[ir.Graph, ir.Graph, int, list[str]]:
    before = program(text, CONSTANTS, opset=opset)
    ir.infer_shapes(before)
    after, rewrites, diagnostics = run_pass(FoldScaleIntoNormalization(), before)
    return before, after, rewrites, refusals(diagnostics)


@pytest.mark.parametrize(
    "body, left",
    [
        ("n = LayerNormalization(x, scale, shift) y = Mul(n, f)", "LayerNormalization"),
        ("n = LayerNormalization(x, scale) y = Mul(f, n)", "LayerNormalization"),
        ("n = LayerNormalization(x, scale, shift) y = Mul(n, one)", "LayerNormalization"),
        ("n = Mul(x, scale) y = Mul(n, f)", "Mul"),
        ("n = Mul(scale, x) y = Mul(n, one)", "Mul"),
    ],
)
def test_the_factor_goes_into_the_parameters(body: str, left: str) -> None:
    before, after, rewrites, _ = folded(f"{ROWS} {{ {body} }}")
    assert rewrites == 1 and ops(after) == [left]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


def test_that_of_root_mean_squares_too() -> None:
    before, after, rewrites, _ = folded(f"{ROWS} {{ n = RMSNormalization(x, scale) y = Mul(n, f) }}", opset=23)
    assert rewrites == 1 and ops(after) == ["RMSNormalization"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,5,8] x) => (float y, float z) { n = LayerNormalization(x, scale) y = Mul(n, f) z = Relu(n) }",
        "(float[2,5,8] x) => (float y, float n) { n = LayerNormalization(x, scale) y = Mul(n, f) }",
        f"{ROWS} {{ n = LayerNormalization(x, scale) y = Mul(n, rows) }}",
        f"{ROWS} {{ n = LayerNormalization<axis = 2>(x, scale) y = Mul(n, x) }}",
        f"{ROWS} {{ n = Relu(x) y = Mul(n, f) }}",
        f"{ROWS} {{ n = Mul(x, one) y = Mul(n, f) }}",
    ],
)
def test_what_stays(text: str) -> None:
    before, after, rewrites, _ = folded(text)
    assert rewrites == 0 and ops(after) == ops(before)


def test_parameters_that_would_overflow_are_refused() -> None:
    _, _, rewrites, refused = folded(f"{ROWS} {{ n = LayerNormalization(x, large) y = Mul(n, large) }}")
    assert rewrites == 0 and "do not fit float32" in refused[0]
