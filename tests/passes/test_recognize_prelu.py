from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, outputs, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.recognize_prelu import RecognizePRelu

CHANNELS = np.array([0.25, -0.5, 1.0, 0.0, 1.5], np.float32)
CONSTANTS = {
    "zero": np.float32(0),
    "half": np.float32(0.5),
    "fifth": np.float32(0.2),
    "minus": np.float32(-0.2),
    "two": np.float32(2),
    "six": np.float32(0.6),
    "four": np.float32(0.4),
    "a": CHANNELS,
    "inverse": np.float32([2, 4, 8, -2, 1]),
    "wide": np.full((1, 1, 1, 1), 0.2, np.float32),
}
LAST = "(float[2,3,4,5] x) => (float[2,3,4,5] y)"


def recognized(text: str, constants: dict[str, np.ndarray] | None = None) -> tuple[ir.Graph, ir.Graph, int, list[str]]:
    before = program(text, constants or CONSTANTS)
    ir.infer_shapes(before)
    after, rewrites, diagnostics = run_pass(RecognizePRelu(), before)
    return before, after, rewrites, refusals(diagnostics)


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul(x, fifth) y = Max(x, m)",
        "m = Mul(fifth, x) y = Max(m, x)",
        "r = Relu(x) n = Neg(x) s = Relu(n) m = Mul(s, minus) y = Add(r, m)",
        "r = Relu(x) n = Neg(x) s = Relu(n) m = Mul(s, fifth) y = Sub(r, m)",
        "b = Abs(x) p = Mul(x, six) n = Mul(b, four) y = Add(p, n)",
        "r = Relu(x) m = Min(x, zero) n = Mul(m, fifth) y = Add(n, r)",
        "r = Clip(x, zero) d = Sub(x, r) m = Mul(d, fifth) y = Add(m, r)",
        "m = Mul(x, fifth) c = Greater(x, zero) y = Where(c, x, m)",
        "m = Mul(x, fifth) c = LessOrEqual(x, zero) y = Where(c, m, x)",
        "m = Mul(x, fifth) c = Less(zero, x) i = Identity(x) y = Where(c, i, m)",
        "b = Abs(x) d = Sub(x, b) m = Mul(d, half) n = Mul(m, fifth) r = Relu(x) y = Add(r, n)",
    ],
)
def test_one_multiple_below_zero(body: str) -> None:
    before, after, rewrites, _ = recognized(f"{LAST} {{ {body} }}")
    assert (ops(after), rewrites) == (["LeakyRelu"], 1)
    assert after.nodes[0].attrs["alpha"] == pytest.approx(0.2)
    assert_same(before, after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "b = Abs(x) s = Add(x, b) y = Mul(s, half)",
        "b = Abs(x) s = Add(b, x) y = Div(s, two)",
        "c = Less(x, zero) i = Identity(x) y = Where(c, zero, i)",
    ],
)
def test_nothing_below_zero(body: str) -> None:
    before, after, rewrites, _ = recognized(f"{LAST} {{ {body} }}")
    assert (ops(after), rewrites) == (["Relu"], 1)
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        "r = Relu(x) n = Neg(x) s = Relu(n) m = Mul(s, a) y = Sub(r, m)",
        "r = Relu(x) m = Min(zero, x) n = Mul(a, m) y = Add(r, n)",
        "m = Mul(x, a) c = GreaterOrEqual(x, zero) y = Where(c, x, m)",
    ],
)
def test_a_slope_for_each_channel(body: str) -> None:
    before, after, rewrites, _ = recognized(f"{LAST} {{ {body} }}")
    assert (ops(after), rewrites) == (["PRelu"], 1)
    np.testing.assert_array_equal(after.nodes[0].inputs[1].values, CHANNELS)
    assert_same(before, after)


def test_a_slope_for_each_place_in_another_layout() -> None:
    """As Keras writes it, behind convolutions that want channels first."""
    slopes = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)
    text = """(float[2,3,4,5] x) => (float[2,3,4,5] y) {
        r = Relu(x) n = Neg(x) s = Relu(n) t = Transpose<perm = [0, 2, 3, 1]>(s) m = Mul(t, slopes)
        u = Transpose<perm = [0, 3, 1, 2]>(m) y = Sub(r, u) }"""
    before, after, rewrites, _ = recognized(text, {"slopes": slopes})
    assert (ops(after), rewrites) == (["PRelu"], 1)
    np.testing.assert_array_equal(after.nodes[0].inputs[1].values, slopes.transpose(2, 0, 1)[None])
    assert_same(before, after)


def test_a_division_by_channels() -> None:
    before, after, _, _ = recognized(f"{LAST} {{ m = Min(x, zero) n = Div(m, inverse) r = Relu(x) y = Add(n, r) }}")
    assert ops(after) == ["PRelu"]
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        "r = Relu(x) m = Mul(x, fifth) y = Add(r, m)",  # 1.2 times x above zero
        "m = Mul(x, fifth) c = Greater(x, half) y = Where(c, x, m)",  # not at zero
        "m = Add(x, half) y = Max(x, m)",  # a shift
        "m = Div(fifth, x) y = Max(x, m)",  # x below the line
        "m = Mul(x, x) y = Max(x, m)",  # a square
        "r = Relu(x) d = Sub(x, r) y = Add(r, d)",  # x itself
        "t = Transpose<perm = [0, 1, 3, 2]>(x) m = Mul(t, fifth) u = Reshape(m, s) y = Max(x, u)",
    ],
)
def test_other_functions_stay(body: str) -> None:
    before, after, rewrites, _ = recognized(f"{LAST} {{ {body} }}", CONSTANTS | {"s": np.array([2, 3, 4, 5])})
    assert (ops(after), rewrites) == (ops(before), 0)


def test_axes_that_do_not_come_back() -> None:
    text = """(float[3,3] x) => (float[3,3] y) { t = Transpose<perm = [1, 0]>(x) m = Mul(t, fifth) y = Max(x, m) }"""
    assert recognized(text)[2] == 0


@pytest.mark.parametrize("shape", ["2,3,4,1", "4,1", "n,m"])
def test_slopes_that_would_enlarge(shape: str) -> None:
    text = f"(float[{shape}] x) => (float y) {{ n = Min(x, zero) m = Mul(n, a) r = Relu(x) y = Add(r, m) }}"
    assert recognized(text)[2] == 0


def test_a_number_of_more_axes_than_x() -> None:
    assert recognized("(float[5] x) => (float[1,1,1,5] y) { m = Mul(x, wide) y = Max(x, m) }")[2] == 0


def test_a_part_that_is_used_elsewhere_is_refused() -> None:
    text = "(float[5] x) => (float[5] y, float[5] m) { m = Mul(x, fifth) y = Max(x, m) }"
    _, after, rewrites, refused = recognized(text)
    assert (ops(after), rewrites) == (["Mul", "Max"], 0)
    assert refused == ["Max_1: the tensor 'm' inside it is used elsewhere too"]


def test_in_half_precision() -> None:
    constants = {"a": CHANNELS.astype(np.float16)}
    text = "(float16[2,5] x) => (float16[2,5] y) { r = Relu(x) n = Neg(x) s = Relu(n) m = Mul(s, a) y = Sub(r, m) }"
    before, after, _, _ = recognized(text, constants)
    assert ops(after) == ["PRelu"] and after.nodes[0].inputs[1].dtype == np.float16
    assert_same(before, after)


STEPS = ["Neg({0})", "Abs({0})", "Relu({0})", "Mul({0}, fifth)", "Mul(a, {0})", "Identity({0})", "Clip({0}, zero)",
         "LeakyRelu<alpha = 0.3>({0})", "Add({0}, {1})", "Sub({0}, {1})", "Max({0}, {1})", "Min({0}, {1})",
         "Max({0}, zero)", "Div({0}, inverse)", "Add({0}, half)"]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=6))
def test_whatever_is_written_stays_the_same_function(steps: list[tuple[str, int, int]]) -> None:
    names, lines = ["x"], []
    for index, (step, first, second) in enumerate(steps):
        lines.append(f"t{index} = " + step.format(names[-1 - first % len(names)], names[second % len(names)]))
        names.append(f"t{index}")
    before, after, _, _ = recognized(f"(float[3,5] x) => (float[3,5] t{len(steps) - 1}) {{ {' '.join(lines)} }}")
    assert_same(before, after, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_stays_none() -> None:
    before, after, _, _ = recognized("(float[n,5] x) => (float[n,5] y) { m = Mul(x, fifth) y = Max(x, m) }")
    assert ops(after) == ["LeakyRelu"]
    feed = {"x": np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0]], np.float32)}
    np.testing.assert_array_equal(outputs(after, feed)["y"], outputs(before, feed)["y"])
