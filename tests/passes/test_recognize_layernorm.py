from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler.passes.recognize_layernorm import RecognizeLayerNorm

RANDOM = np.random.default_rng(0)
NUMBERS = {
    "eps": np.float32(1e-5),
    "two": np.float32(2),
    "one": np.float32([1]),
    "half": np.float32(0.5),
    "minus_half": np.float32(-0.5),
    "G": RANDOM.normal(size=6).astype(np.float32),
    "B": RANDOM.normal(size=6).astype(np.float32),
}

CENTRED = "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m)"
SQUARES = ["p = Pow(d, two)", "p = Mul(d, d)", "d2 = Sub(x, m) p = Pow(d2, two)"]
VARIANCE = ["v = ReduceMean<axes = [-1]>(p) a = Add(v, eps)", "v = ReduceMean<axes = [2]>(p) a = Add(eps, v)"]
QUOTIENTS = [
    "s = Sqrt(a) n = Div(d, s)",
    "s = Sqrt(a) r = Reciprocal(s) n = Mul(d, r)",
    "s = Sqrt(a) r = Div(one, s) n = Mul(r, d)",
    "s = Pow(a, half) n = Div(d, s)",
    "r = Pow(a, minus_half) n = Mul(r, d)",
]
ENDINGS = [
    "g = Mul(n, G) y = Add(g, B)",
    "g = Mul(G, n) y = Add(B, g)",
    "y = Mul(n, G)",
    "y = Add(n, B)",
    "y = Add(B, n)",
    "y = Mul(n, two)",
    "g = Mul(n, G) f = Mul(g, two) y = Add(f, B)",
    "y = Mul(n, one)",
]
TENSORFLOW = """m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) p = Mul(d, d) v = ReduceMean<axes = [-1]>(p)
a = Add(v, eps) s = Sqrt(a) r = Reciprocal(s) k = Mul(r, G)
xs = Mul(x, k) ms = Mul(m, k) t = Sub(B, ms) y = Add(xs, t)"""


def layer_norm(body: str, opset: int = 17, shape: str = "N,3,6", **constants: np.ndarray):
    return program(f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}", NUMBERS | constants, opset=opset)


def reasons(body: str, opset: int = 17, shape: str = "N,3,6", **constants: np.ndarray) -> list[str]:
    before = layer_norm(body, opset, shape, **constants)
    after, rewrites, diagnostics = run_pass(RecognizeLayerNorm(), before)
    assert (ops(after), rewrites) == (ops(before), 0)
    return [reason.split(": ", 1)[1] for reason in refusals(diagnostics)]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(SQUARES), st.sampled_from(VARIANCE), st.sampled_from(QUOTIENTS), st.sampled_from(ENDINGS))
def test_every_way_of_writing_it(square: str, variance: str, quotient: str, ending: str) -> None:
    before = layer_norm(f"{CENTRED} {square} {variance} {quotient} {ending}")
    after, rewrites, _ = run_pass(RecognizeLayerNorm(), before)
    assert (ops(after), rewrites) == (["LayerNormalization"], 1)
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=4)


def test_the_form_of_tensorflow() -> None:
    before = layer_norm(TENSORFLOW)
    after, _, _ = run_pass(RecognizeLayerNorm(), before)
    assert ops(after) == ["LayerNormalization"]
    assert after.nodes[0].attrs == {"axis": -1, "epsilon": pytest.approx(1e-5)}
    np.testing.assert_array_equal(after.nodes[0].inputs[1].values, NUMBERS["G"])
    np.testing.assert_array_equal(after.nodes[0].inputs[2].values, NUMBERS["B"])
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=4)


def test_axes_as_an_input_and_several_of_them() -> None:
    body = """m = ReduceMean(x, axes) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, axes) a = Add(v, eps) s = Sqrt(a)
    n = Div(d, s) g = Mul(n, G) y = Add(g, B)"""
    wide = {name: RANDOM.normal(size=(1, 3, 6)).astype(np.float32) for name in "GB"}
    before = layer_norm(body, opset=18, axes=np.array([1, 2]), **wide)
    after, _, _ = run_pass(RecognizeLayerNorm(), before)
    assert [(node.op, node.attrs["axis"]) for node in after.nodes] == [("LayerNormalization", -2)]
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=4)


def test_without_shapes() -> None:
    body = f"x = custom.Nothing(i) {CENTRED} p = Pow(d, two) {VARIANCE[0]} {QUOTIENTS[0]} {ENDINGS[0]}"
    after, _, _ = run_pass(RecognizeLayerNorm(), program(f"(float[6] i) => (float[6] y) {{ {body} }}", NUMBERS))
    assert ops(after) == ["Nothing", "LayerNormalization"]


def test_float16() -> None:
    body = f"{CENTRED} p = Pow(d, two) {VARIANCE[0]} {QUOTIENTS[0]} {ENDINGS[0]}"
    constants = {name: value.astype(np.float16) for name, value in NUMBERS.items()}
    before = program(f"(float16[2,3,6] x) => (float16[2,3,6] y) {{ {body} }}", constants)
    after, _, _ = run_pass(RecognizeLayerNorm(), before)
    assert ops(after) == ["LayerNormalization"]
    assert_same(before, after, rtol=1e-2, atol=1e-2)


def test_a_computed_gamma_stays_outside() -> None:
    body = f"{CENTRED} p = Pow(d, two) {VARIANCE[0]} {QUOTIENTS[0]} w = Abs(x) y = Mul(n, w)"
    before = layer_norm(body)
    after, _, _ = run_pass(RecognizeLayerNorm(), before)
    assert sorted(ops(after)) == ["Abs", "LayerNormalization", "Mul"]
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=4)


FORM = f"{CENTRED} p = Pow(d, two) {VARIANCE[0]} {QUOTIENTS[0]}"


def test_refuses_below_opset_17() -> None:
    assert reasons(f"{FORM} {ENDINGS[0]}", opset=16) == ["LayerNormalization needs opset 17, the model has 16"]


def test_refuses_other_axes() -> None:
    body = f"{FORM} y = Mul(n, two)".replace("[-1]", "[1]")
    assert reasons(body) == ["it normalizes over axes [1], which are not the last ones"]


def test_refuses_axes_from_the_front_without_a_rank() -> None:
    body = f"x = custom.Nothing(i) {FORM} {ENDINGS[0]}".replace("[-1]", "[2]")
    before = program(f"(float[6] i) => (float[6] y) {{ {body} }}", NUMBERS)
    _, rewrites, diagnostics = run_pass(RecognizeLayerNorm(), before)
    assert rewrites == 0
    assert refusals(diagnostics) == ["Sqrt_6: its axes count from the front and the rank is not known"]


def test_refuses_a_gamma_of_another_shape_when_it_cannot_stop_before_it() -> None:
    body = f"{FORM} g = Mul(n, G) y = Add(g, B)".replace("[-1]", "[-2, -1]")
    assert reasons(body) == ["gamma and beta are not constants of the shape of the last 2 axes"]


def test_refuses_a_mean_over_other_axes() -> None:
    body = FORM.replace("v = ReduceMean<axes = [-1]>", "v = ReduceMean<axes = [-2, -1]>") + " y = Mul(n, two)"
    assert reasons(body) == ["mean and variance are taken over different axes, or epsilon is negative"]


def test_refuses_when_the_normalized_value_inside_is_used_elsewhere() -> None:
    before = program(f"(float[6] x) => (float[6] y, float[1] m) {{ {FORM} {ENDINGS[0]} }}", NUMBERS)
    after, rewrites, diagnostics = run_pass(RecognizeLayerNorm(), before)
    assert (ops(after), rewrites) == (ops(before), 0)
    assert refusals(diagnostics) == ["Sqrt_5: the tensor 'm' inside it is used elsewhere too"]


def test_stops_where_the_result_is_used_elsewhere() -> None:
    before = program(f"(float[6] x) => (float[6] y, float[6] g) {{ {FORM} {ENDINGS[0]} }}", NUMBERS)
    after, _, _ = run_pass(RecognizeLayerNorm(), before)
    assert ops(after) == ["LayerNormalization", "Add"]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


def test_refuses_a_cast_inside() -> None:
    body = f"{CENTRED} c = Cast<to = 11>(d) p = Mul(c, c) w = ReduceMean<axes = [-1]>(p) v = Cast<to = 1>(w)"
    body += f" a = Add(v, eps) {QUOTIENTS[0]} {ENDINGS[0]}"
    assert reasons(body) == ["a Cast to another type stands inside what looks like a layer normalization"]


def test_the_root_of_a_cast_number_is_nothing_of_the_kind() -> None:
    assert reasons("i = Cast<to = 7>(x) c = Cast<to = 1>(i) s = Sqrt(c) y = Div(x, s)") == []


def test_refuses_float64() -> None:
    constants = {name: value.astype(np.float64) for name, value in NUMBERS.items()}
    before = program(f"(double[2,6] x) => (double[2,6] y) {{ {FORM} {ENDINGS[0]} }}", constants)
    _, rewrites, diagnostics = run_pass(RecognizeLayerNorm(), before)
    assert rewrites == 0
    assert refusals(diagnostics) == ["Sqrt_5: float64, which the node need not keep"]


def test_root_mean_square_stays() -> None:
    body = "p = Mul(x, x) v = ReduceMean<axes = [-1]>(p) a = Add(v, eps) s = Sqrt(a) n = Div(x, s) y = Mul(n, G)"
    assert reasons(body) == []
