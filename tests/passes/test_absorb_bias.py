"""What channels always hold goes into the biases of the convolutions that read them."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import decided, weights

import qcompiler
from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes.absorb_bias import AbsorbBias, best_constant
from qcompiler.plan import Plan

RELU = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, w, b) h = Relu(a) y = Conv(h, u, c)
}"""
LINEAR = RELU.replace("h = Relu(a)", "").replace("(h, u, c)", "(a, u, c)")
WITHOUT = RELU.replace("(h, u, c)", "(h, u)")
ALONE = RELU.replace("float[N,4,8,8] y", "float[N,8,6,6] y").replace("Conv(h, u, c)", "Conv<group = 8>(h, v)")


def high() -> dict[str, np.ndarray]:
    """Weights of which half the channels in between never come near zero, far beyond where the others reach."""
    made = weights(w=(8, 4, 1, 1), b=(8,), u=(4, 8, 1, 1), c=(4,), v=(8, 1, 3, 3))
    made["w"] *= 0.2
    made["b"][:4] = 20.0
    return made


def absorbed(graph: ir.Graph, plan: Plan | None = None) -> tuple[ir.Graph, Plan]:
    return decided(AbsorbBias(), graph, plan)


@pytest.mark.parametrize("text", [RELU, LINEAR, WITHOUT, ALONE])
def test_biases_take_it_and_what_is_computed_stays(text: str) -> None:
    graph = program(text, high())
    after, plan = absorbed(graph)
    constant = plan.smoothing["absorb-bias: a"]
    assert constant[:4].min() > 10.0 and np.abs(constant[4:]).max() < 1.0
    for seed in range(4):
        values = feed(graph, seed)
        np.testing.assert_allclose(outputs(after, values)["y"], outputs(graph, values)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", [RELU, LINEAR])
def test_it_saves_noise_in_the_compiled_model(text: str) -> None:
    graph = program(text, high())
    feeds = [feed(graph, seed) for seed in range(48)]

    def decibels(*passes: str) -> float:
        others = ("-mix-channels", "-equalize-channels")
        options = qcompiler.Options(timing=False, passes=(*passes, *others))
        return qcompiler.compile(graph, feeds, options=options).report.sqnr

    assert decibels("+absorb-bias@equalize-channels") > decibels() + 3.0


def test_a_plan_repeats_it() -> None:
    graph = program(RELU, high())
    once, plan = absorbed(graph)
    again, _ = absorbed(graph, Plan.from_json(plan.to_json()))
    values = feed(graph)
    np.testing.assert_array_equal(outputs(again, values)["y"], outputs(once, values)["y"])
    with pytest.raises(PassError, match="of another model"):
        absorbed(graph, Plan(smoothing={"absorb-bias: a": np.ones(5, np.float32)}))


@pytest.mark.parametrize(
    "text",
    [
        RELU.replace("Conv(h, u, c)", "Conv<pads = [1,1,1,1]>(h, s, c)"),
        RELU.replace("Conv(h, u, c)", 'Conv<auto_pad = "SAME_UPPER">(h, s, c)'),
        RELU.replace("Relu(a)", "Sigmoid(a)"),
        RELU.replace("Conv(x, w, b)", "Conv(x, w)"),
        RELU.replace("y) {", "y, float[N,8,8,8] h) {"),
    ],
    ids=["zeros at a border", "of the same size", "another function", "no bias", "an output"],
)
def test_refused(text: str) -> None:
    graph = program(text, {**high(), **weights(s=(4, 8, 3, 3))})
    ir.infer_shapes(graph)
    assert not AbsorbBias().groups(graph)


def test_a_channel_that_comes_to_zero_has_nothing_to_give() -> None:
    values = np.abs(np.random.default_rng(3).standard_normal((256, 4))).astype(np.float32)
    constant, gain = best_constant(values, free=False, symmetric=False)
    assert not constant.any() and gain == 0.0
