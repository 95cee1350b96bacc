from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import runtime
from qcompiler.passes.recognize_gelu import RecognizeGelu

NUMBERS = {
    "half": np.float32(0.5),
    "one": np.float32(1),
    "two": np.float32(2),
    "three": np.float32(3),
    "root": np.float32(math.sqrt(2)),
    "inverse": np.float32([0.7071067690849304]),
    "scale": np.float32(0.7978845608),
    "cubic": np.float32(0.044715),
}

ARGUMENTS = ["q = Div(x, root)", "q = Mul(x, inverse)", "q = Mul(inverse, x)"]
ENDINGS = [
    "o = Add(e, one) m = Mul(x, o) y = Mul(m, half)",
    "o = Add(one, e) m = Mul(o, x) y = Mul(half, m)",
    "h = Mul(x, half) o = Add(e, one) y = Mul(h, o)",
    "o = Add(e, one) h = Mul(o, half) y = Mul(x, h)",
    "o = Add(e, one) h = Div(o, two) y = Mul(h, x)",
    "f = Mul(e, half) o = Add(half, f) y = Mul(o, x)",
    "h = Mul(x, half) f = Mul(h, e) y = Add(h, f)",
]
ARGUMENTS_OF_TANH = [
    "p = Pow(x, three) c = Mul(p, cubic) s = Add(x, c) q = Mul(s, scale)",
    "d = Mul(x, x) p = Mul(x, d) c = Mul(cubic, p) s = Add(c, x) q = Mul(scale, s)",
    "c = Mul(x, cubic) d = Mul(c, x) b = Add(d, one) g = Mul(x, scale) q = Mul(g, b)",
    "p = Pow(x, two) c = Mul(p, cubic) b = Add(one, c) g = Mul(x, b) q = Mul(g, scale)",
]


def gelu(argument: str, curve: str, ending: str, opset: int, kind: str = "float"):
    text = f"({kind}[N] i) => ({kind}[N] z) {{ x = Neg(i) {argument} e = {curve}(q) {ending} z = Neg(y) }}"
    dtype = np.float16 if kind == "float16" else np.float32
    return program(text, {name: value.astype(dtype) for name, value in NUMBERS.items()}, opset=opset)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(ARGUMENTS),
    st.sampled_from(ENDINGS),
    st.sampled_from([17, 20]),
    st.sampled_from(["float", "float16"]),
)
def test_exact_gelu_in_every_form(argument: str, ending: str, opset: int, kind: str) -> None:
    before = gelu(argument, "Erf", ending, opset, kind)
    after, _, _ = run_pass(RecognizeGelu(), before)
    expected = ["Gelu"] if opset == 20 else ["Div", "Erf", "Add", "Mul", "Mul"]
    assert sorted(ops(after)) == sorted(["Neg", *expected, "Neg"])
    tolerance = 4e-3 if kind == "float16" else 1e-5
    assert_same(before, after, rtol=tolerance, atol=tolerance, N=40)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(ARGUMENTS_OF_TANH), st.sampled_from(ENDINGS), st.sampled_from([17, 20]))
def test_gelu_by_tanh_in_every_form(argument: str, ending: str, opset: int) -> None:
    before = gelu(argument, "Tanh", ending, opset)
    after, _, _ = run_pass(RecognizeGelu(), before)
    if opset == 20:
        assert [(node.op, node.attrs) for node in after.nodes[1:-1]] == [("Gelu", {"approximate": "tanh"})]
    else:
        assert sorted(ops(after)) == sorted(["Neg", "Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul", "Neg"])
    assert_same(before, after, rtol=1e-5, atol=1e-5, N=40)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("curve, argument", [("Erf", ARGUMENTS[1]), ("Tanh", ARGUMENTS_OF_TANH[1])])
def test_onnx_runtime_fuses_the_form_below_opset_20(curve: str, argument: str, ending: str, tmp_path: Path) -> None:
    after, rewrites, _ = run_pass(RecognizeGelu(), gelu(argument, curve, ending, 17))
    assert rewrites == 1
    with runtime.session(after, optimized_path=tmp_path / "optimized.onnx"):
        fused = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert fused == ["Neg", "Gelu" if curve == "Erf" else "FastGelu", "Neg"]
    assert run_pass(RecognizeGelu(), after)[1] == 0


@pytest.mark.parametrize(
    "argument, ending",
    [
        ("q = Mul(x, half)", ENDINGS[0]),
        ("q = Div(x, root)", "o = Add(e, one) y = Mul(x, o)"),
        ("q = Div(x, root)", "o = Sub(e, one) m = Mul(x, o) y = Mul(m, half)"),
        ("q = Div(x, root)", "o = Add(e, one) m = Mul(i, o) y = Mul(m, half)"),
    ],
)
def test_other_functions_stay(argument: str, ending: str) -> None:
    before = gelu(argument, "Erf", ending, 20)
    after, rewrites, _ = run_pass(RecognizeGelu(), before)
    assert (ops(after), rewrites) == (ops(before), 0)


def test_refuses_when_a_part_is_used_elsewhere() -> None:
    text = """(float[4] x) => (float[4] y, float[4] o)
    { q = Div(x, root) e = Erf(q) o = Add(e, one) m = Mul(x, o) y = Mul(m, half) }"""
    after, rewrites, diagnostics = run_pass(RecognizeGelu(), program(text, NUMBERS, opset=20))
    assert (ops(after), rewrites) == (["Div", "Erf", "Add", "Mul", "Mul"], 0)
    assert refusals(diagnostics) == ["Erf_1: the tensor 'o' inside it is used elsewhere too"]
