from __future__ import annotations

import numpy as np
from onnx import helper
from pass_helpers import assert_same, ops, program, run_pass, with_body

from qcompiler.passes.fold_constants import FoldConstants
from qcompiler.passes.merge_sizes import MergeSizes

CONSTANTS = {"one": np.array(1), "zero": np.array(0), "i0": np.array([0]), "m1": np.array([-1])}


def test_layers_ask_the_first_how_long_their_input_is() -> None:
    before = program(
        """(float[B,S,8] x) => (int64[] m, int64[] n) {
            s = Shape(x) n0 = Gather(s, one) r0 = Range(zero, n0, one)
            h = Relu(x)
            t = Shape(h) n1 = Gather(t, one) r1 = Range(zero, n1, one)
            m = ReduceSum(r0) n = ReduceSum(r1) }""",
        CONSTANTS,
    )  # fmt: skip
    after, rewrites, _ = run_pass(MergeSizes(), before)
    assert rewrites == 2  # Shape and Gather; that both then count alike is merge-duplicates' to see
    assert ops(after).count("Shape") == 1 and ops(after).count("Gather") == 1 and "Relu" not in ops(after)
    assert_same(before, after, B=2, S=5)


def test_what_the_user_gets_stays() -> None:
    before = program(
        "(float[B,S,8] x) => (int64[3] s, int64[3] t) { s = Shape(x) h = Relu(x) t = Shape(h) }", CONSTANTS
    )
    after, rewrites, _ = run_pass(MergeSizes(), before)
    assert rewrites == 0 and ops(after) == ops(before)


def test_what_the_user_gets_keeps_its_name() -> None:
    text = "s = Shape(x) h = ConstantOfShape(s) y = Neg(h) r = Relu(x) t = Shape(r)"
    before = program(f"(float[B,S,8] x) => (int64[3] t, float y) {{ {text} }}")
    after, _, _ = run_pass(MergeSizes(), before)
    assert ops(after).count("Shape") == 1 and [tensor.name for tensor in after.outputs] == ["t", "y"]
    assert_same(before, after, B=2, S=3)


def test_another_type_or_form_is_another_tensor() -> None:
    before = program(
        """(float[B,S,8] x) => (int32[1] a, float[S] b) {
            s = Shape<start = 1, end = 2>(x) n = Cast<to = 6>(s) a = Add(n, n)
            h = Relu(x) t = Shape(h) m = Gather(t, one) r = Range(zero, m, one) b = Cast<to = 1>(r) }""",
        CONSTANTS,
    )
    after, rewrites, _ = run_pass(MergeSizes(), before)
    assert rewrites == 0 and ops(after) == ops(before)


def test_sizes_that_are_not_known_to_be_the_same() -> None:
    before = program(
        """(float[A,B] x, float[C,D] z) => (float[] y) {
            s = Shape(x) t = Shape(z) p = ConstantOfShape(s) q = ConstantOfShape(t)
            m = ReduceSum(p) n = ReduceSum(q) y = Add(m, n) }""",
        CONSTANTS,
    )
    after, rewrites, _ = run_pass(MergeSizes(), before)
    assert rewrites == 0
    assert_same(before, after, A=2, B=3, C=4, D=5)


def test_a_body_sees_what_was_asked_before_it_and_no_more() -> None:
    def branch(name: str) -> object:
        nodes = [
            helper.make_node("Shape", ["x"], [f"{name}_s"]),
            helper.make_node("ConstantOfShape", [f"{name}_s"], [f"{name}_y"]),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", 1, None)])

    before = with_body(
        [
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            helper.make_node("Cast", ["total"], ["asked"], to=9),
            helper.make_node("If", ["asked"], ["picked"], then_branch=branch("a"), else_branch=branch("b")),
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Reshape", ["picked", "s"], ["y"]),
        ],
        {"x": ["B", "S"]},
        ["y"],
    )
    after, rewrites, _ = run_pass(MergeSizes(), before)
    assert rewrites == 0  # neither branch sees the other, nor what comes behind it
    assert_same(before, after, B=2, S=3)


def test_the_attention_of_a_transformer_needs_no_shape_arithmetic() -> None:
    before = program(
        """(float[B,S,8] x) => (float[B,S,8] y) {
            s = Shape(x) b = Gather(s, zero) n = Gather(s, one) b1 = Unsqueeze(b, i0) n1 = Unsqueeze(n, i0)
            four = Concat<axis = 0>(b1, n1, heads) q = Reshape(x, four) t = Transpose<perm = [0, 2, 1, 3]>(q)
            u = Transpose<perm = [0, 2, 3, 1]>(q) k = MatMul(t, u) p = Softmax(k) v = MatMul(p, t)
            w = Transpose<perm = [0, 2, 1, 3]>(v) r = Shape(w) c = Gather(r, zero) d = Gather(r, one)
            c1 = Unsqueeze(c, i0) d1 = Unsqueeze(d, i0) three = Concat<axis = 0>(c1, d1, m1) y = Reshape(w, three) }""",
        {**CONSTANTS, "heads": np.array([2, 4])},
    )
    after, _, _ = run_pass(FoldConstants(), before)
    assert "Shape" not in ops(after)
    assert_same(before, after, B=2, S=5)
