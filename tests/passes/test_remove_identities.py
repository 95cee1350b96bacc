"""Identities removed: small programs in, programs out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.passes.remove_identities import RemoveIdentities

AXES = st.permutations([0, 1, 2])


def cleaned(graph: ir.Graph) -> ir.Graph:
    result, _, _ = run_pass(RemoveIdentities(), graph)
    assert_same(graph, result)
    return result


@pytest.mark.parametrize(
    "node",
    [
        "Identity(h)", "Dropout(h)", "Dropout(h, half)", "Dropout(h, half, no)", "Cast<to=1>(h)", "Sum(h)", "Mean(h)",
        "Max(h)", "Min(h)", "Concat<axis=0>(h)", "Split<axis=1>(h)", "Transpose<perm=[0,1,2]>(h)", "Reshape(h, same)",
        "Reshape(h, zeros)", "Reshape(h, minus)", "Slice(h, none, all)", "Slice(h, none, exact, one)",
        "Slice(h, none, all, one, one)", "Pad(h, nopads)", "Tile(h, ones)", "Expand(h, onefour)", "Mul(h, unit)",
        "Mul(unit, h)", "Div(h, unit)", "Pow(h, unit)", "Sub(h, zero)", "Add(h, negativezero)", "Mul(h, units)",
    ],
)  # fmt: skip
def test_a_node_that_does_nothing(node: str) -> None:
    constants = {
        "half": np.float32(0.5), "no": np.array(False), "same": np.array([2, 3, 4]), "zeros": np.array([0, 0, 0]),
        "minus": np.array([2, -1, 4]), "none": np.array([0]), "all": np.array([2**63 - 1]), "exact": np.array([3]),
        "one": np.array([1]), "nopads": np.zeros(6, np.int64), "ones": np.ones(3, np.int64),
        "onefour": np.array([1, 4]), "unit": np.float32(1), "zero": np.float32(0), "negativezero": np.float32(-0.0),
        "units": np.ones((1, 4), np.float32),
    }  # fmt: skip
    before = program(f"(float[2,3,4] x) => (float[2,3,4] y) {{ h = Relu(x)  g = {node}  y = Neg(g) }}", constants)
    assert ops(cleaned(before)) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "node", ["Reshape(h, zeros)", "Slice(h, none, all)", "Transpose<perm=[0,1]>(h)", "Mul(h, unit)", "Identity(h)"]
)
def test_the_same_of_a_tensor_of_unknown_size(node: str) -> None:
    constants = {
        "zeros": np.array([0, -1]), "none": np.array([0]), "all": np.array([2**31 - 1]), "unit": np.ones(1, np.float16),
    }  # fmt: skip
    before = program(f"(float16[n,m] x) => (float16[n,m] y) {{ h = Relu(x)  g = {node}  y = Neg(g) }}", constants)
    assert ops(cleaned(before)) == ["Relu", "Neg"]


def test_attributes_of_older_operator_sets() -> None:
    before = program(
        """(float[2,3] x) => (float[2,3] y) {
            a = Slice<starts=[0,0],ends=[2,9]>(x)  b = Pad<pads=[0,0,0,0]>(a)  y = Neg(b)
        }""",
        opset=9,
    )
    assert ops(cleaned(before)) == ["Neg"]


def test_the_model_output_keeps_its_name() -> None:
    before = program("(float[2] x) => (float[2] y) { h = Relu(x)  y = Identity(h) }")
    after = cleaned(before)
    assert ops(after) == ["Relu"] and after.outputs[0].name == "y"


def test_an_expand_to_the_size_that_the_tensor_has() -> None:
    text = "(float[B,S] x, float[S] z) => (float[B,S] y) {{ h = Relu(x) s = Shape({asked}) y = Expand(h, s) }}"
    before = program(text.format(asked="x"))
    after = cleaned(before)
    assert ops(after) == ["Relu"]
    assert_same(before, after, B=2, S=3)
    assert ops(cleaned(program(text.format(asked="z")))) == ["Relu"]  # broadcasting to fewer axes is nothing either


def test_an_expand_to_a_size_that_may_be_larger_stays() -> None:
    before = program("(float[B,1] x, float[B,S] z) => (float[B,S] y) { h = Relu(x) s = Shape(z) y = Expand(h, s) }")
    assert ops(cleaned(before)) == ["Relu", "Shape", "Expand"]


def test_an_input_that_is_returned_keeps_its_node() -> None:
    graph = program("(float[2] x) => (float[2] y) { y = Identity(x) }")
    after, rewrites, diagnostics = run_pass(RemoveIdentities(), graph)
    assert rewrites == 0 and ops(after) == ["Identity"]
    assert "'y' is an output that needs a node of its own" in refusals(diagnostics)[0]


def test_a_tensor_returned_twice_keeps_one_node() -> None:
    before = program("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Identity(y) }")
    assert ops(cleaned(before)) == ["Relu", "Identity"]


def test_a_branch_returns_only_what_it_computes() -> None:
    def branch(name: str, *nodes: tuple[str, str, str]) -> helper.GraphProto:
        made = [helper.make_node(op, [source], [result]) for op, source, result in nodes]
        out = helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)
        return helper.make_graph(made, name, [], [out])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["condition"], ["y"],
            then_branch=branch("then", ("Identity", "x", "a")),
            else_branch=branch("else", ("Identity", "x", "b"), ("Neg", "b", "c"), ("Identity", "c", "d")),
        ),
    ]  # fmt: skip
    after = cleaned(with_body(nodes, {"x": [2]}, ["y"]))
    assert sorted(ops(after)) == ["Cast", "Identity", "If", "Neg", "ReduceSum"]


def test_two_transposes_that_undo_each_other() -> None:
    before = program(
        """(float[2,3,4] x) => (float[2,3,4] y) {
            a = Transpose<perm=[2,0,1]>(x)  b = Transpose<perm=[1,2,0]>(a)  y = Relu(b)
        }"""
    )
    assert ops(cleaned(before)) == ["Relu"]


@settings(max_examples=10, deadline=None)
@given(st.lists(AXES, min_size=2, max_size=4))
def test_any_chain_of_transposes_becomes_at_most_one(orders: list[list[int]]) -> None:
    names = ["x", *(f"h{i}" for i in range(len(orders)))]
    lines = [f"{names[i + 1]} = Transpose<perm={order}>({names[i]})" for i, order in enumerate(orders)]
    before = program(f"(float[2,3,4] x) => (float[a,b,c] y) {{ {'  '.join(lines)}  y = Relu({names[-1]}) }}")
    assert ops(cleaned(before)) in (["Relu"], ["Transpose", "Relu"])


def test_a_transpose_with_other_readers_stays_for_them() -> None:
    before = program(
        "(float[2,3] x) => (float[3,2] a, float[2,3] y) { a = Transpose(x)  b = Transpose(a)  y = Relu(b) }"
    )
    assert ops(cleaned(before)) == ["Transpose", "Relu"]


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("Reshape(x, flat)", [4, -1], [4, -1]),
        ("Flatten(x)", [0, 3, 4], [2, 3, 4]),  # the 0 is the 2 of the tensor between
        ("Unsqueeze(x, first)", [6, 4], [6, 4]),
        ("Squeeze(x)", [0, -1], None),  # 0 of a tensor of unknown rank
    ],
)
def test_reshape_after_reshape(first: str, second: list[int], merged: list[int] | None) -> None:
    source = "float[2,3,4] x" if merged else "float[n,m,k] x"
    before = program(
        f"({source}) => (float[a,b] y) {{ h = {first}  g = Reshape(h, second)  y = Relu(g) }}",
        {"flat": np.array([-1]), "first": np.array([0]), "second": np.array(second)},
    )
    del before.outputs[0].shape[:]
    before.outputs[0].shape = None
    after = cleaned(before)
    if merged is None:
        assert ops(after) == [first.split("(")[0], "Reshape", "Relu"]
    elif merged == [2, 3, 4]:
        assert ops(after) == ["Relu"]
    else:
        assert ops(after) == ["Reshape", "Relu"] and after.nodes[0].inputs[1].values.tolist() == merged


@pytest.mark.parametrize("axes", [("one", "one"), ("minus", "one"), ("one", "minus")])
def test_squeeze_undoes_unsqueeze_and_the_other_way_round(axes: tuple[str, str]) -> None:
    constants = {"one": np.array([1]), "minus": np.array([-2])}
    before = program(
        f"""(float[2,3] x) => (float[2,3] y) {{
            a = Unsqueeze(x, {axes[0]})  b = Squeeze(a, {axes[1]})  y = Relu(b)
        }}""",
        constants,
    )
    assert ops(cleaned(before)) == ["Relu"]
    before = program(
        f"""(float[2,1,3] x) => (float[2,1,3] y) {{
            a = Squeeze(x, {axes[0]})  b = Unsqueeze(a, {axes[1]})  y = Relu(b)
        }}""",
        constants,
    )
    assert ops(cleaned(before)) == ["Relu"]


@pytest.mark.parametrize(
    ("node", "constants", "reason"),
    [
        ("Add(x, c)", {"c": np.float32(0)}, "adding 0.0 turns -0.0 into 0.0"),
        ("Sub(x, c)", {"c": np.float32(-0.0)}, "subtracting -0.0 turns -0.0 into 0.0"),
        ("Mul(x, c)", {"c": np.ones((1, 1, 2), np.float32)}, "may broadcast the other operand"),
        ("Mul(x, c)", {"c": np.ones((3, 1), np.float32)}, "may broadcast the other operand"),
    ],
)
def test_what_only_looks_like_an_identity(node: str, constants: dict[str, np.ndarray], reason: str) -> None:
    graph = program(f"(float[n,2] x) => (float[a,b] y) {{ h = {node}  y = Relu(h) }}", constants)
    after, rewrites, diagnostics = run_pass(RemoveIdentities(), graph)
    assert rewrites == 0 and len(after.nodes) == 2
    (found,) = refusals(diagnostics)
    assert reason in found


def test_a_dropout_whose_mask_is_read() -> None:
    graph = program("(float[2] x) => (float[2] y, bool[2] m) { h, m = Dropout(x)  y = Relu(h) }")
    after, rewrites, diagnostics = run_pass(RemoveIdentities(), graph)
    assert rewrites == 0 and ops(after) == ["Dropout", "Relu"]
    assert "its mask is read" in refusals(diagnostics)[0]


def test_a_dropout_that_trains_stays() -> None:
    graph = program(
        "(float[2] x) => (float[2] y) { h = Dropout(x, half, yes)  y = Relu(h) }",
        {"half": np.float32(0.5), "yes": np.array(True)},
    )
    after, rewrites, _ = run_pass(RemoveIdentities(), graph)
    assert rewrites == 0 and ops(after) == ["Dropout", "Relu"]
