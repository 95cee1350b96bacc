from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from pass_helpers import ops, outputs, program, run_pass, with_body

from qcompiler import ir
from qcompiler.passes.hoist_invariants import HoistInvariants

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "k": RANDOM.normal(size=(4, 4)).astype(np.float32), "zero": np.zeros(1, np.float32), "first": np.array([0]),
    "one": np.ones(1, np.float32), "i0": np.array(0),
}  # fmt: skip


def loop(
    body: str, states: str = "v", initial: str = "k", last: str = "u", before: str = "", after: str = ""
) -> ir.Graph:
    """A loop of n turns over s, which begins as x, and more ``states``, of which ``body`` says first what they become;
    t is what s becomes."""
    returned, computed = body.split("|")
    given, made = (", ".join(f"float[4,4] {name}" for name in names.split()) for names in (states, returned))
    text = f"""(float[2,4] x, int64 n) => (float[2,4] y{after}) {{ {before}
        y, {last} = Loop <body: graph = b (int64 i, bool c, float[2,4] s, {given}) => (bool d, float[2,4] t, {made}) {{
            d = Identity(c) {computed} }}> (n, , x, {initial}) }}"""
    graph = program(text, CONSTANTS)
    ir.infer_shapes(graph)
    return graph


def body_of(graph: ir.Graph) -> ir.Graph:
    (node,) = [node for node in graph.nodes if node.op == "Loop"]
    (body,) = ir.subgraphs(node)
    return body


def same(before: ir.Graph, after: ir.Graph) -> None:
    for turns in (0, 1, 3):
        given = {"x": RANDOM.normal(size=(2, 4)).astype(np.float32), "n": np.array(turns)}
        wanted, found = outputs(before, given), outputs(after, given)
        assert wanted.keys() == found.keys()
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)


ASSIGNED = "a = Unsqueeze(v, first) e = Add(a, zero) w = Squeeze(e, first)"


@pytest.mark.parametrize("returned", ["w = Identity(v)", ASSIGNED, ASSIGNED.replace("a, zero", "zero, a")])
@pytest.mark.parametrize("after", ["", ", float[4,4] u"])
def test_what_goes_round_unchanged_is_a_constant(returned: str, after: str) -> None:
    before = loop(f"w| t = MatMul(s, v) {returned}", after=after)
    after_pass, rewrites, _ = run_pass(HoistInvariants(), before)
    body = body_of(after_pass)
    assert rewrites >= 1 and len(body.inputs) == 3
    (product,) = [node for node in body.nodes if node.op == "MatMul"]
    assert ir.is_constant(product.inputs[1])
    same(before, after_pass)


def test_what_is_computed_of_it_is_computed_once() -> None:
    body = "w| q = Transpose(v) p = MatMul(q, q) t = MatMul(s, p) w = Identity(v)"
    before = loop(body, before="z = Tanh(k)", initial="z")
    after, _, _ = run_pass(HoistInvariants(), before)
    assert {"Transpose", "MatMul", "Tanh"} <= {node.op for node in after.nodes}
    assert [node.op for node in body_of(after).nodes if node.op != "Identity"] == ["MatMul"]
    same(before, after)


def test_assigned_states_are_returned_themselves() -> None:
    before = loop(f"w| r = MatMul(v, v) t = MatMul(s, r) {ASSIGNED.replace('(v,', '(r,')}")
    after, rewrites, _ = run_pass(HoistInvariants(), before)
    assert rewrites == 1 and [node.op for node in body_of(after).nodes] == ["Identity", "MatMul", "MatMul"]
    same(before, after)


def test_what_every_turn_returns_stays_in_its_place() -> None:
    before = program(
        """(float[2,4] x, int64 n) => (float[2,4] y, float[N,2,4] all) {
            u, y, all = Loop <body: graph = b (int64 i, bool c, float[4,4] v, float[2,4] s)
                => (bool d, float[4,4] w, float[2,4] t, float[2,4] r) {
                d = Identity(c) w = Identity(v) t = MatMul(s, v) r = Neg(t) }> (n, , k, x) }""",
        CONSTANTS,
    )
    after, _, _ = run_pass(HoistInvariants(), before)
    (node,) = [node for node in after.nodes if node.op == "Loop"]
    assert (len(node.inputs), [tensor.name for tensor in node.outputs]) == (3, ["y", "all"])
    same(before, after)


def test_what_an_inner_loop_does_not_change_leaves_both() -> None:
    inner = """z = Loop <body: graph = inner (int64 j, bool f, float[2,4] o) => (bool g, float[2,4] p) {
        g = Identity(f) h = Transpose(v) p = MatMul(o, h) }> (n, , s)"""
    before = loop(f"w| {inner} t = Relu(z) w = Identity(v)", before="m = Tanh(k)", initial="m")
    after, _, _ = run_pass(HoistInvariants(), before)
    assert "Transpose" in [node.op for node in after.nodes]
    same(before, after)


def test_the_last_value_in_a_branch_is_returned_by_the_branch() -> None:
    branch = """y = If (b) <then_branch: graph = yes () => (float[2,4] u) {
            u = Loop <body: graph = o (int64 i, bool c, float[2,4] s) => (bool d, float[2,4] t) {
                d = Identity(c) t = Identity(s) }> (n, , x) },
        else_branch: graph = no () => (float[2,4] l) { l = Neg(x) }>"""
    before = program(f"(float[2,4] x, int64 n, bool b) => (float[2,4] y) {{ {branch} }}")
    after, _, _ = run_pass(HoistInvariants(), before)
    assert ops(after) == ["If", "Identity", "Neg"]
    given = {"x": np.ones((2, 4), np.float32), "n": np.array(2), "b": np.array(True)}
    np.testing.assert_array_equal(*(outputs(graph, given)["y"] for graph in (before, after)))


@pytest.mark.parametrize(
    "body, states, initial, last",
    [
        ("w r| t = MatMul(s, v) w = Identity(o) r = Identity(v)", "v o", "k, k", "u, l"),  # the two change places
        ("w| t = MatMul(s, v) a = Unsqueeze(v, first) e = Add(a, one) w = Squeeze(e, first)", "v", "k", "u"),
        ("w| t = MatMul(s, v) w = Neg(v)", "v", "k", "u"),
    ],
)
def test_what_changes_stays(body: str, states: str, initial: str, last: str) -> None:
    before = loop(body, states, initial, last, after="".join(f", float[4,4] {name}" for name in last.split(", ")))
    after, rewrites, _ = run_pass(HoistInvariants(), before)
    assert rewrites == 0 and len(body_of(after).inputs) == len(body_of(before).inputs)
    same(before, after)


def test_what_may_fail_runs_only_in_a_turn() -> None:
    before = loop("w| g = Gather(v, i0) t = Add(s, g) w = Identity(v)", before="z = Tanh(k)", initial="z")
    after, _, _ = run_pass(HoistInvariants(), before)
    assert "Gather" in [node.op for node in body_of(after).nodes] and "Gather" in ops(after)
    same(before, after)


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_a_loop_without_a_body_is_for_the_runtime_to_refuse(op: str) -> None:
    before = with_body([helper.make_node(op, ["", "", "x"] if op == "Loop" else ["x"], ["y"])], {"x": [2]}, ["y"])
    assert run_pass(HoistInvariants(), before)[1] == 0
