"""Biases corrected for what rounded weights do to means, without running anything that is rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, lowered, solved, weights

from qcompiler import ir
from qcompiler.calibrate import sample_rows
from qcompiler.errors import PassError
from qcompiler.passes.expect_bias import ExpectBias
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.runtime import Feed, run, session
from qcompiler.scheme import PerTensor

CONV = "(float[2,4,10,10] x) => (float[2,8,8,8] y) { y = Conv(x, w, b) }"
APART = "(float[2,4,10,10] x) => (float[2,8,8,8] y) { y = Conv<group = 2>(x, v, b) }"
ROWS = "(float[9,32] x) => (float[9,8] y) { y = Gemm(x, m, b) }"
TRANSPOSED = "(float[9,32] x) => (float[9,8] y) { y = Gemm<transB = 1>(x, t, b) }"
CONSTANTS = {"w": (8, 4, 3, 3), "v": (8, 2, 3, 3), "m": (32, 8), "t": (8, 32), "b": (8,)}


def made(text: str) -> tuple[ir.Graph, list[Feed]]:
    """The model, and samples far from zero: there errors of weights move means."""
    graph = program(text, weights(**CONSTANTS))
    ir.infer_shapes(graph)
    return graph, [{name: values + np.float32(3.0) for name, values in feed.items()} for feed in feeds(graph, 24)]


def coarse(plan: Plan) -> Plan:
    """The plan with steps of weights, and of the biases that follow them, eight times as large: there is something to
    correct."""
    sites = {s: replace(q, scale=q.scale * np.float32(8.0)) if s.index else q for s, q in plan.sites.items() if s.node}
    return replace(plan, sites=sites)


def corrected(graph: ir.Graph, plan: Plan, samples: list[Feed]) -> Plan:
    one = ExpectBias()
    rows = sample_rows(graph, one.wanted(graph, plan), samples, most=one.rows)
    found = one.run(graph, PassContext(plan=plan, rows=rows)).plan
    assert found is not None
    return found


def shift(graph: ir.Graph, plan: Plan, samples: list[Feed]) -> float:
    """Power of the mean error of each output channel."""
    with session(graph) as exact, session(lowered(graph, plan)) as own:
        error = np.concatenate([run(own, f)[0] - run(exact, f)[0] for f in samples])
    return float(np.sum(error.mean(axis=(0, *range(2, error.ndim))) ** 2))


@pytest.mark.parametrize("text", [CONV, APART, ROWS, TRANSPOSED])
def test_other_samples_see_the_mean_they_should(text: str) -> None:
    graph, samples = made(text)
    plan = coarse(solved(graph, samples=samples))
    found = corrected(graph, plan, samples[:16])
    assert list(found.shifts) == ["b"]
    assert shift(graph, found, samples[16:]) < 0.1 * shift(graph, plan, samples[16:])


def test_the_shift_is_that_of_the_rounded_weight() -> None:
    graph, samples = made(ROWS)
    plan = solved(graph, samples=samples)
    (site,) = (site for site in plan.sites if site.tensor == "m")
    quant = plan.sites[site]
    values = ir.all_tensors(graph)["m"].values
    rounded = plan.codes("m", values, quant) * quant.scale
    mean = sample_rows(graph, {"x": 1}, samples, most=2048)["x"].values.mean(axis=0)
    np.testing.assert_allclose(corrected(graph, plan, samples).shifts["b"], mean @ (values - rounded), atol=1e-4)
    assert not isinstance(quant.scheme.granularity, PerTensor)


def test_left_alone() -> None:
    graph, samples = made(CONV)
    plan = solved(graph, samples=samples)
    once = corrected(graph, plan, samples)
    assert not ExpectBias().wanted(graph, once)  # it has been corrected
    assert not ExpectBias().wanted(graph, replace(plan, intended=frozenset()))  # it is in float
    text = "(float[1,4,6,6] x) => (float y, float z) { y = Conv(x, w, b) z = Conv(x, w, b) }"
    two = program(text, weights(**CONSTANTS))
    ir.infer_shapes(two)
    assert not ExpectBias().wanted(two, solved(two, samples=feeds(two)))  # two nodes read it
    with pytest.raises(PassError, match="needs a plan"):
        ExpectBias().run(graph, PassContext())
