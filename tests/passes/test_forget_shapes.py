from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from pass_helpers import assert_same, program, run_pass

from qcompiler import ir
from qcompiler.passes.forget_shapes import ForgetShapes


def test_shapes_inside_are_dropped() -> None:
    before = program("(float[2,3] x) => (float[2,3] y) { a = Neg(x) b = Abs(a) y = Neg(b) }")
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(ForgetShapes(), before)
    known = {name: tensor.shape for name, tensor in ir.all_tensors(after).items()}
    assert rewrites == 2
    assert known == {"x": [2, 3], "y": [2, 3], "a": None, "b": None}
    assert_same(before, after)


def test_results_of_foreign_operators_keep_theirs() -> None:
    before = program("(float[2,3] x) => (float[2,3] y) { a = custom.Twist(x) b = Abs(a) y = Neg(b) }")
    twisted = ir.all_tensors(before)["a"]
    twisted.dtype, twisted.shape = np.dtype(np.float32), [2, 3]
    after, _, _ = run_pass(ForgetShapes(), before)
    assert ir.all_tensors(after)["a"].shape == [2, 3]


def test_what_a_body_takes_and_returns_keeps_its_shape() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"], "neg"), helper.make_node("Abs", ["n"], ["r"], "abs")],
        "body", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], "choose", then_branch=inner, else_branch=_other())],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
         helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    before = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    ir.infer_shapes(before)
    after, _, _ = run_pass(ForgetShapes(), before)
    tensors = ir.all_tensors(after)
    assert (tensors["r"].shape, tensors["n"].shape) == ([2], None)
    assert_same(before, after)


def _other() -> onnx.GraphProto:
    node = helper.make_node("Abs", ["x"], ["o"], "other")
    return helper.make_graph([node], "other", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])])
