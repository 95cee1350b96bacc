"""Constants folded: small programs in, programs out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.passes import fold_constants
from qcompiler.passes.fold_constants import FoldConstants


def folded(graph: ir.Graph, **options: int) -> ir.Graph:
    result, _, _ = run_pass(FoldConstants(**options), graph)
    return result


def test_a_chain_of_constants_becomes_one() -> None:
    before = program(
        "(float[2,2] x) => (float[2,2] y) { a = Transpose(w)  b = Add(a, w)  c = Sqrt(b)  y = Mul(x, c) }",
        {"w": np.arange(4, dtype=np.float32).reshape(2, 2)},
    )
    after = folded(before)
    assert ops(after) == ["Mul"]
    assert_same(before, after)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int8, np.bool_])
def test_every_ordinary_type(dtype: type) -> None:
    before = program(
        """(float[2] x) => (float[2] y, int64[2] z) {
            a = Concat<axis=0>(w, w)  b = Cast<to=1>(a)  c = Slice(b, zero, two)  y = Add(x, c)  z = Cast<to=7>(b)
        }""",
        {"w": np.ones(1, dtype), "zero": np.array([0]), "two": np.array([2])},
    )
    after = folded(before)
    assert ops(after) == ["Add"]
    assert_same(before, after)


def test_a_constant_model_output_keeps_its_name() -> None:
    before = program("(float x) => (float y, float z) { y = Neg(w)  z = Neg(x) }", {"w": np.float32(1)})
    after = folded(before)
    assert ops(after) == ["Neg"]
    assert [tensor.name for tensor in after.outputs] == ["y", "z"]
    assert_same(before, after)


def test_the_shape_of_a_static_tensor_and_all_that_is_made_of_it() -> None:
    before = program(
        """(float[2,3,4] x) => (float[6,4] y, float[7,5] z) {
            s = Shape(x)  a = Gather(s, zero)  b = Gather(s, one)  p = Mul(a, b)  u = Unsqueeze(p, axes)
            l = Slice(s, minus, big)  t = Concat<axis=0>(u, l)  y = Reshape(x, t)
            f = ConstantOfShape(t)
            q = Concat<axis=0>(u, u)  q2 = Sub(q, q)  q3 = Concat<axis=0>(q2, ones)  z = Pad(f, q3)
        }""",
        {
            "zero": np.array(0), "one": np.array(1), "axes": np.array([0]), "minus": np.array([-1]),
            "big": np.array([2**62]), "ones": np.array([1, 1]),
        },
    )  # fmt: skip
    after = folded(before)
    assert ops(after) == ["Reshape"]
    assert_same(before, after)


def test_static_dimensions_of_a_partly_known_shape() -> None:
    before = program(
        """(float[n,3,4] x) => (int64 y, int64[1] z) {
            s = Shape(x)  y = Gather(s, one)  d = Gather(s, first)  z = Identity(d)
        }""",
        {"one": np.array(1), "first": np.array([0])},
    )
    after = folded(before)
    assert ops(after) == ["Shape", "Gather", "Identity"]
    assert isinstance(after.outputs[0], ir.Constant) and after.outputs[0].values == 3
    assert_same(before, after, n=5)


def test_range_and_expand_of_static_shapes() -> None:
    before = program(
        """(float[2,3] x) => (float[2,3] y) {
            s = Shape(x)  n = Gather(s, one)
            r = Range(zero, n, one)  f = Cast<to=1>(r)  e = Expand(f, s)  y = Add(x, e)
        }""",
        {"zero": np.array(0), "one": np.array(1)},
    )
    after = folded(before)
    assert ops(after) == ["Add"]
    assert_same(before, after)


def test_reshape_to_a_shape_with_one_unknown_dimension() -> None:
    before = program(
        """(float[n,3,4] x) => (float[n,12] y) {
            h = Transpose<perm=[1,0,2]>(x)  s = Shape(x)  a = Gather(s, first)  t = Concat<axis=0>(a, rest)
            y = Reshape(h, t)
        }""",
        {"first": np.array([0]), "rest": np.array([12])},
    )
    after = folded(before)
    assert ops(after) == ["Transpose", "Reshape"]
    assert after.nodes[1].inputs[1].values.tolist() == [-1, 12]
    assert_same(before, after, n=3)


@pytest.mark.parametrize("last", [[3, 4], [3, -1]])
def test_reshape_to_a_shape_whose_unknown_dimensions_stay_in_place(last: list[int]) -> None:
    before = program(
        """(float[n,m,12] x) => (float[n,m,3,4] y) {
            h = Relu(x)  s = Shape(x)  a = Slice(s, zero, two)  t = Concat<axis=0>(a, rest)  y = Reshape(h, t)
        }""",
        {"zero": np.array([0]), "two": np.array([2]), "rest": np.array(last)},
    )
    after = folded(before)
    assert ops(after) == ["Relu", "Reshape"]
    assert after.nodes[1].inputs[1].values.tolist() == [0, 0, *last]
    assert_same(before, after, n=2, m=5)


def test_dimensions_that_data_may_make_empty_are_not_guessed() -> None:
    """Of an empty tensor -1 is undefined, where the number that the model computes is not."""
    before = program(
        """(float[n] x, float[k] z) => (float[a,b,c] y) {
            i = NonZero(x)  t = Transpose(i)  f = Cast<to=1>(t)  g = Mul(f, z)
            s = Shape(g)  a = Concat<axis=0>(s, one)  y = Reshape(g, a)
        }""",
        {"one": np.array([1])},
    )
    before.outputs[0].shape = None
    (reshape,) = [node for node in folded(before).nodes if node.op == "Reshape"]
    assert reshape.inputs[1].values.tolist() == [0, 0, 1]  # both stay in place, nothing is guessed
    before = program(
        """(float[n] x, float[k] z) => (float[a,b,c] y) {
            i = NonZero(x)  t = Transpose(i)  f = Cast<to=1>(t)  g = Mul(f, z)
            s = Shape(g)  u = Shape(z)  b = Slice(s, zero, one)  c = Concat<axis=0>(b, one, u)  y = Reshape(g, c)
        }""",
        {"one": np.array([1]), "zero": np.array([0])},
    )
    before.outputs[0].shape = None
    assert ops(folded(before))[-2:] == ["Concat", "Reshape"]


def test_large_weights_pass_through_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_constants, "_SESSION_BYTES", 10)
    before = program(
        "(float[2,2] x) => (float[2,2] y) { a = Transpose(v)  b = Transpose(w)  c = Add(a, b)  y = Mul(x, c) }",
        {"v": np.ones((2, 2), np.float32), "w": np.zeros((2, 2), np.float32)},
    )
    after = folded(before)
    assert ops(after) == ["Mul"]
    assert_same(before, after)


def test_a_symbol_on_two_axes_of_an_input_says_nothing() -> None:
    """Exporters write one placeholder for every unknown size: height and width are not equal because of that."""
    before = program(
        """(float[d,d,12] x) => (float[d,d,3,4] y) {
            h = Transpose<perm=[1,0,2]>(x)  s = Shape(x)  a = Slice(s, zero, two)  t = Concat<axis=0>(a, rest)
            y = Reshape(h, t)
        }""",
        {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([3, 4])},
    )
    assert "Shape" in ops(folded(before))


def test_shapes_stated_between_inputs_and_outputs_are_not_believed() -> None:
    before = program("(float[n,3] x) => (int64[2] y) { h = Relu(x)  y = Shape(h) }")
    before.nodes[0].outputs[0].shape = [1, 3]  # stale: somebody made the batch dynamic afterwards
    after = folded(before)
    assert ops(after) == ["Relu", "Shape"]
    assert_same(before, after, n=4)


def test_expand_with_the_minus_one_idiom() -> None:
    before = program(
        """(float[n,1] x) => (float[n,4] y, bool[2] c) {
            s = Shape(x)  a = Gather(s, first)  t = Concat<axis=0>(a, four)  c = Equal(t, minus)  w = Where(c, ones, t)
            y = Expand(x, w)
        }""",
        {"first": np.array([0]), "four": np.array([4]), "minus": np.array([-1, -1]), "ones": np.array([1, 1])},
    )
    after = folded(before)
    assert "Equal" not in ops(after)
    assert_same(before, after, n=3)


def branches(condition: np.ndarray) -> ir.Graph:
    """y = If(condition) { Relu(x) + w ; x }, twice."""
    out = helper.make_tensor_value_info("", TensorProto.FLOAT, None)

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        out.name = f"{name}_out"
        return helper.make_graph(nodes, name, [], [out])

    relu, add = helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "condition_float"], ["then_out"])
    then = branch("then", [relu, add])
    other = branch("other", [helper.make_node("Identity", ["x"], ["other_out"])])
    tensor = helper.make_tensor("value", TensorProto.BOOL, condition.shape, condition.reshape(-1).tolist())
    return with_body(
        [
            helper.make_node("Constant", [], ["condition"], value=tensor),
            helper.make_node("Cast", ["condition"], ["condition_float"], to=TensorProto.FLOAT),
            helper.make_node("If", ["condition"], ["y"], name="choose", then_branch=then, else_branch=other),
        ],
        {"x": [2, 2]},
        ["y"],
    )


@pytest.mark.parametrize(("condition", "expected"), [(True, ["Relu", "Add"]), (False, ["Identity"])])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_if_with_a_constant_condition_is_inlined(
    condition: bool, expected: list[str], shape: tuple[int, ...]
) -> None:
    before = branches(np.full(shape, condition))
    after = folded(before)
    assert ops(after) == expected
    assert after.outputs[0].name == "y"
    assert_same(before, after)


def test_inside_a_body() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Shape", ["w"], ["s"]),
            helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["f", "x"], ["then_out"]),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("then_out", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1, 2, 3])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["other_out"])],
        "other",
        [],
        [helper.make_tensor_value_info("other_out", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=other),
    ]
    before = with_body(nodes, {"x": [2]}, ["y"])
    after = folded(before)
    assert sorted(ops(after)) == ["Add", "Cast", "If", "Neg", "ReduceSum"]
    assert_same(before, after)


def test_a_random_result_is_not_frozen() -> None:
    graph = program("(float[2] x) => (float[2] y) { r = RandomNormal<shape=[2]>()  y = Add(x, r) }")
    after, rewrites, diagnostics = run_pass(FoldConstants(), graph)
    assert rewrites == 0 and ops(after) == ["RandomNormal", "Add"]
    (reason,) = refusals(diagnostics)
    assert "its result is random" in reason


def test_a_result_much_larger_than_its_making_is_not_stored() -> None:
    graph = program(
        "(float[n] x) => (float[100,100] y) { e = Expand(w, s)  y = Add(e, x) }",
        {"w": np.ones((1, 1), np.float32), "s": np.array([100, 100])},
    )
    after, rewrites, diagnostics = run_pass(FoldConstants(limit=1000), graph)
    assert rewrites == 0 and ops(after) == ["Expand", "Add"]
    (reason,) = refusals(diagnostics)
    assert "its result would take 40000 bytes in the model (limit 1000)" in reason


def test_weights_that_are_cut_and_joined_are_as_large_as_before() -> None:
    """As PyTorch's newer exporter orders the gates of an LSTM."""
    cut = "a = Slice(w, i0, i20, i0) b = Slice(w, i20, i60, i0) c = Slice(w, i60, i80, i0)"
    text = f"(float[80,30] x) => (float[80,30] y) {{ {cut} j = Concat<axis = 0>(c, a, b) y = Add(x, j) }}"
    constants = {"w": np.random.default_rng(0).normal(size=(80, 30)).astype(np.float32)}
    constants |= {f"i{place}": np.array([place]) for place in (0, 20, 60, 80)}
    before = program(text, constants)
    after = folded(before, limit=1000)
    assert ops(after) == ["Add"]
    assert_same(before, after)


def test_a_part_of_weights_that_is_enlarged_is_not_folded() -> None:
    """Though all of the weights are larger: others may read them still."""
    constants = {"w": np.random.default_rng(0).normal(size=(80, 30)).astype(np.float32), "to": np.array([40, 30])}
    constants |= {f"i{place}": np.array([place]) for place in (0, 1)}
    text = """(float[1,40,30] x) => (float[1,40,30] y) {
        s = Slice(w, i0, i1, i0) e = Expand(s, to) u = Unsqueeze(e, i0) y = Add(x, u) }"""
    assert ops(folded(program(text, constants), limit=1000)) == ["Expand", "Unsqueeze", "Add"]


def test_weights_that_are_repeated_are_not_folded() -> None:
    constants = {"w": np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)}
    text = "(float[80,30] x) => (float[80,30] y) { s = Neg(w) j = Concat<axis = 0>(s, s) y = Add(x, j) }"
    assert ops(folded(program(text, constants), limit=1000)) == ["Concat", "Add"]


def test_beside_large_weights_a_result_may_be_a_hundredth_of_them() -> None:
    graph = program(
        "(float[100,1000] x) => (float[100,100] y) { e = Expand(w, s)  m = MatMul(x, v)  y = Add(e, m) }",
        {"w": np.ones((1, 1), np.float32), "s": np.array([100, 100]), "v": np.ones((1000, 100), np.float32)},
    )
    assert ops(folded(graph, limit=1000)) == ["Expand", "MatMul", "Add"]
    assert ops(folded(graph, limit=40000)) == ["MatMul", "Add"]
    twelve = {"v": np.ones((1000, 1200), np.float32)}  # 4.8 MB
    wide = program(
        "(float[100,1000] x) => (float[100,1200] y) { e = Expand(w, s)  m = MatMul(x, v)  y = Add(e, m) }",
        {"w": np.ones((1, 1), np.float32), "s": np.array([1, 1200]), **twelve},
    )
    assert ops(folded(wide, limit=1000)) == ["MatMul", "Add"]


def test_what_is_large_on_the_way_to_something_small_is_computed() -> None:
    graph = program(
        "(float[1] x) => (float[1] y) { e = Expand(w, s)  r = ReduceSum<keepdims=0>(e)  y = Add(r, x) }",
        {"w": np.ones((1, 1), np.float32), "s": np.array([100, 100])},
    )
    assert ops(folded(graph, limit=1000)) == ["Add"]


def test_a_large_result_no_larger_than_its_making_is_stored() -> None:
    graph = program(
        "(float[n] x) => (float[100,100] y) { e = Transpose(w)  y = Add(e, x) }", {"w": np.ones((100, 100), np.float32)}
    )
    assert ops(folded(graph, limit=1000)) == ["Add"]


def test_a_type_that_onnx_runtime_does_not_return() -> None:
    graph = program(
        "(float[1] x) => (bfloat16[1] y) { c = Cast<to=16>(w)  y = Neg(c) }", {"w": np.ones(1, np.float32)}
    )
    _, rewrites, diagnostics = run_pass(FoldConstants(), graph)
    assert rewrites == 0
    assert "does not return bfloat16" in refusals(diagnostics)[0]


def test_a_node_that_cannot_be_evaluated_does_not_hinder_the_others() -> None:
    graph = program(
        "(float[2] x) => (float[2] y, float z) { z = Gather(w, far)  n = Neg(w)  y = Add(x, n) }",
        {"w": np.ones(2, np.float32), "far": np.array(7)},
    )
    after, _, diagnostics = run_pass(FoldConstants(), graph)
    assert sorted(ops(after)) == ["Add", "Gather"]
    assert "cannot evaluate it alone" in refusals(diagnostics)[0]


def test_quantized_weights_and_other_domains_stay() -> None:
    graph = program(
        """(float[2] x) => (float[2] y, float[2] z) {
            d = DequantizeLinear(q, scale)  y = Add(x, d)  z = custom.Twice(w)
        }""",
        {"q": np.ones(2, np.int8), "scale": np.float32(0.5), "w": np.ones(2, np.float32)},
    )
    after, rewrites, _ = run_pass(FoldConstants(), graph)
    assert rewrites == 0 and sorted(ops(after)) == ["Add", "DequantizeLinear", "Twice"]


def test_a_sequence_is_left_alone() -> None:
    graph = program(
        "(float[2] x) => (float[2] y) { s = SequenceConstruct(w, w)  e = SequenceAt(s, i)  y = Add(x, e) }",
        {"w": np.ones(2, np.float32), "i": np.array(0)},
    )
    after = folded(graph)
    assert_same(graph, after)


def test_a_constant_if_within_the_branch_that_is_not_taken() -> None:
    text = """(float[2] x) => (float[2] y) {
        t = Constant<value = bool {1}>()  n = Not(t)
        y = If(n) <
            then_branch = a () => (float[2] p) { p = If(t) <
                then_branch = aa () => (float[2] q) { q = Exp(x) },
                else_branch = ab () => (float[2] r) { r = Abs(x) }> },
            else_branch = b () => (float[2] s) { s = Neg(x) }>
    }"""
    before = program(text)
    after = folded(before)
    assert ops(after) == ["Neg"]
    assert_same(before, after)


def test_operands_of_range_become_scalars() -> None:
    """ONNX Runtime refuses a constant of shape [1] there, though it takes a computed one."""
    before = program(
        "(int64 start) => (int64[N] y) { limit = Add(one, two)  y = Range(start, limit, step) }",
        {"one": np.array([1]), "two": np.array([2]), "step": np.array(1)},
    )
    after = folded(before)
    assert ops(after) == ["Range"] and after.nodes[0].inputs[1].values.shape == ()
    assert_same(before, after)


def test_an_empty_sequence_is_no_empty_array() -> None:
    before = program(
        "(float[2] x) => (float[2] y) { s = SequenceEmpty()  t = SequenceInsert(s, x)  y = SequenceAt(t, i) }",
        {"i": np.array(0)},
    )
    after = folded(before)
    assert ops(after) == ["SequenceEmpty", "SequenceInsert", "SequenceAt"]
    assert_same(before, after)


def test_the_shape_of_a_tensor_that_grows_in_a_loop_is_not_folded() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Concat", ["before", "x"], ["after"], axis=0),
            helper.make_node("Shape", ["before"], ["s"]),
            helper.make_node("Cast", ["s"], ["length"], to=TensorProto.FLOAT),
            helper.make_node("Shape", ["x"], ["t"]),
            helper.make_node("Cast", ["t"], ["step"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["length", "step"], ["sum"]),
            helper.make_node("Identity", ["go"], ["goes"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [2]),  # true of the first round only
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Constant", [], ["three"], value=helper.make_tensor("", TensorProto.INT64, [], [3])),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])),
        helper.make_node("Loop", ["three", "yes", "x"], ["y", "z"], body=body),
    ]
    before = with_body(nodes, {"x": [2]}, ["y", "z"])
    after = folded(before)
    assert ops(after) == ["Loop", "Concat", "Shape", "Cast", "Add", "Identity"]
    before.nodes[0].attrs["body"].inputs[2].shape = None  # ONNX Runtime believes what the file states
    after.nodes[0].attrs["body"].inputs[2].shape = None
    assert_same(before, after)
