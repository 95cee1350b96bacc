from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.merge_branches import MergeBranches

RANDOM = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def merged(text: str, rewrites: int, **weights: np.ndarray) -> ir.Graph:
    before = program(text, weights)
    ir.infer_shapes(before)
    after, found, _ = run_pass(MergeBranches(), before)
    assert found == rewrites
    assert_same(before, after, rtol=1e-4, atol=1e-4, N=2)
    return after


def normalization(channels: int) -> dict[str, np.ndarray]:
    return {"g": values(channels), "t": values(channels), "m": values(channels), "v": np.abs(values(channels)) + 0.5}


def test_a_block_as_it_is_trained_becomes_one_convolution() -> None:
    after = merged(
        """(float[N,6,9,8] x) => (float[N,6,9,8] y) {
            a = Conv<pads = [1,1,1,1]>(x, w, b) c = Conv(x, u) s = Add(a, c)
            n = BatchNormalization(x, g, t, m, v) z = Add(n, s) y = Relu(z) }""",
        2, w=values(6, 6, 3, 3), b=values(6), u=values(6, 6, 1, 1), **normalization(6),
    )  # fmt: skip
    assert ops(after) == ["Conv", "Relu"]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_of_any_groups_and_sign(op: str, groups: int) -> None:
    after = merged(
        f"""(float[N,6,9,8] x) => (float[N,6,9,8] y) {{
            a = Conv<group = {groups}, pads = [1,1,1,1]>(x, w, b)
            n = BatchNormalization(x, g, t, m, v) y = {op}(n, a) }}""",
        1, w=values(6, 6 // groups, 3, 3), b=values(6), **normalization(6),
    )  # fmt: skip
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize(
    "one, other, kernels",
    [
        ("strides = [2,2], pads = [1,1,1,1]", "strides = [2,2]", ((3, 3), (1, 1))),
        ("pads = [2,2,2,2], dilations = [2,2]", "group = 1", ((3, 3), (1, 1))),
        ("pads = [0,2,0,2]", "pads = [0,1,0,1]", ((1, 5), (1, 3))),
        ("pads = [1,0,0,1]", "group = 1", ((2, 2), (1, 1))),
    ],
)
def test_the_smaller_window_lies_in_the_larger(one: str, other: str, kernels: tuple[tuple[int, int], ...]) -> None:
    merged(
        f"""(float[N,4,9,9] x) => (float[N,5,a,b] y) {{
            p = Conv<{other}>(x, u) q = Conv<{one}>(x, w) y = Add(p, q) }}""",
        1, w=values(5, 4, *kernels[0]), u=values(5, 4, *kernels[1]),
    )  # fmt: skip


def test_sequences_too() -> None:
    merged(
        "(float[N,4,9] x) => (float[N,5,9] y) { p = Conv(x, u) q = Conv<pads = [1,1]>(x, w) y = Add(p, q) }",
        1, w=values(5, 4, 3), u=values(5, 4, 1),
    )  # fmt: skip


def test_weights_that_others_read_keep_their_numbers() -> None:
    after = merged(
        """(float[N,4,9,9] x) => (float[N,4,9,9] y) {
            p = Conv(x, u) q = Conv<pads = [1,1,1,1]>(x, w) s = Add(p, q) y = Conv<pads = [1,1,1,1]>(s, w) }""",
        1, w=values(4, 4, 3, 3), u=values(4, 4, 1, 1),
    )  # fmt: skip
    assert ops(after) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    "text",
    [
        "{ p = Conv<pads = [1,1,1,1]>(x, w) y = Add(p, x) }",  # a residual connection
        "{ r = Relu(x) p = Conv<pads = [1,1,1,1]>(x, w) q = Conv<pads = [1,1,1,1]>(r, w2) y = Add(p, q) }",
        "{ p = Conv<pads = [1,1,1,1]>(x, w) y = Add(p, p) }",
        "{ p = Conv<pads = [1,1,1,1]>(x, w) q = Conv(x, u) s = Add(p, q) r = Relu(q) y = Add(s, r) }",
        "{ p = Conv<pads = [1,1,1,1]>(x, w) q = Conv<dilations = [2,2], pads = [2,2,2,2]>(x, w2) y = Add(p, q) }",
        "{ p = Conv<pads = [1,1,1,1]>(x, w) q = Conv<group = 2, pads = [1,1,1,1]>(x, half) y = Add(p, q) }",
        "{ p = Conv<pads = [1,1]>(x, w) q = Conv(x, u) y = Add(p, q) }",  # no valid model
        "{ p = Conv<auto_pad = \"SAME_UPPER\">(x, w) q = Conv(x, u) y = Add(p, q) }",
    ],
)
def test_left_alone(text: str) -> None:
    weights = {"w": values(4, 4, 3, 3), "w2": values(4, 4, 3, 3), "u": values(4, 4, 1, 1), "half": values(4, 2, 3, 3)}
    graph = program(f"(float[2,4,9,9] x) => (float[2,4,9,9] y) {text}", weights)
    ir.infer_shapes(graph)
    assert run_pass(MergeBranches(), graph)[1] == 0


def test_a_result_that_others_read_is_said() -> None:
    graph = program(
        "(float[2,4,9,9] x) => (float[2,4,9,9] y, float[2,4,9,9] q) { p = Conv(x, u) q = Conv(x, w) y = Add(p, q) }",
        {"w": values(4, 4, 1, 1), "u": values(4, 4, 1, 1)},
    )
    ir.infer_shapes(graph)
    _, rewrites, remarks = run_pass(MergeBranches(), graph)
    assert rewrites == 0 and [remark.message for remark in remarks] == ["'q' has other readers"]
