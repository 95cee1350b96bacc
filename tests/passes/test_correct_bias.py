"""Biases corrected for what rounding does to means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import program
from planned import branches, feeds, lowered, numbers, quant_of, solved, weights

from qcompiler import ir
from qcompiler.calibrate import mean_shifts
from qcompiler.errors import PassError
from qcompiler.passes.correct_bias import CorrectBias, likely_mean
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.runtime import Feed, run, session

CHAIN = """(float[2,4,10,10] x) => (float[2,6,10,10] y) {
    a = Conv <pads = [1,1,1,1]> (x, w, b)
    r = Relu(a)
    y = Conv (r, v, c)
}"""


def chain() -> ir.Graph:
    graph = program(CHAIN, weights(w=(8, 4, 3, 3), b=(8,), v=(6, 8, 1, 1), c=(6,)))
    ir.infer_shapes(graph)
    return graph


def cut(graph: ir.Graph, samples: list[Feed]) -> Plan:
    """A plan whose codes cut off what reaches far: that moves means, and alike in all samples."""
    plan = solved(graph, samples=samples)
    sites = {}
    for site, quant in plan.sites.items():
        if site.tensor == "r" and quant.scale is not None:
            quant = replace(quant, scale=np.asarray(quant.scale / 3, np.float32))
        sites[site] = quant
    return replace(plan, sites=sites)


def corrected(graph: ir.Graph, plan: Plan, samples: list[Feed]) -> tuple[Plan, list[str]]:
    one = CorrectBias()
    wanted = one.wanted(graph, plan)
    found = mean_shifts(graph, lowered(graph, plan), dict(wanted.values()), samples)
    shifts = {bias: found[tensor] for bias, (tensor, _) in wanted.items()}
    result = one.run(graph, PassContext(plan=plan, shifts=shifts))
    assert result.plan is not None
    return result.plan, [str(d) for d in result.diagnostics]


def errors(graph: ir.Graph, plan: Plan, samples: list[Feed]) -> tuple[float, float]:
    """(power of the mean error of each output channel, power of the error itself) over the samples."""
    with session(graph) as exact, session(lowered(graph, plan)) as own:
        error = np.concatenate([run(own, f)[0] - run(exact, f)[0] for f in samples])
    return float(np.sum(error.mean(axis=(0, 2, 3)) ** 2)), float(np.mean(error**2))


def test_other_samples_see_the_mean_they_should() -> None:
    graph = chain()
    samples = feeds(graph, 24)
    plan = cut(graph, samples[:16])
    found, said = corrected(graph, plan, samples[:16])
    assert "c" in found.shifts and any(line.startswith("c: corrected: ") for line in said)
    before, after = errors(graph, plan, samples[16:]), errors(graph, found, samples[16:])
    assert after[0] < 0.1 * before[0] and after[1] < before[1]


def test_each_shift_is_told_alone() -> None:
    """What the first convolution does to the mean of the second is corrected in the first."""
    graph = chain()
    samples = feeds(graph, 4)
    plan = solved(graph, samples=samples)
    coded = lowered(graph, replace(plan, shifts={"b": np.full(8, 5.0, np.float32)}))
    found = mean_shifts(graph, coded, {"a": 4, "y": 4, "nowhere": 4}, samples)
    assert set(found) == {"a", "y"} and found["a"].shape == (4, 8) and found["a"].dtype == np.float32
    np.testing.assert_allclose(found["a"], -5.0, atol=0.2)
    assert np.abs(found["y"]).max() < 1.0


def test_means_that_were_told_are_not_told_again() -> None:
    graph = chain()
    samples = feeds(graph, 4)
    coded = lowered(graph, solved(graph, samples=samples))
    told: dict[str, list[np.ndarray]] = {}
    once = mean_shifts(graph, coded, {"a": 4}, samples, told=told)
    told["a"] = [mean + 1.0 for mean in told["a"]]
    again = mean_shifts(graph, coded, {"a": 4, "y": 4}, samples, told=told)
    np.testing.assert_allclose(again["a"], once["a"] + 1.0, atol=1e-5)
    assert set(told) == set(again) == {"a", "y"}


@pytest.mark.parametrize("opset", [13, 20])
def test_of_a_product_of_rows(opset: int) -> None:
    graph = program("(float[5,32] x) => (float[5,8] y) { y = Gemm(x, w, b) }", weights(w=(32, 8), b=(8,)))
    graph.opset = opset
    ir.infer_shapes(graph)
    moved = ir.clone(graph)
    bias = ir.all_tensors(moved)["b"]
    assert ir.is_constant(bias)
    moved.nodes[0].inputs[2] = ir.Constant("b2", bias.values - np.arange(8, dtype=np.float32))
    found = mean_shifts(graph, moved, {"y": 2}, feeds(graph, 3))["y"]
    np.testing.assert_allclose(found, np.tile(np.arange(8), (3, 1)), rtol=1e-5, atol=1e-5)


def test_shifts_that_samples_do_not_share_are_left_alone() -> None:
    graph = chain()
    plan = solved(graph)
    rows = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    result = CorrectBias().run(graph, PassContext(plan=plan, shifts={"c": rows}))
    assert result.plan is not None and not result.plan.shifts and result.diagnostics == ()
    rows[3] = np.nan  # a sample that overflows says nothing
    result = CorrectBias().run(graph, PassContext(plan=plan, shifts={"c": rows + np.float32(4.0)}))
    assert result.plan is not None and np.allclose(result.plan.shifts["c"], 4.0, atol=1.0)


def test_a_bias_of_two_nodes_or_in_a_body_is_refused() -> None:
    text = "(float[1,4,6,6] x) => (float y, float z) { y = Conv(x, w, b) z = Conv(x, v, b) }"
    graph = program(text, weights(w=(4, 4, 1, 1), v=(4, 4, 1, 1), b=(4,)))
    ir.infer_shapes(graph)
    assert CorrectBias().wanted(graph, solved(graph)) == {}
    graph = branches()
    ir.infer_shapes(graph)
    samples = [{**feed, "flag": np.array(index % 2 == 0)} for index, feed in enumerate(feeds(graph))]
    assert CorrectBias().wanted(graph, solved(graph, samples=samples)) == {}


def test_shifts_survive_the_file_and_are_written() -> None:
    graph = chain()
    plan = solved(graph)
    shift = np.arange(6, dtype=np.float32) / 7
    again = Plan.from_json(replace(plan, shifts={"c": shift}).to_json())
    np.testing.assert_array_equal(again.shifts["c"], shift)
    stored = [{t.name: t for t in ir.all_tensors(lowered(graph, one)).values()} for one in (plan, again)]
    scale = quant_of(plan, "c").scale
    assert scale is not None
    plain, moved = (tensors["c_quantized"] for tensors in stored)
    assert ir.is_constant(plain) and ir.is_constant(moved)
    np.testing.assert_allclose((moved.values - plain.values) * scale, shift, atol=float(scale.max()))
    with pytest.raises(PassError, match=r"is of another model \(its shift is for shape \[5\]"):
        lowered(graph, replace(plan, shifts={"c": shift[:5]}))


def test_a_bias_in_float_is_corrected_where_its_node_works_on_codes() -> None:
    graph = chain()
    plan = solved(graph)
    sites = {site: quant for site, quant in plan.sites.items() if site.index != 2}
    shift = {"c": np.ones(6, np.float32)}
    coded = lowered(graph, replace(plan, sites=sites, shifts=shift))
    plain = lowered(graph, replace(plan, sites=sites, shifts=shift, intended=frozenset()))
    with session(coded) as moved, session(plain) as still:
        feed, step = feeds(graph, 1)[0], float(numbers(quant_of(plan, "y"))[0])
        np.testing.assert_allclose(run(moved, feed)[0], run(still, feed)[0] + 1.0, atol=step)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.integers(1, 9), st.floats(-10, 10), st.integers(0, 2**16))
def test_the_likely_mean_lies_between_zero_and_the_mean(count: int, channels: int, centre: float, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(centre, 1.0, (count, channels)).astype(np.float32)
    mean, likely = rows.mean(axis=0), likely_mean(rows)
    assert likely.dtype == np.float32 and np.all(np.abs(likely) <= np.abs(mean) + 1e-6)
    assert np.all(likely * mean >= 0.0)
