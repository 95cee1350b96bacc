"""Bodies of If, Loop and Scan: captured tensors, names, and what a body may return."""

from __future__ import annotations

import numpy as np
import pytest
from ir.programs import evaluate, model, tensor

from qcompiler import ir

ONES = np.ones(2, np.float32)

BRANCHES = """(float[2] x, bool c) => (float[2] y) {
    a = Relu(x)
    y = If(c) <then_branch = t () => (float[2] p) { p = Add(a, w) }, else_branch = e () => (float[2] q) { q = Neg(a) }>
}"""


def run_both(graph: ir.Graph) -> list[list[float]]:
    return [evaluate(graph, x=ONES, c=np.array(choice))[0].tolist() for choice in (True, False)]


def test_captured_tensors_are_the_outer_objects() -> None:
    graph = ir.load(model(BRANCHES, w=np.array([1, 2], np.float32)))
    relu, choice = graph.nodes
    then, otherwise = ir.subgraphs(choice)
    assert then.nodes[0].inputs[0] is relu.outputs[0] and otherwise.nodes[0].inputs[0] is relu.outputs[0]
    assert {node.op for node in relu.outputs[0].outputs} == {"Add", "Neg"}
    assert run_both(graph) == [[2, 3], [-1, -1]]


def test_a_weight_is_stored_in_the_graph_that_alone_uses_it() -> None:
    proto = ir.to_proto(ir.load(model(BRANCHES, w=ONES)))
    then = proto.graph.node[1].attribute[0].g
    assert [weight.name for weight in then.initializer] == ["w"] and not proto.graph.initializer


def test_a_weight_of_two_bodies_is_stored_once_outside() -> None:
    proto = ir.to_proto(ir.load(model(BRANCHES.replace("Neg(a)", "Sub(a, w)"), w=ONES)))
    assert [weight.name for weight in proto.graph.initializer] == ["w"]
    assert not any(attribute.g.initializer for attribute in proto.graph.node[1].attribute)


def test_shadowed_names_are_told_apart() -> None:
    text = """(float[2] x, bool c) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] r) { v = Neg(x)  r = Exp(v) },
        else_branch = e () => (float[2] r) { v = Abs(x)  r = Sqrt(v) }> }"""
    proto = model(text)
    for attribute in proto.graph.node[0].attribute:
        attribute.g.node[0].name = "same"
    proto.graph.node[0].name = "same"
    graph = ir.load(proto)
    ir.check_structure(graph)
    assert graph.nodes[0].name == "same"
    names = [output.name for _, node in ir.all_nodes(graph) for output in node.outputs]
    assert len(set(names)) == len(names) == 5
    assert run_both(graph) == [pytest.approx([np.exp(-1)] * 2), [1, 1]]


def test_a_loop_with_captured_and_carried_tensors() -> None:
    text = """(float[2] x, int64 n, bool c) => (float[2] y, float[K, 2] all) {
        y, all = Loop(n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go_on, float[2] u, float[2] s)
            { go_on = Identity(go)  u = Add(v, w)  s = Mul(u, x) }> }"""
    graph = ir.load(model(text, w=ONES))
    last, every = evaluate(graph, x=ONES, n=np.array(3), c=np.array(True))
    assert last.tolist() == [4, 4] and every.tolist() == [[2, 2], [3, 3], [4, 4]]


def test_a_scan() -> None:
    text = """(float[2] x, float[3, 2] rows) => (float[2] y, float[3, 2] sums) {
        y, sums = Scan<num_scan_inputs = 1, body = b (float[2] s, float[2] r) => (float[2] t, float[2] o)
            { t = Add(s, r)  o = Identity(t) }>(x, rows) }"""
    graph = ir.load(model(text))
    assert evaluate(graph, x=ONES, rows=np.ones((3, 2), np.float32))[0].tolist() == [4, 4]


def test_bodies_within_bodies_reach_all_the_way_out() -> None:
    text = """(float[2] x, bool c) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] p) { p = If(c) <
            then_branch = tt () => (float[2] m) { m = Add(x, w) },
            else_branch = te () => (float[2] k) { k = Neg(x) }> },
        else_branch = e () => (float[2] q) { q = Abs(x) }> }"""
    graph = ir.load(model(text, w=ONES))
    assert [inner.name for inner in ir.all_graphs(graph)] == ["agraph", "t", "tt", "te", "e"]
    assert len(tensor(graph, "x").outputs) == 3
    assert run_both(ir.clone(graph)) == [[2, 2], [1, 1]]


@pytest.mark.parametrize("returned", ["x", "w"])
def test_a_body_may_return_an_outer_tensor(returned: str) -> None:
    """Passes make such graphs; ONNX Runtime refuses them, so that they are written with an Identity."""
    graph = ir.load(model(BRANCHES, w=ONES * 7))
    then = ir.subgraphs(graph.nodes[1])[0]
    outer = tensor(graph, returned)
    graph.nodes[0].inputs.append(outer)  # used outside as well
    graph.nodes[0].op = "Max"
    then.outputs[0] = outer
    ir.remove_dead(graph)
    assert run_both(graph)[0] == ([1, 1] if returned == "x" else [7, 7])


def test_a_body_may_return_a_tensor_twice() -> None:
    """ONNX Runtime 1.32 leaves the first of two such results unset."""
    text = """(float[2] x, bool c) => (float[2] y, float[2] z) { y, z = If(c) <
        then_branch = t () => (float[2] p, float[2] p) { p = Relu(x) },
        else_branch = e () => (float[2] q, float[2] r) { q = Neg(x)  r = Exp(x) }> }"""
    assert [value.tolist() for value in evaluate(ir.load(model(text)), x=ONES * 3, c=np.array(True))] == [[3, 3]] * 2


def test_a_body_may_return_its_own_weight() -> None:
    text = BRANCHES.replace("p = Add(a, w)", "p = Constant<value_floats = [5.0, 6.0]>()")
    assert run_both(ir.load(model(text)))[0] == [5, 6]


def test_dead_nodes_in_bodies_release_what_they_read() -> None:
    graph = ir.load(model(BRANCHES.replace("{ p = Add(a, w) }", "{ d = Mul(a, w)  p = Neg(x) }"), w=ONES))
    assert ir.remove_dead(graph) == 1
    assert [node.op for node in tensor(graph, graph.nodes[0].outputs[0].name).outputs] == ["Neg"]


def test_dead_bodies_release_what_they_read() -> None:
    graph = ir.load(model(BRANCHES, w=ONES))
    relu, choice = graph.nodes
    graph.outputs[0] = relu.outputs[0]
    assert ir.remove_dead(graph) >= 1
    assert graph.nodes == [relu] and not relu.outputs[0].outputs and not choice.outputs


def test_sorting_counts_what_bodies_read() -> None:
    graph = ir.load(model(BRANCHES, w=ONES))
    graph.nodes.reverse()
    ir.sort(graph)
    assert [node.op for node in graph.nodes] == ["Relu", "If"]
