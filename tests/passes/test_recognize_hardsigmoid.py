from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler.passes.recognize_hardsigmoid import RecognizeHardSigmoid

NUMBERS = {"zero": np.float32(0), "one": np.float32(1), "three": np.float32(3), "six": np.float32(6)}
NUMBERS |= {"sixth": np.float32(0.16666667163), "half": np.float32([0.5]), "fifth": np.float32(0.2)}


def attributes(graph):
    (node,) = (node for node in graph.nodes if node.op == "HardSigmoid")
    return pytest.approx(node.attrs["alpha"], rel=1e-6), pytest.approx(node.attrs["beta"], rel=1e-6)


def test_relu6_of_a_shift_over_six_is_a_hard_sigmoid() -> None:
    before = program(
        "(float[4] x) => (float[4] y) { a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six) }", NUMBERS
    )
    after, rewrites, _ = run_pass(RecognizeHardSigmoid(), before)
    assert (ops(after), rewrites) == (["HardSigmoid"], 1)
    assert attributes(after) == (1 / 6, 0.5)
    assert_same(before, after, rtol=1e-6, atol=1e-6)


def test_clip_to_one_is_a_hard_sigmoid() -> None:
    before = program(
        "(float[4] x) => (float[4] y) { m = Mul(fifth, x) a = Add(half, m) y = Clip(a, zero, one) }", NUMBERS
    )
    after, _, _ = run_pass(RecognizeHardSigmoid(), before)
    assert ops(after) == ["HardSigmoid"]
    assert attributes(after) == (0.2, 0.5)
    assert_same(before, after, rtol=1e-6, atol=1e-6)


def test_clip_with_its_bounds_in_attributes() -> None:
    text = "(float[4] x) => (float[4] y) { a = Add(x, three) c = Clip<min = 0.0, max = 6.0>(a) y = Mul(c, sixth) }"
    before = program(text, NUMBERS, opset=10)
    after, _, _ = run_pass(RecognizeHardSigmoid(), before)
    assert ops(after) == ["HardSigmoid"]
    assert_same(before, after, rtol=1e-6, atol=1e-6)


SHIFTS = ["Add(x, three)", "Add(three, x)", "Sub(three, x)", "Sub(x, minus)"]
CLAMPS = [
    "c = Clip(a, zero, six)",
    "b = Max(a, zero) c = Min(six, b)",
    "b = Min(a, six) c = Max(zero, b)",
    "b = Relu(a) c = Min(b, six)",
    "b = Relu(a) c = Clip(b, , six)",
    "b = Clip(a, , six) c = Relu(b)",
]
SCALES = ["Div(c, six)", "Mul(c, sixth)", "Mul(sixth, c)"]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SHIFTS), st.sampled_from(CLAMPS), st.sampled_from(SCALES), st.sampled_from(["float", "float16"]))
def test_every_way_of_writing_it(shift: str, clamp: str, scale: str, kind: str) -> None:
    text = f"({kind}[N] x) => ({kind}[N] y) {{ a = {shift} {clamp} y = {scale} }}"
    dtype = np.float16 if kind == "float16" else np.float32
    constants = {name: value.astype(dtype) for name, value in (NUMBERS | {"minus": np.float32(-3)}).items()}
    before = program(text, {name: value for name, value in constants.items() if name in text})
    after, rewrites, _ = run_pass(RecognizeHardSigmoid(), before)
    assert (ops(after), rewrites) == (["HardSigmoid"], 1)
    assert_same(before, after, rtol=2e-3, atol=1e-3 if kind == "float16" else 1e-6, N=50)


@pytest.mark.parametrize(
    "body",
    [
        "y = Clip(x, zero, six)",  # ReLU6
        "c = Clip(x, zero, six) y = Div(c, six)",  # no shift
        "a = Add(x, three) y = Clip(a, zero, six)",  # runs to 6
        "a = Add(x, three) c = Clip(a, one, six) y = Div(c, six)",  # starts above 0
        "a = Add(x, three) c = Clip(a, zero, six) y = Div(six, c)",  # six over it, not it over six
        "a = Add(x, channels) y = Clip(a, zero, one)",  # another shift in each channel
    ],
)
def test_other_clamps_stay(body: str) -> None:
    constants = NUMBERS | {"channels": np.float32([1, 2, 3, 4])}
    before = program(f"(float[4] x) => (float[4] y) {{ {body} }}", constants)
    after, rewrites, diagnostics = run_pass(RecognizeHardSigmoid(), before)
    assert (ops(after), rewrites, diagnostics) == (ops(before), 0, [])


def test_a_constant_that_raises_the_rank_is_no_number() -> None:
    text = "(float[4] x) => (float[1,4] y) { a = Add(x, wide) y = Clip(a, zero, one) }"
    before = program(text, NUMBERS | {"wide": np.float32([[0.5]])})
    assert run_pass(RecognizeHardSigmoid(), before)[1] == 0


def test_refuses_when_the_shifted_value_is_used_elsewhere() -> None:
    text = "(float[4] x) => (float[4] y, float[4] a) { a = Add(x, half) y = Clip(a, zero, one) }"
    after, rewrites, diagnostics = run_pass(RecognizeHardSigmoid(), program(text, NUMBERS))
    assert (ops(after), rewrites) == (["Add", "Clip"], 0)
    assert refusals(diagnostics) == ["Clip_1: the tensor 'a' inside it is used elsewhere too"]


def test_a_shared_source_is_taken_as_it_is() -> None:
    text = """(float[4] x) => (float[4] y, float[4] s)
    { s = Mul(x, three) a = Add(s, half) y = Clip(a, zero, one) }"""
    before = program(text, NUMBERS)
    after, _, _ = run_pass(RecognizeHardSigmoid(), before)
    assert ops(after) == ["Mul", "HardSigmoid"]
    assert_same(before, after, rtol=1e-6, atol=1e-6)


def test_inside_a_body() -> None:
    def body(name: str, value: float):
        constants = [("shift", value), ("low", 0.0), ("high", 1.0)]
        nodes = [
            helper.make_node("Constant", [], [name + key], value=helper.make_tensor(key, TensorProto.FLOAT, [], [v]))
            for key, v in constants
        ]
        nodes.append(helper.make_node("Add", ["x", name + "shift"], [name + "a"]))
        nodes.append(helper.make_node("Clip", [name + "a", name + "low", name + "high"], [name + "y"]))
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name + "y", TensorProto.FLOAT, None)])

    condition = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["none"], value=helper.make_tensor("none", TensorProto.FLOAT, [], [0.0])),
        helper.make_node("Greater", ["sum", "none"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=body("t", 0.5), else_branch=body("e", 0.25)),
    ]
    before = with_body(condition, {"x": [4]}, ["y"])
    after, rewrites, _ = run_pass(RecognizeHardSigmoid(), before)
    assert rewrites == 2
    assert ops(after).count("HardSigmoid") == 2 and "Clip" not in ops(after)
    assert_same(before, after, rtol=1e-6, atol=1e-6)
