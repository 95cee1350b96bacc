"""Weights rounded with what they are multiplied with in mind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pass_helpers import program
from planned import branches, feeds, lowered, solved, weights

from qcompiler import ir
from qcompiler.calibrate import second_moments
from qcompiler.passes.round_weights import RoundWeights, compensated, factored
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.runtime import run, session

CONV = "(float[2,6,12,12] x) => (float y) { a = Conv <pads = [1,1,1,1]> (x, w) y = Conv <group = 8> (a, v) }"


def smooth(graph: ir.Graph, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Feeds whose neighbouring entries go together, as those of pictures do, around a mean."""
    made = []
    for feed in feeds(graph, count):
        made.append({k: (np.cumsum(v, axis=-1) / 4 + 1).astype(np.float32) for k, v in feed.items()})
    return made


def rounded(graph: ir.Graph, samples: list[dict[str, np.ndarray]]) -> tuple[Plan, Plan, list[str]]:
    """The plan rounded to nearest, the one rounded by the pass, and what the pass says."""
    plan, one = solved(graph, samples=samples), RoundWeights()
    moments = second_moments(graph, one.wanted(graph, plan), samples)
    result = one.run(graph, PassContext(plan=plan, moments=moments))
    assert result.plan is not None
    return plan, result.plan, [str(d) for d in result.diagnostics]


def weight_error(graph: ir.Graph, plan: Plan, samples: list[dict[str, np.ndarray]]) -> float:
    """Power of the error at the outputs when the weights alone are rounded."""
    only = {site: quant for site, quant in plan.sites.items() if quant.origin == "weights"}
    coded = lowered(graph, Plan(sites=only, rounding=plan.rounding))
    with session(graph) as exact, session(coded) as own:
        return sum(float(np.sum((a - b) ** 2)) for f in samples for a, b in zip(run(exact, f), run(own, f)))


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (CONV, weights(w=(8, 6, 3, 3), v=(8, 1, 3, 3))),
        ("(float[2,6,30] x) => (float y) { y = Conv <strides = [2], dilations = [3]> (x, w) }", weights(w=(8, 6, 5))),
        ("(float[8,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 24))),
        ("(float[8,64] x) => (float y) { y = Gemm <transB = 1> (x, w, b) }", weights(w=(24, 64), b=(24,))),
        ("(float[4,700] x) => (float y) { y = MatMul(x, w) }", weights(w=(700, 8))),  # in two parts
    ],
)
def test_other_samples_see_less_noise(text: str, constants: dict[str, np.ndarray]) -> None:
    graph = program(text, constants)
    ir.infer_shapes(graph)
    samples = smooth(graph, 16)
    nearest, found, said = rounded(graph, samples[:12])
    assert set(found.rounding) == {name for name in constants if name != "b"}
    assert all("dB less noise" in line for line in said) and len(said) == len(found.rounding)
    assert weight_error(graph, found, samples[12:]) < 0.5 * weight_error(graph, nearest, samples[12:])


def test_where_inputs_do_not_go_together_nearest_stays() -> None:
    graph = program("(float[64,32] x) => (float y) { y = MatMul(x, w) }", weights(w=(32, 16)))
    ir.infer_shapes(graph)
    _, found, said = rounded(graph, feeds(graph, 16))
    assert dict(found.rounding) == {} and said == []


def test_one_sample_is_enough() -> None:
    graph = program(CONV, weights(w=(8, 6, 3, 3), v=(8, 1, 3, 3)))
    ir.infer_shapes(graph)
    assert set(rounded(graph, smooth(graph, 1))[1].rounding) == {"w", "v"}


def test_a_weight_in_a_body_or_read_in_two_ways_is_refused() -> None:
    graph = branches()
    ir.infer_shapes(graph)
    samples = [{**feed, "flag": np.array(index % 2 == 0)} for index, feed in enumerate(feeds(graph))]
    plan = solved(graph, samples=samples)
    assert any(quant.origin == "weights" for quant in plan.sites.values())
    assert RoundWeights().wanted(graph, plan) == {}
    text = "(float[8,32] x) => (float y, float z) { y = MatMul(x, w) z = Gemm <transB = 1> (x, w, b) }"
    graph = program(text, weights(w=(32, 32), b=(32,)))
    ir.infer_shapes(graph)
    assert RoundWeights().wanted(graph, solved(graph, samples=feeds(graph))) == {}


def test_rounding_survives_the_file_and_is_written() -> None:
    graph = program(CONV, weights(w=(8, 6, 3, 3), v=(8, 1, 3, 3)))
    ir.infer_shapes(graph)
    nearest, found, _ = rounded(graph, smooth(graph))
    again = Plan.from_json(found.to_json())
    assert again == found
    stored = {t.name: t.values for t in ir.all_tensors(lowered(graph, again)).values() if ir.is_constant(t)}
    plain = {t.name: t.values for t in ir.all_tensors(lowered(graph, nearest)).values() if ir.is_constant(t)}
    change = stored["w_quantized"].astype(int) - plain["w_quantized"]
    np.testing.assert_array_equal(change, found.rounding["w"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(48, 64), st.sampled_from([2, 5, 12, 40]), st.integers(0, 2**16))
def test_codes_are_whole_and_make_less_noise(groups: int, outputs: int, inputs: int, seed: int) -> None:
    """Whatever the moments, where the codes have room to move and there are enough outputs for luck not to count."""
    random = np.random.default_rng(seed)
    exact = random.uniform(-100, 100, (groups, outputs, inputs))
    rows = random.normal(size=(groups, 50, inputs)) @ random.normal(size=(groups, inputs, inputs))
    moment = rows.swapaxes(1, 2) @ rows
    low, high = np.full((groups, 1, 1), -127.0), np.full((groups, 1, 1), 127.0)
    codes = compensated(exact, factored(moment, 1e-6), low, high)
    assert codes.shape == exact.shape and np.array_equal(codes, np.rint(codes)) and np.abs(codes).max() <= 127
    assume(np.abs(codes).max() < 127)  # an end that stops one leaves the others with what they made ready for it
    nearest = np.rint(exact)
    before, after = (np.sum(((exact - c) @ moment) * (exact - c)) for c in (nearest, codes))
    assert after <= before * (1.0 + 1e-9)


def test_codes_stay_in_range() -> None:
    """Outputs sum one and the same input twice: what the first weight lacks, the second may not make up for."""
    low, high = np.full((1, 1, 1), -7.0), np.full((1, 1, 1), 7.0)
    codes = compensated(np.array([[[9.0, 6.9]]]), factored(np.ones((1, 2, 2)), 0.02), low, high)
    np.testing.assert_array_equal(codes, [[[7.0, 7.0]]])
    own = np.array([[[5.0, 6.0]]])
    codes = compensated(np.array([[[9.0, 6.9]]]), factored(np.ones((1, 2, 2)), 0.02), -own, own)
    np.testing.assert_array_equal(codes, [[[5.0, 6.0]]])


def test_one_input_is_rounded_to_nearest() -> None:
    exact = np.array([[[1.6], [-2.4]]])
    low, high = np.full((1, 1, 1), -7.0), np.full((1, 1, 1), 7.0)
    np.testing.assert_array_equal(compensated(exact, factored(np.ones((1, 1, 1)), 0.02), low, high), [[[2.0], [-2.0]]])


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    codes = compensated(
        np.full((1, 2, 3), 0.6), factored(np.zeros((1, 3, 3)), 0.02), np.full((1, 1, 1), -7.0), np.full((1, 1, 1), 7.0)
    )
    np.testing.assert_array_equal(codes, np.ones((1, 2, 3)))


@pytest.mark.parametrize("size", [1e-18, 1e-21, 0.0])
def test_inputs_that_are_next_to_zero_do_no_harm(size: float) -> None:
    graph = program("(float[8,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 24)))
    ir.infer_shapes(graph)
    samples = [{"x": (feed["x"] * size).astype(np.float32)} for feed in smooth(graph)]
    _, plan, _ = rounded(graph, samples)
    assert all(np.isfinite(change).all() for change in plan.rounding.values())


def test_moments_that_cannot_be_factored_leave_a_weight_alone() -> None:
    graph = program("(float[8,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 24)))
    ir.infer_shapes(graph)
    plan, one = solved(graph, samples=smooth(graph)), RoundWeights()
    moments = second_moments(graph, one.wanted(graph, plan), smooth(graph))
    for moment in moments["w"].fitted:
        moment[...] = np.inf
    result = one.run(graph, PassContext(plan=plan, moments=moments))
    assert result.plan is not None and not result.plan.rounding
    assert [str(d) for d in result.diagnostics] == ["w: rounded to nearest: its inputs' moments cannot be factored"]
