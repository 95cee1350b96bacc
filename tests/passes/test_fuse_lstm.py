"""LSTMs with weights in 8 bits, from a program to the runtime's operator."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import TARGET, placed, solved, weights

import qcompiler
from qcompiler import ir, numerics
from qcompiler.cpu import detect_cpu
from qcompiler.passes.fuse_lstm import FuseLstm
from qcompiler.passes.lower import Lower
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.scheme import PerBlock
from qcompiler.target_files import load_target

TEXT = """(float[20,3,16] x, float[1,3,24] h, float[1,3,24] c) => (float y, float z) {
    y, z = LSTM <hidden_size = 24> (x, w, r, b, , h, c) }"""
BOTH_WAYS = """(float[20,3,16] x, int32[3] n) => (float y) {
    y = LSTM <hidden_size = 24, direction = "bidirectional", clip = 3.0> (x, w, r, b, n) }"""
BODY = """(float[20,3,16] x, bool t) => (float y) {
    y = If (t) <then_branch = g1 () => (a) { a = LSTM <hidden_size = 24> (x, w, r) },
                else_branch = g2 () => (e) { s = Shape(x) e = Expand(o, s) }> }"""


def constants(directions: int = 1) -> dict[str, np.ndarray]:
    made = weights(w=(directions, 96, 16), r=(directions, 96, 24), b=(directions, 192))
    return {**{name: 0.2 * values for name, values in made.items()}, "o": np.zeros(1, np.float32)}


def fused(graph: ir.Graph, cpu: str = "vnni") -> ir.Graph:
    target = load_target("ort-cpu", cpu).at("int8")
    plan = solved(graph, placed(graph, target=target), target=target)
    result = ir.clone(graph)
    Pipeline([Lower(), FuseLstm()]).run(result, PassContext(target, plan))
    return result


@pytest.mark.parametrize(
    "text, directions, given",
    [(TEXT, 1, {}), (BOTH_WAYS, 2, {"n": np.array([20, 7, 1], np.int32)}), (BODY, 1, {"t": np.array(True)})],
    ids=["states", "both ways", "a body"],
)
def test_it_computes_the_same(text: str, directions: int, given: dict[str, np.ndarray]) -> None:
    """With the weights that this machine's products leave room for: of 7 bits where their sums saturate."""
    graph = program(text, constants(directions), 20, 9)
    result = fused(graph, "auto")
    ops = [node.op for _, node in ir.all_nodes(result)]
    assert "DynamicQuantizeLSTM" in ops and "LSTM" not in ops and "DequantizeLinear" not in ops
    values = {**feed(graph), **given}
    for name, value in outputs(graph, values).items():
        assert numerics.sqnr(value, outputs(result, values)[name]) > (30.0 if detect_cpu() == "vnni" else 25.0)


def test_weights_have_a_scale_for_each_output_and_direction() -> None:
    graph = program(BOTH_WAYS, constants(2), 20, 9)
    plan = placed(graph, target=TARGET.at("int8"))
    schemes = {str(site): quant.scheme for site, quant in plan.sites.items()}
    assert {name: scheme.granularity for name, scheme in schemes.items()} == {
        "LSTM_0:1": PerBlock(2, 16), "LSTM_0:2": PerBlock(2, 24)
    }  # fmt: skip
    node = next(node for node in fused(graph).nodes)
    assert [tensor.shape for tensor in node.inputs[8:]] == [(2, 96)] * 4
    assert node.inputs[1].values.shape == (2, 16, 96)


def test_where_sums_of_products_saturate_weights_have_seven_bits() -> None:
    graph = program(TEXT, constants(), 20, 9)
    node = next(node for node in fused(graph, "avx2").nodes)
    assert np.abs(node.inputs[1].values.astype(int)).max() == 63


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("hidden_size = 24", "hidden_size = 24, layout = 1").replace("[1,3,24]", "[3,1,24]")
        .replace("[20,3,16]", "[3,20,16]"),
        TEXT.replace("{\n", "{ v = Neg(w)\n").replace("(x, w, r", "(x, v, r"),
        TEXT.replace("{\n", "{ v = Neg(r)\n").replace("(x, w, r", "(x, w, v"),
    ],
    ids=["samples first", "a computed weight", "another"],
)  # fmt: skip
def test_what_stays_in_float(text: str) -> None:
    graph = program(text, constants(), 20, 9)
    assert not placed(graph, target=TARGET.at("int8")).intended


def test_weights_of_another_rank_are_refused() -> None:
    flat = {**constants(), "w": constants()["w"][0]}
    assert not placed(program(TEXT, flat, 20, 9), target=TARGET.at("int8")).intended


def test_weights_that_are_not_finite_are_refused() -> None:
    bad = constants()
    bad["r"][0, 5, 5] = np.inf
    assert not placed(program(TEXT, bad, 20, 9), target=TARGET.at("int8")).intended


def test_without_the_pass_it_stays_in_float() -> None:
    graph = program(BOTH_WAYS, constants(2), 20, 9)
    given = [{**feed(graph, seed), "n": np.array([20, 7, 1], np.int32)} for seed in range(4)]
    options = qcompiler.Options(timing=False, passes=("-fuse-lstm",))
    report = qcompiler.compile(graph, given, precision="int8", options=options).report
    assert next(node.precision for node in report.nodes if node.op == "LSTM") == "float"


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_from_a_program_to_what_runs(precision: str) -> None:
    text = "(float[30,1,64] x) => (float[30,1,1,96] y) { y = LSTM <hidden_size = 96> (x, w, r) }"
    graph = program(text, {name: 0.1 * one for name, one in weights(w=(1, 384, 64), r=(1, 384, 96)).items()}, 20, 9)
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(30, 1, 64)).astype(np.float32)} for _ in range(4)]
    options = qcompiler.Options(timing=False)
    result = qcompiler.compile(graph, feeds, precision=precision, options=options)
    fate = next(node for node in result.report.nodes if node.op == "LSTM")
    assert (fate.precision, fate.form) == ("int8", "DynamicQuantizeLSTM")
    assert result.report.sqnr > 30.0 and result.report.compiled_bytes < 0.28 * result.report.source_bytes
    again = qcompiler.compile(graph, feeds, precision=precision, plan=result.plan, options=options)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
