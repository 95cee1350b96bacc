"""Half precision made float32: small programs in, programs out, and a whole compilation."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_helpers import assert_same, feed, ops, outputs, program, refusals, run_pass

import qcompiler
from qcompiler import ir
from qcompiler.passes.widen_float16 import WidenFloat16

RANDOM = np.random.default_rng(7)


def weights(*shape: int, dtype: type = np.float16) -> np.ndarray:
    return (RANDOM.normal(size=shape) / 2).astype(dtype)


def widened(text: str, constants: dict[str, Any] | None = None, opset: int = 17) -> tuple[ir.Graph, ir.Graph]:
    before = program(text, constants, opset)
    after, rewrites, diagnostics = run_pass(WidenFloat16(), before)
    assert rewrites and not refusals(diagnostics)
    assert [(t.name, t.dtype) for t in after.inputs] == [(t.name, t.dtype) for t in before.inputs]
    assert [(t.name, t.dtype) for t in after.outputs] == [(t.name, t.dtype) for t in before.outputs]
    return before, after


def half_constants(graph: ir.Graph) -> list[str]:
    return [name for name, t in ir.all_tensors(graph).items() if ir.is_constant(t) and t.dtype == np.float16]


def test_weights_and_what_is_computed() -> None:
    before, after = widened(
        "(float16[n,4] x) => (float16[n,3] y) { h = MatMul(x, w)  r = Relu(h)  y = Add(r, b) }",
        {"w": weights(4, 3), "b": weights(3)},
    )
    assert sorted(ops(after)) == ["Add", "Cast", "Cast", "MatMul", "Relu"] and not half_constants(after)
    assert_same(before, after, rtol=1e-2, atol=2e-3)


def test_an_overflow_on_the_way_is_gone() -> None:
    _, after = widened(
        "(float16[n] x) => (float16[n] y) { h = Mul(x, k)  y = Div(h, k) }", {"k": np.float16(60000)}
    )
    found = outputs(after, {"x": np.array([2, -3], np.float16)})["y"]
    assert found.dtype == np.float16 and found.tolist() == [2, -3]


def test_a_mixed_model_has_no_cast_left() -> None:
    before, after = widened(
        """(float[n,4] x) => (float[n,4] y, float16[n,4] z) {
            a = Cast<to=10>(x)  b = MatMul(a, w)  c = Cast<to=1>(b)  d = Exp(c)  e = Cast<to=10>(d)
            z = Mul(e, k)  f = Relu(e)  y = Cast<to=1>(f)
        }""",
        {"w": weights(4, 4), "k": np.float16(0.5)},
    )
    assert sorted(ops(after)) == ["Cast", "Exp", "MatMul", "Mul", "Relu"]  # the one for the output z
    assert_same(before, after, rtol=1e-2, atol=2e-3)


def test_attributes_that_name_a_type() -> None:
    before, after = widened(
        """(float16[2,3] x) => (float16[2,3] y) {
            s = Shape(x)  c = ConstantOfShape<value=float16[1] {16640}>(s)  e = EyeLike<dtype=10>(c)
            l = CastLike(s2, x)  a = Add(c, e)  b = Add(a, x)  y = Add(b, l)
        }""",
        {"s2": np.array([1, 2, 3])},
    )
    assert not half_constants(after)
    assert_same(before, after, rtol=1e-2, atol=2e-3)


def test_integers_stay() -> None:
    before, after = widened(
        "(float16[4] x, int64[4] i) => (int64[4] y, int64[4] z) { c = Cast<to=7>(x)  y = Add(c, i)  z = Neg(i) }"
    )
    assert sorted(ops(after)) == ["Add", "Cast", "Cast", "Neg"]
    assert_same(before, after)


def test_inputs_and_constants_that_are_returned() -> None:
    before, after = widened(
        "(float16[2] x) => (float16[2] y, float16[2] z, float16[2] k) { y = Identity(x)  z = Add(x, k) }",
        {"k": weights(2)},
    )
    assert_same(before, after, rtol=1e-2, atol=1e-3)


def test_inside_bodies() -> None:
    scale = numpy_helper.from_array(np.float16(2), "scale")

    def branch(name: str, node: Any) -> Any:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT16, None)
        return helper.make_graph([node] if node else [], name, [], [out], [scale])

    step = helper.make_graph(
        [helper.make_node("Mul", ["carried", "outer"], ["next"]), helper.make_node("Identity", ["go"], ["goes"])],
        "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT16, [3]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT16, [3]),
        ],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["outer"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["condition"], ["h"],
            then_branch=branch("then", helper.make_node("Mul", ["x", "scale"], ["then_out"])),
            else_branch=branch("else", helper.make_node("Add", ["outer", "scale"], ["else_out"])),
        ),
        helper.make_node("Loop", ["count", "", "h"], ["y"], body=step),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "agraph", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [3])], [numpy_helper.from_array(np.int64(2), "count")],
    )  # fmt: skip
    before = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    after, _, diagnostics = run_pass(WidenFloat16(), before)
    assert not diagnostics and not half_constants(after) and ops(after).count("Cast") == 3
    assert_same(before, after, rtol=1e-2, atol=2e-3)


def test_operators_of_other_domains_keep_their_types() -> None:
    before = program(
        """(float16[n,4] x) => (float16[n,4] y, float16[n,4] z) {
            h = Relu(x)  c = custom.Strange(h, k)  d = Add(c, k)  z = custom.Strange(x, k)  y = Neg(d)
        }""",
        {"k": weights(4)},
    )
    ir.all_tensors(before)["c"].dtype = np.dtype(np.float16)
    after, rewrites, diagnostics = run_pass(WidenFloat16(), before)
    assert rewrites and not diagnostics
    types = {}
    for _, node in ir.all_nodes(after):
        types[node.name] = {str(t.dtype) for t in (*node.inputs, *node.outputs)}
        if node.domain:
            assert types[node.name] == {"float16"}
        elif node.op != "Cast":
            assert types[node.name] == {"float32"}
    assert ops(after).count("Cast") == 4  # x, h, c, y


def test_bfloat16() -> None:
    before = program(
        "(bfloat16[n,4] x) => (bfloat16[n,3] y) { h = MatMul(x, w)  y = Relu(h) }",
        {"w": weights(4, 3, dtype=ml_dtypes.bfloat16)},
    )
    after, _, _ = run_pass(WidenFloat16(), before)
    assert sorted(ops(after)) == ["Cast", "Cast", "MatMul", "Relu"]
    assert [node.attrs["to"] for node in after.nodes if node.op == "Cast"] == [TensorProto.FLOAT, TensorProto.BFLOAT16]
    assert after.outputs[0].dtype == ml_dtypes.bfloat16


def test_a_float32_model_is_left_alone() -> None:
    graph = program("(float[n] x) => (float[n] y) { a = Cast<to=1>(x)  y = Relu(a) }")
    after, rewrites, _ = run_pass(WidenFloat16(), graph)
    assert rewrites == 0 and ops(after) == ["Cast", "Relu"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("c = custom.Strange(x)  y = Relu(c)", "c: is of unknown type"),
        ("s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis=0>(s)", "s: is no plain tensor"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    graph = program(f"(float16[n] x) => (float16[m] y) {{ {text} }}")
    before = ops(graph)
    after, rewrites, diagnostics = run_pass(WidenFloat16(), graph)
    assert rewrites == 0 and ops(after) == before and half_constants(after) == half_constants(graph)
    (found,) = refusals(diagnostics)
    assert reason in found


def test_a_half_precision_model_is_quantized() -> None:
    graph = program(
        """(float16[n,3,12,12] x) => (float16[n,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(a)  c = Conv<pads=[1,1,1,1]>(r, v)  d = Relu(c)
            p = GlobalAveragePool(d)  f = Flatten(p)  y = MatMul(f, m)
        }""",
        {"w": weights(8, 3, 3, 3), "b": weights(8), "v": weights(8, 8, 3, 3), "m": weights(8, 5)},
    )
    samples = [feed(graph, seed, n=1) for seed in range(8)]
    result = qcompiler.compile(graph, samples, options=qcompiler.Options(timing=False))
    assert result.report.operators["QLinearConv"] == 2
    assert result.graph.inputs[0].dtype == result.graph.outputs[0].dtype == np.float16
    assert result.report.outputs[0].sqnr > 20
