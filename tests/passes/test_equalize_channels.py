"""Channels between convolutions are made to reach alike, by way of the weights on either side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from pass_helpers import feed, program
from planned import decided, weights

import qcompiler
from qcompiler import ir, runtime
from qcompiler.errors import PassError
from qcompiler.passes.equalize_channels import EqualizeChannels
from qcompiler.plan import Plan

DEPTHWISE = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, w, b) h = Relu(a) d = Conv<group = 8, pads = [1,1,1,1]>(h, v) y = Conv(d, u)
}"""
CLIPPED = DEPTHWISE.replace("Relu(a)", "Clip(a, low, high)")
RESIDUAL = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, w, b) d = Conv(a, m) s = Add(a, d) h = Relu(s) y = Conv(h, u)
}"""
ENDS = {"low": np.float32(0.0), "high": np.float32(6.0)}


def uneven() -> dict[str, np.ndarray]:
    """Weights of which the first output channel reaches a hundred times as far as the others."""
    made = weights(w=(8, 4, 1, 1), b=(8,), v=(8, 1, 3, 3), m=(8, 8, 1, 1), u=(4, 8, 1, 1))
    made["w"][1:] *= 0.01
    made["b"][1:] *= 0.01
    made["u"][:, 1:] *= 100.0
    made["m"] *= 0.05
    made["m"][:, 0] *= 0.01
    return made


def equalized(graph: ir.Graph, plan: Plan | None = None) -> tuple[ir.Graph, Plan]:
    return decided(EqualizeChannels(), graph, plan)


def outputs(graph: ir.Graph, values: Mapping[str, np.ndarray]) -> np.ndarray:
    with runtime.session(graph) as model:
        return runtime.run(model, dict(values))[0]


@pytest.mark.parametrize("text", [DEPTHWISE, CLIPPED, RESIDUAL])
def test_channels_reach_alike_and_what_is_computed_stays(text: str) -> None:
    graph = program(text, {**uneven(), **ENDS})
    after, plan = equalized(graph)
    factor = plan.smoothing["equalize-channels: a"]
    assert factor[1:].min() > 5.0 * factor[0] > 0.0
    for seed in range(16):
        values = feed(graph, seed)
        np.testing.assert_allclose(outputs(after, values), outputs(graph, values), rtol=1e-3, atol=1e-3)


def test_a_channel_that_the_bound_of_a_clip_cuts_is_not_raised() -> None:
    made = {**uneven(), **ENDS}
    made["w"][0] *= 10.0
    _, plan = equalized(program(CLIPPED, made))
    factor = plan.smoothing["equalize-channels: a"]
    assert factor[0] == 1.0 and factor[1:].min() > 5.0 and factor.max() <= 16.0


@pytest.mark.parametrize("text", [DEPTHWISE, CLIPPED, RESIDUAL])
def test_it_saves_noise_in_the_compiled_model(text: str) -> None:
    graph = program(text, {**uneven(), **ENDS})
    feeds = [feed(graph, seed) for seed in range(16)]

    def decibels(*passes: str) -> float:
        options = qcompiler.Options(timing=False, improve="fast", passes=passes)
        return qcompiler.compile(graph, feeds, options=options).report.sqnr

    assert decibels() > decibels("-equalize-channels") + 3.0


def test_a_plan_that_has_factors_repeats_them() -> None:
    graph = program(RESIDUAL, uneven())
    once, plan = equalized(graph)
    again, _ = equalized(graph, plan)
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(once).SerializeToString()


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones(3, np.float32), "of another model.*'equalize-channels: a' takes 8 numbers here, not 3"),
        (np.float32([1, 1, 1, 1, 1, 1, 1, 0]), "numbers for 'equalize-channels: a' are not all positive"),
        (np.float32([1, 1, 1, 1, 1, 1, 1, np.inf]), "numbers for 'equalize-channels: a' are not all finite"),
    ],
)
def test_factors_that_do_not_fit(factors: np.ndarray, message: str) -> None:
    with pytest.raises(PassError, match=message):
        equalized(program(RESIDUAL, uneven()), Plan(smoothing={"equalize-channels: a": factors}))


@pytest.mark.parametrize(
    "text",
    [
        DEPTHWISE.replace("Relu(a)", "Sigmoid(a)"),  # does not scale along
        CLIPPED.replace("low, high", "high, low"),  # from below zero or to nowhere
        DEPTHWISE.replace("y = Conv(d, u)", "y = Add(d, h)"),  # the output would be scaled
        RESIDUAL.replace("Add(a, d)", "Mul(a, d)"),
    ],
)
def test_what_does_not_scale_along_is_left_alone(text: str) -> None:
    graph = program(text, {**uneven(), "low": np.float32(-6.0), "high": np.float32(6.0)})
    assert all(node.inputs[1].name != "w" for group in EqualizeChannels().groups(graph) for node in group.makers)


def test_channels_that_reach_alike_are_left_alone() -> None:
    made = weights(w=(1, 4, 1, 1), b=(1,), v=(8, 1, 3, 3), u=(4, 8, 1, 1))
    made |= {"w": np.repeat(made["w"], 8, axis=0), "b": np.repeat(made["b"], 8)}
    graph = program(DEPTHWISE, made)
    _, plan = equalized(graph)
    assert not plan.smoothing
