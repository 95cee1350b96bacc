"""Dead nodes removed."""

from __future__ import annotations

from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, run_pass, with_body

from qcompiler.passes.remove_dead import RemoveDead


def test_a_chain_that_nobody_reads() -> None:
    before = program("(float[2] x) => (float[2] y) { a = Neg(x)  b = Relu(a)  y = Abs(x) }")
    after, rewrites, _ = run_pass(RemoveDead(), before)
    assert rewrites == 2 and ops(after) == ["Abs"]
    assert_same(before, after)


def test_the_inputs_of_the_model_stay() -> None:
    before = program("(float[2] x, float[2] unused) => (float[2] y) { a = Neg(unused)  y = Abs(x) }")
    after, rewrites, _ = run_pass(RemoveDead(), before)
    assert rewrites == 1 and [tensor.name for tensor in after.inputs] == ["x", "unused"]


def test_what_only_a_dead_branch_reads() -> None:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Neg", ["h"], ["out"])], "then", [], [out])
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["dead"]), helper.make_node("Abs", ["x"], ["out"])], "other", [], [out]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["z"], then_branch=then, else_branch=other),
        helper.make_node("Abs", ["x"], ["y"]),
    ]
    after, _, _ = run_pass(RemoveDead(), with_body(nodes, {"x": [2]}, ["y"]))
    assert ops(after) == ["Abs"]
    after, rewrites, _ = run_pass(RemoveDead(), with_body(nodes, {"x": [2]}, ["y", "z"]))
    assert rewrites == 1 and "Relu" in ops(after)
