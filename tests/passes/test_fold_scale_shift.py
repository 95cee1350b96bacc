"""Scales and shifts folded: small programs in, programs out, the same numbers but for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.passes.fold_scale_shift import FoldScaleShift
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target

RANDOM = np.random.default_rng(3)


def weights(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return (RANDOM.normal(size=shape) / 2).astype(dtype)


def positive(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2, shape).astype(np.float32)


def check(text: str, constants: dict[str, Any], expected: list[str], tolerance: float = 1e-4, **dims: int) -> ir.Graph:
    before = program(text, constants)
    after, rewrites, _ = run_pass(FoldScaleShift(), before)
    assert rewrites and ops(after) == expected
    assert_same(before, after, rtol=tolerance, atol=tolerance, **dims)
    return after


@pytest.mark.parametrize(
    "step", ["Mul(c, s)", "Mul(k, c)", "Div(c, s)", "Add(c, s)", "Add(k, c)", "Sub(c, k)", "Sub(s, c)"]
)
@pytest.mark.parametrize("op", ["Conv(x, w)", "Conv<group=2,pads=[1,1]>(x, g, b)", "ConvTranspose<group=2>(x, t, b)"])
def test_one_step_after_a_convolution(step: str, op: str) -> None:
    constants = {
        "w": weights(6, 4, 3), "g": weights(6, 2, 3), "t": weights(4, 3, 3), "b": weights(6), "s": positive(6, 1),
        "k": np.float32(1.5),
    }  # fmt: skip
    name = op.split("(")[0].split("<")[0]
    check(f"(float[n,4,5] x) => (float[n,6,m] y) {{ c = {op}  y = {step} }}", constants, [name])


@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.5,beta=2.0>"])
def test_a_chain_after_gemm(attributes: str) -> None:
    constants = {"w": weights(3, 3), "b": weights(3), "s": positive(3), "k": positive(1, 1)}
    check(
        f"""(float[n,3] x) => (float[n,3] y) {{
            c = Gemm{attributes}(x, w, b)  d = Mul(c, s)  e = Add(d, k)  f = Div(e, s)  y = Sub(k, f)
        }}""",
        constants,
        ["Gemm"],
    )


def test_a_scale_after_matmul_and_its_bias_leaves_one_add() -> None:
    after = check(
        "(float[n,5,3] x) => (float[n,5,4] y) { c = MatMul(x, w)  d = Add(c, b)  y = Mul(d, s) }",
        {"w": weights(3, 4), "b": weights(4), "s": np.float32(0.125)},
        ["MatMul", "Add"],
    )
    assert after.outputs[0].name == "y"


def test_a_matmul_with_one_add_is_left_alone() -> None:
    graph = program(
        "(float[n,3] x) => (float[n,4] y) { c = MatMul(x, w)  y = Add(b, c) }", {"w": weights(3, 4), "b": weights(4)}
    )
    after, rewrites, diagnostics = run_pass(FoldScaleShift(), graph)
    assert rewrites == 0 and ops(after) == ["MatMul", "Add"] and not diagnostics


@pytest.mark.parametrize(
    ("op", "shape"), [("Conv<group=2,pads=[1,1]>(h, w)", (6, 2, 3)), ("ConvTranspose<group=2>(h, w)", (4, 3, 3))]
)
@pytest.mark.parametrize("step", ["Mul(r, s)", "Div(r, k)"])
def test_a_scale_before_a_convolution(op: str, shape: tuple[int, ...], step: str) -> None:
    check(
        f"(float[n,4,5] x) => (float[n,6,m] y) {{ r = Relu(x)  h = {step}  y = {op} }}",
        {"w": weights(*shape), "s": positive(1, 4, 1), "k": np.float32(255)},
        ["Relu", op.split("<")[0]],
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_a_shift_before_a_convolution_without_padding(groups: int) -> None:
    check(
        f"""(float[n,4,5] x) => (float[n,6,m] y) {{
            a = Sub(x, mean)  b = Div(a, deviation)  y = Conv<group={groups}>(b, w)
        }}""",
        {"w": weights(6, 4 // groups, 3), "mean": positive(4, 1), "deviation": positive(1, 4, 1)},
        ["Conv"],
    )


@pytest.mark.parametrize("attributes", ["", "<transB=1,alpha=0.5>", "<transA=1>"])
def test_scale_and_shift_before_gemm(attributes: str) -> None:
    shape, per_input = ("3,n", (3, 1)) if "transA" in attributes else ("n,3", (3,))
    check(
        f"(float[{shape}] x) => (float[n,4] y) {{ a = Mul(x, s)  b = Sub(k, a)  y = Gemm{attributes}(b, w, c) }}",
        {
            "w": weights(4, 3) if "transB" in attributes else weights(3, 4), "s": positive(*per_input),
            "k": np.float32(2), "c": weights(4),
        },
        ["Gemm"],
    )  # fmt: skip


@pytest.mark.parametrize("op", ["Conv<pads=[1,1]>(b, w)", "ConvTranspose<pads=[1,1]>(b, w)", "MatMul(b, m)"])
@pytest.mark.parametrize("scale", ["Mul(r, k)", "Mul(s, r)", "Div(r, s)"])
@pytest.mark.parametrize("shift", ["Add(a, k)", "Add(s, a)", "Sub(a, k)"])
def test_a_scale_passes_a_shift_that_stays(op: str, scale: str, shift: str) -> None:
    name = op.split("(")[0].split("<")[0]
    after = check(
        f"(float[n,4,4] x) => (float[n,4,m] y) {{ r = Relu(x)  a = {scale}  b = {shift}  y = {op} }}",
        {
            "w": weights(4, 4, 3), "m": weights(4, 4), "k": np.float32(1.5),
            "s": positive(4) if name == "MatMul" else positive(4, 1),
        },
        ["Relu", shift.split("(")[0], name],
    )  # fmt: skip
    assert after.outputs[0].name == "y"


def test_half_precision_and_unknown_shapes() -> None:
    before = program(
        "(float16[n,m] x) => (float16[n,k] y) { h = Mul(x, s)  c = MatMul(h, w)  y = Mul(c, s) }",
        {"w": weights(3, 4, dtype=np.float16), "s": np.float16(0.5)},
    )
    after, _, _ = run_pass(FoldScaleShift(), before)
    assert ops(after) == ["MatMul"] and after.nodes[0].inputs[1].dtype == np.float16
    assert_same(before, after, rtol=1e-2, atol=1e-2, m=3)


def test_a_shared_weight_is_copied() -> None:
    check(
        "(float[1,2,3] x) => (float[1,2,3] y, float[1,2,3] z) { c = Conv(x, w)  y = Mul(c, s)  z = Conv(x, w) }",
        {"w": weights(2, 2, 1), "s": np.float32(3)},
        ["Conv", "Conv"],
    )


def test_inside_a_body() -> None:
    weight = numpy_helper.from_array(weights(2, 2, 1), "w")
    scale = numpy_helper.from_array(np.float32(3), "s")

    def branch(name: str, nodes: list) -> helper.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out], [weight, scale])

    then = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["then_out"])]
    other = [helper.make_node("Conv", ["x", "w"], ["d"]), helper.make_node("Add", ["d", "outer"], ["other_out"])]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("Neg", ["x"], ["outer"]),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=branch("then", then), else_branch=branch("other", other)
        ),
    ]
    before = with_body(nodes, {"x": [1, 2, 3]}, ["y"])
    after, rewrites, _ = run_pass(FoldScaleShift(), before)
    assert rewrites == 1 and sorted(ops(after)) == ["Add", "Cast", "Conv", "Conv", "If", "Neg", "ReduceSum"]
    assert_same(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("c = Conv(x, w)  y = Mul(c, k)  z = Relu(c)", "'c' has other readers"),
        ("z = Conv(x, w)  y = Mul(z, k)", "'z' is an output"),
        ("c = Conv(x, w)  y = Mul(c, last)  z = Relu(x)", "constant of shape [3] is not one number per channel"),
        ("c = Conv(x, w)  y = Div(k, c)  z = Relu(x)", "a constant divided by the result is not linear"),
        ("c = Conv(x, w)  y = Div(c, zero)  z = Relu(x)", "it divides by zero"),
        ("c = Conv(x, w)  y = Mul(c, huge)  z = Relu(x)", "the folded values do not fit float32"),
        ("d = Relu(b)  c = Conv(x, w, d)  y = Add(c, k)  z = Relu(x)", "its bias is not constant"),
        ("h = Add(x, k)  y = Conv<pads=[1,1]>(h, w)  z = Relu(x)", "does not reach the padding"),
        ('h = Add(x, k)  y = Conv<auto_pad="SAME_UPPER">(h, w)  z = Relu(x)', "does not reach the padding"),
        ("h = Add(x, k)  y = ConvTranspose(h, w)  z = Relu(x)", "a shift before ConvTranspose has nowhere to go"),
        ("h = Add(x, k)  y = MatMul(h, m)  z = Relu(x)", "a shift before MatMul has nowhere to go"),
        ("h = Mul(x, k)  y = Conv(h, w)  z = Relu(h)", "'h' has other readers, or is an output"),
        ("h = Mul(x, last)  y = Conv(h, w)  z = Relu(x)", "constant of shape [3] is not one number per channel"),
        ("q = Slice(x, one, two, one)  h = Mul(q, s)  y = Conv(h, w)  z = Relu(x)", "is not one number per channel"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    constants = {
        "w": weights(2, 2, 1) * 5, "m": weights(3, 3), "b": weights(2), "k": np.float32(2), "s": positive(2, 1),
        "last": positive(3), "zero": np.float32(0), "huge": np.float32(3e38), "one": np.array([1]),
        "two": np.array([2]),
    }  # fmt: skip
    graph = program(f"(float[1,2,3] x) => (float[a,b,c] y, float[d,e,f] z) {{ {text} }}", constants)
    before = ops(graph)
    after, rewrites, diagnostics = run_pass(FoldScaleShift(), graph)
    assert rewrites == 0 and ops(after) == before
    (found,) = refusals(diagnostics)
    assert reason in found


def test_inputs_that_will_share_a_scale_are_not_scaled_apart() -> None:
    random = np.random.default_rng(0)
    constants = {"s": np.array([1, 2, 3, 4], np.float32), "w": random.normal(size=(4, 3)).astype(np.float32)}
    apart = program("(float[2,4] x) => (float y) { a = Mul(x, s) y = MatMul(a, w) }", constants)
    alike = program("(float[2,4] x) => (float y) { a = Mul(x, s) y = MatMul(a, w) }", constants | {"s": np.float32(2)})
    target = load_target("ort-cpu", "vnni")
    for precision, wanted in (("int4", ["Mul", "MatMul"]), ("int8", ["MatMul"])):
        for graph, found in ((apart, wanted), (alike, ["MatMul"])):
            result = ir.clone(graph)
            Pipeline([FoldScaleShift()]).run(result, PassContext(target.at(precision)))
            assert ops(result) == found
