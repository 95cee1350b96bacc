"""Duplicates merged: small programs in, programs out."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.passes.merge_duplicates import MergeDuplicates


def constants(graph: ir.Graph) -> int:
    return sum(ir.is_constant(tensor) for tensor in ir.all_tensors(graph).values())


def test_equal_weights() -> None:
    before = program(
        "(float[2] x) => (float[2] y) { a = Add(x, v)  b = Mul(a, w)  y = Add(b, u) }",
        {"v": np.float32([1, 2]), "w": np.float32([1, 2]), "u": np.float32([1, 2, 3])[:2]},
    )
    after, rewrites, _ = run_pass(MergeDuplicates(), before)
    assert rewrites == 2 and constants(after) == 1
    assert_same(before, after)


def test_weights_that_only_look_equal() -> None:
    graph = program(
        "(float[2] x) => (float[2] y, int32[2] z) { a = Add(x, v)  b = Mul(a, w)  y = Add(b, u)  z = Identity(i) }",
        {
            "v": np.float32([0, 1]), "w": np.float32([-0.0, 1]), "u": np.float32([[0, 1]]),
            "i": np.float32([0, 1]).view(np.int32),
        },
    )  # fmt: skip
    _, rewrites, _ = run_pass(MergeDuplicates(), graph)
    assert rewrites == 0


def test_equal_texts() -> None:
    graph = program("(float[1] x) => (float[1] y) { y = Relu(x) }")
    for name in ("one", "two"):
        text = ir.Constant(f"{name}_text", np.array([b"a"], dtype=object))
        out = ir.Variable(name, dtype=np.dtype(object))
        graph.nodes.append(ir.Node("Identity", name, inputs=[text], outputs=[out]))
        graph.outputs.append(out)
    after, rewrites, _ = run_pass(MergeDuplicates(), graph)
    assert rewrites == 1 and constants(after) == 1  # both Identities are returned


def test_equal_nodes_and_then_those_that_read_them() -> None:
    before = program(
        """(float[n,3] x) => (int64[1] y) {
            s = Shape(x)  a = Gather(s, zero)  t = Shape(x)  b = Gather(t, also)  y = Add(a, b)
        }""",
        {"zero": np.array([0]), "also": np.array([0])},
    )
    after, _, _ = run_pass(MergeDuplicates(), before)
    assert ops(after) == ["Shape", "Gather", "Add"]
    assert_same(before, after)


def test_a_duplicate_that_is_returned_gives_its_name() -> None:
    before = program("(float[2] x) => (float[2] y, float[2] z) { a = Relu(x)  y = Neg(a)  z = Relu(x) }")
    after, rewrites, _ = run_pass(MergeDuplicates(), before)
    assert rewrites == 1 and ops(after) == ["Relu", "Neg"]
    assert_same(before, after)


def test_two_that_are_returned_stay_two() -> None:
    graph = program("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Relu(x) }")
    after, rewrites, diagnostics = run_pass(MergeDuplicates(), graph)
    assert rewrites == 0 and ops(after) == ["Relu", "Relu"]
    assert "but its result is returned" in refusals(diagnostics)[0]


def test_attributes_inputs_and_left_out_inputs_count() -> None:
    graph = program(
        """(float[2,2] x, float m) => (float[2,2] y) {
            a = Softmax<axis=0>(x)  b = Softmax<axis=1>(x)  c = Clip(x, m)  d = Clip(x, , m)
            e = Sub(a, b)  f = Sub(b, a)  g = Add(c, d)  h = Add(e, f)  y = Add(g, h)
        }"""
    )
    _, rewrites, _ = run_pass(MergeDuplicates(), graph)
    assert rewrites == 0


def test_random_and_foreign_operators_stay() -> None:
    graph = program(
        """(float[2] x) => (float[2] y) {
            a = RandomUniformLike(x)  b = RandomUniformLike(x)  c = custom.Count(x)  d = custom.Count(x)
            y = Sum(a, b, c, d)
        }"""
    )
    _, rewrites, _ = run_pass(MergeDuplicates(), graph)
    assert rewrites == 0


def test_a_body_uses_what_the_graph_around_it_computes() -> None:
    def branch(name: str, op: str) -> helper.GraphProto:
        nodes = [helper.make_node("Relu", ["x"], [f"{name}_r"]), helper.make_node(op, [f"{name}_r"], [f"{name}_out"])]
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs")
        ),
    ]
    before = with_body(nodes, {"x": [2]}, ["y"])
    after, rewrites, _ = run_pass(MergeDuplicates(), before)
    assert rewrites == 2 and ops(after).count("Relu") == 1
    assert_same(before, after)
