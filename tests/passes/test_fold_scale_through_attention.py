from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.fold_scale_through_attention import FoldScaleThroughAttention

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w": RANDOM.normal(size=(8, 12)).astype(np.float32),
    "codes": RANDOM.integers(-127, 128, (8, 12)).astype(np.int8),
    "steps": RANDOM.uniform(0.01, 0.02, 12).astype(np.float32),
    "zeros": np.zeros(12, np.int8),
    "one": np.array(0.01, np.float32),
    "b": RANDOM.normal(size=12).astype(np.float32),
    "f": RANDOM.uniform(0.2, 4.0, 12).astype(np.float32),
    "nought": np.where(np.arange(12) == 3, 0.0, 1.5).astype(np.float32),
    "wide": np.ones((1, 1, 12), np.float32),
    "heads": np.array([0, 0, 3, 4]),
    "guessed": np.array([0, 0, -1, 4]),
    "flat": np.array([0, 0, 12]),
    "rest": np.array([0, 0, -1]),
}
GIVEN = "float[2,5,8] x, float[2,3,5,5] p"
HEADS = "r = Reshape(v, heads) h = Transpose<perm = [0, 2, 1, 3]>(r)"
JOINED = "a = MatMul(p, h) t = Transpose<perm = [0, 2, 1, 3]>(a) j = Reshape(t, flat)"


def folded(body: str, outputs: str = "float[2,5,12] y") -> tuple[ir.Graph, ir.Graph, int]:
    before = program(f"({GIVEN}) => ({outputs}) {{ {body} }}", CONSTANTS)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(FoldScaleThroughAttention(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "values",
    [
        "v = MatMul(x, w)",
        "q = MatMul(x, w) v = Add(q, b)",
        "q = MatMul(x, w) v = Add(b, q)",
        "d = DequantizeLinear<axis = 1>(codes, steps, zeros) v = MatMul(x, d)",
        "d = DequantizeLinear<axis = 1>(codes, steps, zeros) q = MatMul(x, d) v = Add(q, b)",
    ],
)
@pytest.mark.parametrize("shapes", [("heads", "flat"), ("guessed", "rest")])
def test_it_computes_the_same(values: str, shapes: tuple[str, str]) -> None:
    heads, joined = HEADS.replace("heads", shapes[0]), JOINED.replace("flat", shapes[1])
    before, after, rewrites = folded(f"{values} {heads} {joined} y = Mul(j, f)")
    assert rewrites == 1 and "Mul" not in ops(after) and len(after.nodes) == len(before.nodes) - 1
    assert_same(before, after, rtol=1e-5, atol=1e-5)


def test_codes_that_others_read_keep_their_scale() -> None:
    shared = "d = DequantizeLinear<axis = 1>(codes, steps, zeros) v = MatMul(x, d) z = MatMul(x, d)"
    before, after, rewrites = folded(f"{shared} {HEADS} {JOINED} y = Mul(j, f)", "float[2,5,12] y, float[2,5,12] z")
    assert rewrites == 1
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        f"v = MatMul(x, w) {HEADS} {JOINED} y = Mul(j, nought)",  # no scale of codes
        f"v = MatMul(x, w) {HEADS} {JOINED} y = Mul(j, wide)",
        f"d = DequantizeLinear(codes, one) v = MatMul(x, d) {HEADS} {JOINED} y = Mul(j, f)",
        f"v = MatMul(x, w) {HEADS} {JOINED} m = Mul(j, f) y = Add(m, j)",
        f"v = MatMul(x, w) {HEADS} {JOINED} m = Mul(j, f) y = Add(m, v)",
        f"q = MatMul(x, w) v = Add(q, one) {HEADS} {JOINED} y = Mul(j, f)",
        f"v = MatMul(x, w) {HEADS} a = MatMul(p, h) t = Transpose<perm = [2, 0, 1, 3]>(a) j = Reshape(t, flat) "
        "y = Mul(j, f)",
        f"v = MatMul(x, w) {HEADS} a = Neg(h) t = Transpose<perm = [0, 2, 1, 3]>(a) j = Reshape(t, flat) y = Mul(j, f)",
        "v = MatMul(x, w) y = Mul(v, f)",
    ],
)
def test_what_is_left_alone(body: str) -> None:
    before, after, rewrites = folded(body, "float y")
    assert rewrites == 0 and ops(after) == ops(before)


def test_results_that_are_returned_keep_their_numbers() -> None:
    body = f"v = MatMul(x, w) {HEADS} {JOINED} y = Mul(j, f)"
    for outputs in ("float y, float j", "float y, float v"):
        assert folded(body, outputs)[2] == 0
