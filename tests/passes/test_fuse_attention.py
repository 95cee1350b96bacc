from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import feed, ops, outputs, program

from qcompiler import ir
from qcompiler.passes.fuse_attention import FuseAttention
from qcompiler.passes.move_nan_guard import MoveNanGuard
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan

CONSTANTS = {
    "heads": np.array([0, 0, 3, 4]),
    "guessed": np.array([0, 0, -1, 4]),
    "wide": np.array([0, 0, 3, 5]),
    "flat": np.array([0, 0, -1]),
    "rows": np.array([-1, 15]),
    "half": np.float32(0.5),
    "two": np.float32(2.0),
    "each": np.linspace(0.5, 1.5, 4, dtype=np.float32),
    "zero": np.float32(0.0),
    "infinite": np.float32(-np.inf),
}
GIVEN = "float[B,S,12] q, float[B,T,12] k, float[B,T,15] v"
PARTED = """qr = Reshape(q, heads) qt = Transpose<perm = [0, 2, 1, 3]>(qr) kr = Reshape(k, heads)
    kt = Transpose<perm = [0, 2, 3, 1]>(kr) vr = Reshape(v, wide) vt = Transpose<perm = [0, 2, 1, 3]>(vr)"""
JOINED = "a = MatMul(s, vt) t = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(t, flat)"
SCORES = "p = MatMul(qt, kt) m = Mul(p, half) s = Softmax(m)"
QUANTIZED = PassContext(None, replace(Plan(), intended=frozenset(("some",))))


def fused(text: str, ctx: PassContext = QUANTIZED) -> tuple[ir.Graph, ir.Graph]:
    before = program(text, CONSTANTS, opset=18)
    ir.infer_shapes(before)
    after = ir.clone(before)
    Pipeline([FuseAttention()]).run(after, ctx)
    return before, after


def assert_close(before: ir.Graph, after: ir.Graph, given: Mapping[str, np.ndarray]) -> None:
    wanted, actual = outputs(before, dict(given)), outputs(after, dict(given))
    for name, values in wanted.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "inputs, scores",
    [
        ("", SCORES),
        ("", "p = MatMul(qt, kt) s = Softmax(p)"),
        ("", "p = MatMul(qt, kt) m = Div(p, two) s = Softmax(m)"),
        ("", "qs = Mul(qt, half) ks = Mul(two, kt) p = MatMul(qs, ks) s = Softmax<axis = 3>(p)"),
        (", float[B,3,S,T] mask", "p = MatMul(qt, kt) d = Mul(p, half) m = Add(d, mask) s = Softmax(m)"),
        (", float[1,1,S,T] mask", "p = MatMul(qt, kt) d = Mul(p, half) m = Add(mask, d) s = Softmax(m)"),
        (", float[B,1,S,T] mask", "qs = Mul(qt, half) p = MatMul(qs, kt) m = Add(p, mask) s = Softmax(m)"),
    ],
)
def test_it_computes_the_same(inputs: str, scores: str) -> None:
    before, after = fused(f"({GIVEN}{inputs}) => (float y) {{ {PARTED} {scores} {JOINED} }}")
    assert ops(after) == ["MultiHeadAttention"]
    for batch, queries, keys in ((1, 5, 5), (2, 7, 4)):
        assert_close(before, after, feed(before, B=batch, S=queries, T=keys))


def test_heads_that_are_counted_by_the_reshape() -> None:
    before, after = fused(f"({GIVEN}) => (float y) {{ {PARTED.replace('heads', 'guessed')} {SCORES} {JOINED} }}")
    assert ops(after) == ["MultiHeadAttention"]
    assert_close(before, after, feed(before, B=2, S=3, T=6))


def test_rows_that_see_nothing_stay_zero() -> None:
    masked = "p = MatMul(qt, kt) w = Where(see, zero, infinite) m = Add(p, w) f = Softmax(m) n = IsNaN(f)"
    text = f"({GIVEN}, bool[B,1,S,T] see) => (float y) {{ {PARTED} {masked} s = Where(n, zero, f) {JOINED} }}"
    before = program(text, CONSTANTS, opset=18)
    ir.infer_shapes(before)
    after = ir.clone(before)
    Pipeline([MoveNanGuard(), FuseAttention()]).run(after, QUANTIZED)
    assert "MultiHeadAttention" in ops(after) and "Softmax" not in ops(after) and "IsNaN" not in ops(after)
    given = feed(before, B=2, S=5, T=4)
    given["see"] = np.random.default_rng(0).random((2, 1, 5, 4)) < 0.5
    given["see"][0, 0, 3] = False
    assert_close(before, after, given)
    assert not outputs(after, given)["y"][0, 3].any()


@pytest.mark.parametrize(
    "text",
    [
        f"({GIVEN}, float[B,1,1,T] mask) => (float y) {{ {PARTED} p = MatMul(qt, kt) m = Add(p, mask) "
        f"s = Softmax(m) {JOINED} }}",
        f"({GIVEN}, float[S,T] mask) => (float y) {{ {PARTED} p = MatMul(qt, kt) m = Add(p, mask) "
        f"s = Softmax(m) {JOINED} }}",
        f"({GIVEN}) => (float y, float s) {{ {PARTED} {SCORES} {JOINED} }}",
        f"({GIVEN}) => (float y, float z) {{ {PARTED} {SCORES} {JOINED} z = Neg(p) }}",
        f"({GIVEN}) => (float y) {{ {PARTED} {SCORES.replace('Softmax(', 'Softmax<axis = 1>(')} {JOINED} }}",
        f"({GIVEN}) => (float y) {{ {PARTED} {SCORES} {JOINED.replace('flat', 'rows')} }}",
        f"({GIVEN}) => (float y) {{ {PARTED} {SCORES} b = Mul(vt, half) {JOINED.replace('vt', 'b')} }}",
        f"({GIVEN}) => (float y) {{ {PARTED} qs = Mul(qt, each) p = MatMul(qs, kt) s = Softmax(p) {JOINED} }}",
        f"(float[A,S,12] q, float[B,T,12] k, float[B,T,15] v) => (float y) {{ {PARTED} {SCORES} {JOINED} }}",
    ],
)  # fmt: skip
def test_what_is_left_alone(text: str) -> None:
    before, after = fused(text)
    assert ops(after) == ops(before)


def test_an_older_runtime_does_not_broadcast_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = "p = MatMul(qt, kt) m = Add(p, mask) s = Softmax(m)"
    text = f"({GIVEN}, float[1,1,S,T] mask) => (float y) {{ {PARTED} {masked} {JOINED} }}"
    plain = f"({GIVEN}) => (float y) {{ {PARTED} {SCORES} {JOINED} }}"
    monkeypatch.setattr("onnxruntime.__version__", "1.19.2")
    assert "MultiHeadAttention" not in ops(fused(text)[1])
    assert "MultiHeadAttention" in ops(fused(plain)[1])


def test_where_nothing_is_in_eight_bits_other_runtimes_may_read_it() -> None:
    text = f"({GIVEN}) => (float y) {{ {PARTED} {SCORES} {JOINED} }}"
    for ctx in (PassContext(None, Plan()), PassContext(None, None)):
        before, after = fused(text, ctx)
        assert ops(after) == ops(before)
