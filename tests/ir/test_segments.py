"""A graph in pieces computes what it does in one."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import branches, weights

from qcompiler import ir

TEXT = """(float[2,8] x, float[2,8] z) => (float[2,8] y, float[2,8] b) {
    a = MatMul(x, w) b = Relu(a) c = Add(b, z) d = MatMul(c, w) e = Tanh(d) f = Mul(e, b) g = MatMul(f, w) y = Neg(g)
}"""


def chained(pieces: list[ir.Graph], values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What all pieces return, each one fed with what those before it returned."""
    for piece in pieces:
        ir.check_structure(piece)
        taken = {tensor.name: values[tensor.name] for tensor in piece.inputs}
        values = {**values, **outputs(piece, taken)}
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_one_after_the_other_they_compute_the_same(count: int) -> None:
    graph = program(TEXT, weights(w=(8, 8)))
    ir.infer_shapes(graph)
    given = feed(graph)
    pieces = ir.segments(graph, count, kept=["d"])
    found = chained(pieces, given)
    assert 1 <= len(pieces) <= count
    for name, value in outputs(graph, given).items():
        np.testing.assert_array_equal(found[name], value)
    assert found["d"].shape == (2, 8)


def test_cuts_are_made_where_little_is_alive() -> None:
    text = """(float[1,64] x) => (float[1,64] y) {
        a = Tanh(x) b = Relu(a) s = ReduceMean <axes = [1], keepdims = 1> (b) e = Expand(s, n) c = Tanh(e) y = Neg(c)
    }"""
    graph = program(text, {"n": np.array([1, 64])})
    ir.infer_shapes(graph)
    first, second = ir.segments(graph, 2)
    assert [tensor.name for tensor in first.outputs] == [tensor.name for tensor in second.inputs] == ["s"]


def test_bodies_stay_whole_and_take_what_they_capture() -> None:
    graph = branches()
    ir.infer_shapes(graph)
    pieces = ir.segments(graph, 4)
    given = feed(graph)
    found = chained(pieces, given)
    for name, value in outputs(graph, given).items():
        np.testing.assert_array_equal(found[name], value)


def test_what_no_session_can_be_fed_is_not_cut() -> None:
    """A sequence is made and read in one piece."""
    text = """(float[2,8] x, float[2,8] z) => (float[4,8] y) {
        a = Relu(x) s = SequenceConstruct(a, z) y = ConcatFromSequence <axis = 0> (s)
    }"""
    graph = program(text)
    ir.infer_shapes(graph)
    for piece in ir.segments(graph, 3):
        assert "s" not in {tensor.name for tensor in (*piece.inputs, *piece.outputs)}


def test_stages_begin_with_the_named_nodes_and_return_what_later_ones_read() -> None:
    graph = program(TEXT, weights(w=(8, 8)))
    ir.infer_shapes(graph)
    products = [node.name for node in graph.nodes if node.op == "MatMul"]
    depths = ir.depths(graph, products)
    assert [depths[name] for name in products] == [1, 2, 3]
    pieces = ir.stages(graph, depths)
    assert pieces is not None and len(pieces) == 4
    held = [[node.op for node in piece.nodes] for piece in pieces]
    assert held == [[], ["MatMul", "Relu", "Add"], ["MatMul", "Tanh", "Mul"], []]
    given = feed(graph)
    found = chained(pieces[1:3], given)
    whole = ir.clone(graph)
    whole.outputs = [ir.all_tensors(whole)["f"]]
    np.testing.assert_array_equal(found["f"], outputs(whole, given)["f"])


def test_there_are_no_stages_where_they_would_hand_over_a_sequence() -> None:
    text = """(float[2,8] x) => (float[2,8] y) {
        s = SequenceConstruct(x) a = MatMul(x, w) t = SequenceInsert(s, a) y = ConcatFromSequence <axis = 0> (t)
    }"""
    graph = program(text, weights(w=(8, 8)))
    ir.infer_shapes(graph)
    product = next(node.name for node in graph.nodes if node.op == "MatMul")
    assert ir.stages(graph, ir.depths(graph, [product])) is None


def test_the_graph_is_left_alone() -> None:
    graph = program(TEXT, weights(w=(8, 8)))
    before = [(node.name, [t.name for t in node.inputs]) for node in graph.nodes]
    ir.segments(graph, 3)
    assert [(node.name, [t.name for t in node.inputs]) for node in graph.nodes] == before


def test_an_opening_returns_what_the_rest_reads() -> None:
    graph = program("(float[2,4] x) => (float[2,4] y) { a = Relu(x) b = Tanh(a) c = Exp(b) y = Add(c, a) }")
    part = ir.opening(graph, 2)
    assert [node.op for node in part.nodes] == ["Relu", "Tanh"]
    assert {tensor.name for tensor in part.outputs} == {"a", "b"}
    assert [tensor.name for tensor in part.inputs] == ["x"] and len(graph.nodes) == 4
