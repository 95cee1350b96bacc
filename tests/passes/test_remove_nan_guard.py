from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.remove_nan_guard import RemoveNanGuard

LOWEST = np.finfo(np.float32).min
CONSTANTS = {
    "zero": np.float32(0.0),
    "lowest": LOWEST,
    "infinite": np.float32(-np.inf),
    "causal": np.where(np.tri(5, dtype=bool), 0.0, LOWEST).astype(np.float32)[None],
    "hiding": np.where(np.tri(5, dtype=bool), 0.0, -np.inf).astype(np.float32)[None],
}
QUERIES = "float[2,5,4] q, float[2,4,5] k"
GUARD = "s = Softmax(m) n = IsNaN(s) y = Where(n, zero, s)"


def unguarded(text: str) -> tuple[ir.Graph, ir.Graph, list[str]]:
    before = program(text, CONSTANTS)
    ir.infer_shapes(before)
    after, _, diagnostics = run_pass(RemoveNanGuard(), before)
    return before, after, refusals(diagnostics)


@pytest.mark.parametrize(
    "inputs, masked",
    [
        ("", "m = MatMul(q, k)"),
        ("", "p = MatMul(q, k) m = Add(p, causal)"),
        ("", "p = MatMul(q, k) m = Add(p, hiding)"),  # from some positions, and no row as a whole
        (", bool[2,1,5] see", "p = MatMul(q, k) w = Where(see, zero, lowest) m = Add(p, w)"),
        (", int64[2,1,5] see", "p = MatMul(q, k) c = Cast<to = 1>(see) m = Add(p, c)"),
        ("", "p = MatMul(q, k) t = Transpose<perm = [0, 2, 1]>(p) m = Sub(t, causal)"),
    ],
)
def test_what_cannot_occur_is_not_guarded_against(inputs: str, masked: str) -> None:
    before, after, _ = unguarded(f"({QUERIES}{inputs}) => (float[2,5,5] y) {{ {masked} {GUARD} }}")
    assert "IsNaN" not in ops(after)
    assert_same(before, after)


@pytest.mark.parametrize(
    "inputs, masked",
    [
        (", bool[2,1,5] see", "p = MatMul(q, k) w = Where(see, zero, infinite) m = Add(p, w)"),
        (", float[2,1,5] mask", "p = MatMul(q, k) m = Add(p, mask)"),
        ("", "p = MatMul(q, k) w = Add(causal, causal) m = Add(p, w)"),
        ("", "p = MatMul(q, k) m = Log(p)"),
        ("", "p = MatMul(q, k) m = Div(p, zero)"),
        ("", "m = Add(q, q)"),
    ],
)
def test_what_may_occur_is(inputs: str, masked: str) -> None:
    _, after, refused = unguarded(f"({QUERIES}{inputs}) => (float y) {{ {masked} {GUARD} }}")
    assert "IsNaN" in ops(after) and "may occur" in refused[0]


@pytest.mark.parametrize(
    "guard",
    [
        "s = Softmax(m) n = IsNaN(s) y = Where(n, s, zero)",
        "s = Softmax(m) n = IsNaN(m) y = Where(n, zero, s)",
        "s = Sigmoid(m) n = IsNaN(s) y = Where(n, zero, s)",
    ],
)
def test_another_question_stays(guard: str) -> None:
    before, after, refused = unguarded(f"({QUERIES}) => (float[2,5,5] y) {{ m = MatMul(q, k) {guard} }}")
    assert ops(after) == ops(before) and not refused


def test_sums_that_branch_are_looked_at_once() -> None:
    masks = ["m0 = MatMul(q, k)", *(f"m{i + 1} = Add(m{i}, m{i})" for i in range(60)), "m = Sub(m60, m60)"]
    _, after, refused = unguarded(f"({QUERIES}) => (float[2,5,5] y) {{ {' '.join(masks)} {GUARD} }}")
    assert "IsNaN" not in ops(after) and not refused  # 2 to the 64th times 2 to the 61st, short of 2 to the 128th
