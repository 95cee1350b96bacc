"""Scaling inputs of weights of four bits: what it gains, that the model computes the same, where it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import outputs
from pass_helpers import program as read

import qcompiler
from qcompiler import Options, ir
from qcompiler.calibrate import sample_rows
from qcompiler.errors import PassError
from qcompiler.passes.place import Place
from qcompiler.passes.scale_salient import ScaleSalient, scalable
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.runtime import Feed
from qcompiler.target_files import load_target

TARGET = load_target("ort-cpu", "vnni").at("int4")
NORM = "(float[4,64] x) => (float[4,64] y) { h = LayerNormalization(x, s, t) y = MatMul(h, w) }"
RMS = """(float[4,64] x) => (float[4,64] y) {
    n = LpNormalization(x) h = Mul(n, s) a = MatMul(h, w) b = MatMul(h, v) y = Add(a, b)
}"""
GATED = """(float[4,64] x) => (float[4,64] y) {
    a = MatMul(x, v) g = Sigmoid(a) u = Gemm(x, w, t) r = Relu(u) h = Mul(g, r) y = Gemm <transB = 1> (h, z)
}"""


def program(text: str, reach: float = 20.0) -> ir.Graph:
    """Three channels of the normalization's scale, and of what a product returns, reach farther."""
    random = np.random.default_rng(0)
    constants = {name: random.normal(size=(64, 64)).astype(np.float32) / 8 for name in "wvz"}
    scale = np.ones(64, np.float32)
    scale[[3, 17, 40]] = reach
    constants["w"] = constants["w"] * (scale if "Gemm" in text else 1)
    constants |= {"s": scale, "t": random.normal(size=64).astype(np.float32)}
    graph = read(text, {name: values for name, values in constants.items() if f" {name}" in text})
    ir.infer_shapes(graph)
    return graph


def samples(count: int = 16) -> list[Feed]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(4, 64)).astype(np.float32)} for _ in range(count)]


def placed(graph: ir.Graph) -> Plan:
    plan = Pipeline([Place("int4")]).run(graph, PassContext(TARGET, Plan())).plan
    assert plan is not None
    return plan


def scaled(graph: ir.Graph, plan: Plan | None = None) -> tuple[ir.Graph, Plan, list[str]]:
    result, one = ir.clone(graph), ScaleSalient()
    rows = sample_rows(graph, one.wanted(graph, placed(graph)), samples()) if plan is None else None
    line = Pipeline([one])
    found = line.run(result, PassContext(TARGET, plan or placed(graph), rows=rows)).plan
    assert found is not None
    return result, found, [str(one) for one in line.diagnostics]


@pytest.mark.parametrize("text", [NORM, RMS, GATED])
def test_the_model_computes_the_same_and_has_no_more_nodes(text: str) -> None:
    graph = program(text)
    after, plan, remarks = scaled(graph)
    assert list(plan.smoothing) == ["h"] and "dB less noise" in remarks[0]
    assert [node.op for node in after.nodes] == [node.op for node in graph.nodes]
    for feed in samples(2):
        wanted = outputs(graph, feed)["y"]
        np.testing.assert_allclose(outputs(after, feed)["y"], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    factor = plan.smoothing["h"]
    assert factor[[3, 17, 40]].max() < np.delete(factor, [3, 17, 40]).min()


@pytest.mark.parametrize("rounding", ["rtn", "mse", "hqq", "gptq"])
def test_it_lessens_the_noise_of_outliers(rounding: str) -> None:
    model = ir.to_proto(program(NORM, reach=60.0))
    sqnr = []
    for passes in (("-scale-salient",), ()):
        options = Options(rounding=rounding, ops="standard", timing=False, passes=passes)
        sqnr.append(qcompiler.compile(model, samples(64), precision="int4", options=options).report.sqnr)
    assert sqnr[1] > sqnr[0] + (0.0 if rounding == "gptq" else 3.0)


def test_nothing_is_changed_where_it_does_not_help() -> None:
    graph = program(RMS, reach=1.0)  # all channels are alike
    after, plan, remarks = scaled(graph)
    assert not plan.smoothing and not remarks
    assert [tensor.name for tensor in after.nodes[-1].inputs] == [tensor.name for tensor in graph.nodes[-1].inputs]


@pytest.mark.parametrize(
    "text",
    [
        "(float[4,64] x) => (float[4,64] y) { h = Tanh(x) y = MatMul(h, w) }",
        "(float[4,64] x) => (float[4,64] y) { n = Mul(x, s) h = Tanh(n) y = MatMul(h, w) }",
        "(float[4,64] x) => (float[4,64] y, float[4,64] h) { h = Mul(x, s) y = MatMul(h, w) }",
        "(float[4,64] x) => (float[4,64] y) { h = Mul(x, s) a = MatMul(h, w) y = Add(a, h) }",
        "(float[4,64] x) => (float[4,64] y) { h = Mul(x, s) y = MatMul(w, h) }",
        "(float[64,64] x) => (float[64,64] y) { h = Mul(x, s) y = Gemm <transA = 1> (h, w) }",
        "(float[4,64] x) => (float[4,64] y) { h = Mul(x, s) a = MatMul(h, w) b = MatMul(a, w) y = Neg(b) }",
        "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) h = Mul(a, a) y = MatMul(h, v) }",
        "(float[4,64] x) => (float[4,64] y) { h = LayerNormalization <axis = 0> (x, m) y = MatMul(h, w) }",
    ],
)
def test_refused_where_it_would_not_be_exact(text: str) -> None:
    random = np.random.default_rng(0)
    constants = {name: random.normal(size=(64, 64)).astype(np.float32) for name in "wv"}
    constants |= {"s": np.ones(64, np.float32), "m": np.ones((4, 64), np.float32)}
    graph = read(text, {name: values for name, values in constants.items() if f"{name})" in text or f"{name}," in text})
    ir.infer_shapes(graph)
    assert not scalable(graph)


def test_a_plan_with_factors_is_applied_as_it_is() -> None:
    graph = program(NORM)
    after, plan, _ = scaled(graph)
    again, _, _ = scaled(graph, plan)
    for a, b in zip(after.nodes, again.nodes):
        for left, right in zip(a.inputs, b.inputs):
            if ir.is_constant(left):
                np.testing.assert_array_equal(left.values, right.values)
    with pytest.raises(PassError, match="takes 64 numbers here, not 3"):
        scaled(graph, replace(plan, smoothing={"h": np.ones(3, np.float32)}))
