"""GRUs with weights in 8 bits, from a program to the native operator."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import placed, solved, weights

import qcompiler
from qcompiler import ir, native, numerics
from qcompiler.passes.fuse_gru import FuseGru
from qcompiler.passes.lower import Lower
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")
NATIVE = load_target("ort-cpu").at("int8", "native")

TEXT = """(float[20,3,16] x, float[1,3,24] h) => (float y, float z) {
    y, z = GRU <hidden_size = 24, linear_before_reset = 1> (x, w, r, b, , h) }"""
BOTH_WAYS = """(float[20,3,16] x, int32[3] n) => (float z) {
    , z = GRU <hidden_size = 24, direction = "bidirectional"> (x, w, r, b, n) }"""
PLAIN = """(float[20,3,16] x) => (float y) {
    y = GRU <hidden_size = 24, direction = "reverse", activations = ["sigmoid", "tanh"]> (x, w, r) }"""
BODY = """(float[20,3,16] x, bool t) => (float y) {
    y = If (t) <then_branch = g1 () => (a) { a = GRU <hidden_size = 24> (x, w, r) },
                else_branch = g2 () => (e) { s = Shape(x) e = Expand(o, s) }> }"""


def constants(directions: int = 1) -> dict[str, np.ndarray]:
    made = weights(w=(directions, 72, 16), r=(directions, 72, 24), b=(directions, 144))
    return {**{name: 0.2 * values for name, values in made.items()}, "o": np.zeros(1, np.float32)}


def fused(graph: ir.Graph) -> ir.Graph:
    plan = solved(graph, placed(graph, target=NATIVE), target=NATIVE)
    result = ir.clone(graph)
    Pipeline([Lower(), FuseGru()]).run(result, PassContext(NATIVE, plan))
    return result


@pytest.mark.parametrize(
    "text, directions, given",
    [
        (TEXT, 1, {}),
        (BOTH_WAYS, 2, {"n": np.array([20, 7, 1], np.int32)}),
        (PLAIN, 1, {}),
        (BODY, 1, {"t": np.array(True)}),
    ],
    ids=["a state", "both ways", "plain", "a body"],
)
def test_it_computes_the_same(text: str, directions: int, given: dict[str, np.ndarray]) -> None:
    graph = program(text, constants(directions), 20, 9)
    result = fused(graph)
    ops = [node.op for _, node in ir.all_nodes(result)]
    assert "GRUInt8" in ops and "GRU" not in ops and "DequantizeLinear" not in ops
    values = {**feed(graph), **given}
    for name, value in outputs(graph, values).items():
        assert numerics.sqnr(value, outputs(result, values)[name]) > 25.0


@pytest.mark.parametrize(
    "change, why",
    [
        (("<hidden_size", '<activations = ["Sigmoid", "Relu"], hidden_size'), "its activations are Sigmoid, Relu"),
        (("<hidden_size", "<clip = 3.0, hidden_size"), "it clips"),
        (("r, b", "r, c"), "its bias 'c' is computed"),
    ],
)
def test_what_stays_in_float(change: tuple[str, str], why: str) -> None:
    text = TEXT.replace(*change).replace("float[1,3,24] h", "float[1,3,24] h, float[1,144] c")
    graph = program(text, constants(), 20, 9)
    options = qcompiler.Options(timing=False, ops="native")
    report = qcompiler.compile(graph, precision="int8-dynamic", options=options).report
    node = next(node for node in report.nodes if node.op == "GRU")
    assert node.precision == "float" and why in node.reason


def test_with_standard_operators_it_stays_in_float() -> None:
    report = qcompiler.compile(program(TEXT, constants(), 20, 9), precision="int8-dynamic").report
    assert [(node.precision, "--ops native" in node.reason) for node in report.nodes] == [("float", True)]


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_from_a_program_to_what_runs(precision: str) -> None:
    text = "(float[30,1,64] x) => (float[30,1,1,96] y) { y = GRU <hidden_size = 96> (x, w, r) }"
    graph = program(text, {name: 0.1 * one for name, one in weights(w=(1, 288, 64), r=(1, 288, 96)).items()}, 20, 9)
    options = qcompiler.Options(timing=False, ops="native")
    result = qcompiler.compile(graph, [feed(graph, seed) for seed in range(4)], precision=precision, options=options)
    assert [node.op for node in result.graph.nodes] == ["GRUInt8"]
    assert result.report.sqnr is not None and result.report.sqnr > 30.0
    assert [(node.op, node.precision) for node in result.report.nodes] == [("GRU", "int8")]
