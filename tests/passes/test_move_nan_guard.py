from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import ops, outputs, program, run_pass

from qcompiler import ir
from qcompiler.passes.move_nan_guard import MoveNanGuard
from qcompiler.passes.remove_nan_guard import RemoveNanGuard

CONSTANTS = {
    "zero": np.float32(0.0),
    "one": np.float32(1.0),
    "infinite": np.float32(-np.inf),
    "lowest": np.finfo(np.float32).min,
    "causal": np.where(np.tri(5, dtype=bool), 0.0, -np.inf).astype(np.float32)[None],
    "blind": np.full((5, 5), -np.inf, np.float32),
    "upwards": np.where(np.tri(5, dtype=bool), 0.0, np.inf).astype(np.float32)[None],
}
QUERIES = "float[2,3,5,4] q, float[2,3,4,5] k, float[2,3,5,6] v, bool[2,1,S,5] see"
MASKED = "p = MatMul(q, k) w = Where(see, zero, infinite) m = Add(p, w)"
GUARDED = "s = Softmax(m) n = IsNaN(s) g = Where(n, zero, s) y = MatMul(g, v)"


def moved(text: str, opset: int = 17) -> tuple[ir.Graph, ir.Graph]:
    before = program(text, CONSTANTS, opset=opset)
    ir.infer_shapes(before)
    return before, run_pass(MoveNanGuard(), before)[0]


def feed(see: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"q": (2, 3, 5, 4), "k": (2, 3, 4, 5), "v": (2, 3, 5, 6)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | {"see": see}


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize(
    "masked",
    [
        MASKED,
        "p = MatMul(q, k) w = Where(see, zero, infinite) m = Add(w, p)",
        "p = MatMul(q, k) w = Where(see, one, infinite) m = Add(p, w)",
        "p = MatMul(q, k) h = Not(see) w = Where(h, infinite, zero) m = Add(p, w)",
    ],
)
def test_the_rows_that_see_nothing_are_zero_as_they_were(masked: str, opset: int) -> None:
    before, after = moved(f"({QUERIES}) => (float[2,3,5,6] y) {{ {masked} {GUARDED} }}", opset)
    assert "IsNaN" not in ops(after)
    see = np.random.default_rng(1).random((2, 1, 5, 5)) < 0.5
    see[0, 0, 2] = see[1, 0, 4] = False
    for kind in (see, see[:, :, :1], np.ones_like(see), np.zeros_like(see)):
        expected = outputs(before, feed(kind))["y"]
        np.testing.assert_array_equal(outputs(after, feed(kind))["y"], expected)
    assert not expected.any()


def test_layers_ask_once() -> None:
    first = "p1 = MatMul(q, k) m1 = Add(p1, w) s1 = Softmax(m1) n1 = IsNaN(s1)"
    second = f"{first} g1 = Where(n1, zero, s1) z = MatMul(g1, v)"
    _, after = moved(f"({QUERIES}) => (float y, float z) {{ {MASKED} {GUARDED} {second} }}")
    assert ops(after).count("ReduceMax") == ops(after).count("Where") == 1 and ops(after).count("Mul") == 2


@pytest.mark.parametrize(
    "text",
    [
        f"({QUERIES}) => (float y, float g) {{ {MASKED} {GUARDED} }}",
        f"({QUERIES}) => (float y, float z) {{ {MASKED} {GUARDED} z = Neg(g) }}",
        f"({QUERIES}) => (float y, float z) {{ {MASKED} {GUARDED} z = Neg(m) }}",
        f"({QUERIES}) => (float y, float z) {{ {MASKED} {GUARDED} z = MatMul(v, g) }}",
        f"({QUERIES}) => (float y) {{ {MASKED} {GUARDED.replace('Where(n, zero', 'Where(n, one')} }}",
        f"({QUERIES}) => (float y) {{ {MASKED} {GUARDED.replace('Softmax(m)', 'Softmax<axis = 2>(m)')} }}",
        f"({QUERIES}) => (float y) {{ {MASKED.replace('zero', 'infinite')} {GUARDED} }}",
        f"({QUERIES}) => (float y) {{ {MASKED.replace('zero', 'lowest')} {GUARDED} }}",
        f"({QUERIES}) => (float y) {{ p = Log(q) w = Where(see, zero, infinite) m = Add(p, w) {GUARDED} }}",
        f"({QUERIES}, float[5,5] mask) => (float y) {{ p = MatMul(q, k) m = Add(p, mask) {GUARDED} }}",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    before, after = moved(text)
    assert ops(after) == ops(before)


@pytest.mark.parametrize("mask, stays", [("causal", False), ("blind", True), ("upwards", True)])
def test_a_constant_mask_whose_rows_all_see_something_needs_no_guard(mask: str, stays: bool) -> None:
    before = program(f"({QUERIES}) => (float y) {{ p = MatMul(q, k) m = Add(p, {mask}) {GUARDED} }}", CONSTANTS)
    ir.infer_shapes(before)
    after, _, _ = run_pass(RemoveNanGuard(), before)
    assert ("IsNaN" in ops(after)) == stays
    see = np.ones((2, 1, 5, 5), bool)
    np.testing.assert_array_equal(outputs(after, feed(see))["y"], outputs(before, feed(see))["y"])
