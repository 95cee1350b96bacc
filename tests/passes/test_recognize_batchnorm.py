from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.recognize_batchnorm import RecognizeBatchNorm

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "s": RANDOM.normal(size=(6, 1, 1)).astype(np.float32),
    "t": RANDOM.normal(size=(1, 6, 1, 1)).astype(np.float32),
    "w": RANDOM.normal(size=(6, 1, 1, 1)).astype(np.float32),
    "b": RANDOM.normal(size=6).astype(np.float32),
    "rows": RANDOM.normal(size=(5, 1)).astype(np.float32),
    "one": np.float32(0.5),
}
PICTURES = "(float[2,6,5,7] x) => (float[2,6,5,7] y)"


def recognized(text: str) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text, CONSTANTS)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(RecognizeBatchNorm(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "body",
    [
        "p = Mul(x, s) y = Add(p, t)",
        "p = Mul(s, x) y = Add(t, p)",
        "y = Conv<group = 6>(x, w, b)",
        "y = Conv<group = 6>(x, w)",
    ],
)
def test_a_scale_and_a_shift_of_each_channel_are_one_node(body: str) -> None:
    before, after, rewrites = recognized(f"{PICTURES} {{ {body} }}")
    assert rewrites == 1 and ops(after) == ["BatchNormalization"]
    assert_same(before, after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        f"{PICTURES} {{ y = Mul(x, s) }}",
        f"{PICTURES} {{ p = Mul(x, rows) y = Add(p, t) }}",
        f"{PICTURES} {{ p = Mul(x, one) y = Add(p, t) }}",
        "(float[2,6,5,7] x) => (float[2,6,5,7] y, float[2,6,5,7] p) { p = Mul(x, s) y = Add(p, t) }",
        "(float[2,6,5,7] x) => (float[2,6,5,7] y, float[2,6,5,7] z) { p = Mul(x, s) y = Add(p, t) z = Relu(p) }",
        "(float[2,6,5,7] x) => (float[2,6,3,4] y) { y = Conv<group = 6, strides = [2, 2]>(x, w, b) }",
        "(float[2,6,5,7] x) => (float[2,6,7,9] y) { y = Conv<group = 6, pads = [1, 1, 1, 1]>(x, w, b) }",
        "(float[2,1,5,7] x) => (float[2,6,5,7] y) { p = Mul(x, s) y = Add(p, t) }",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    before, after, rewrites = recognized(text)
    assert rewrites == 0 and ops(after) == ops(before)
