"""Channels between convolutions are mixed so that rounding makes the least noise, by way of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import feed, outputs, program
from planned import decided, weights

import qcompiler
from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes.mix_channels import MixChannels, _inverse, _product, best_transform
from qcompiler.plan import Plan

CHAIN = """(float[N,4,16,16] x) => (float[N,4,16,16] y) {
    a = Conv(x, w, b) y = Conv<pads = [1,1,1,1]>(a, u)
}"""
KEY = "mix-channels: a"
RESIDUAL = """(float[N,4,16,16] x) => (float[N,4,16,16] y) {
    a = Conv(x, w, b) d = Conv(a, m) s = Add(a, d) y = Conv<pads = [1,1,1,1]>(s, u)
}"""


def correlated() -> dict[str, np.ndarray]:
    """What eight channels hold is of four kinds, one of which reaches farthest in all of them and is hardly read."""
    made = weights(w=(8, 4, 1, 1), b=(8,), m=(8, 8, 1, 1), u=(4, 8, 3, 3))
    generator = np.random.default_rng(5)
    loud = generator.standard_normal(8).astype(np.float32)
    made["w"] = 0.02 * made["w"]
    made["w"][:, 0, 0, 0] += loud
    made["b"] *= 0.02
    made["m"] *= 0.02
    along = loud / np.linalg.norm(loud)
    made["u"] = made["u"] - np.einsum("oixy,i,j->ojxy", made["u"], along, along)
    return {name: values.astype(np.float32) for name, values in made.items()}


def mixed(graph: ir.Graph, plan: Plan | None = None) -> tuple[ir.Graph, Plan]:
    return decided(MixChannels(), graph, plan)


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL])
def test_channels_are_mixed_and_what_is_computed_stays(text: str) -> None:
    graph = program(text, correlated())
    after, plan = mixed(graph)
    transform = plan.smoothing[KEY]
    assert transform.shape == (8, 8) and np.abs(transform - np.diag(np.diag(transform))).max() > 0.1
    for seed in range(4):
        values = feed(graph, seed)
        np.testing.assert_allclose(outputs(after, values)["y"], outputs(graph, values)["y"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL])
def test_it_saves_noise_in_the_compiled_model(text: str) -> None:
    graph = program(text, correlated())
    feeds = [feed(graph, seed) for seed in range(48)]

    def decibels(*passes: str) -> float:
        options = qcompiler.Options(timing=False, passes=("-equalize-channels", *passes))
        return qcompiler.compile(graph, feeds, options=options).report.sqnr

    assert decibels() > decibels("-mix-channels") + 3.0


def test_a_plan_repeats_it() -> None:
    graph = program(RESIDUAL, correlated())
    once, plan = mixed(graph)
    again, repeated = mixed(graph, Plan.from_json(plan.to_json()))
    np.testing.assert_array_equal(repeated.smoothing[KEY], plan.smoothing[KEY])
    values = feed(graph)
    np.testing.assert_array_equal(outputs(again, values)["y"], outputs(once, values)["y"])


@pytest.mark.parametrize(
    "text",
    [
        CHAIN.replace("y = Conv<pads = [1,1,1,1]>(a, u)", "h = Relu(a) y = Conv<pads = [1,1,1,1]>(h, u)"),
        "(float[N,4,16,16] x) => (float[N,8,16,16] y) { a = Conv(x, w, b) y = Conv<group = 8>(a, v) }",
        CHAIN.replace("=> (float[N,4,16,16] y)", "=> (float[N,4,16,16] y, float[N,8,16,16] a)"),
        "(float[N,4,16,16] x, float[N,8,16,16] z) => (float[N,4,16,16] y) {"
        " a = Conv(x, w, b) s = Add(a, z) y = Conv(s, t) }",
    ],
    ids=["each channel is looked at", "each channel is convolved alone", "it is an output", "of what is not made here"],
)  # fmt: skip
def test_refused(text: str) -> None:
    graph = program(text, {**correlated(), **weights(v=(8, 1, 1, 1), t=(4, 8, 1, 1))})
    ir.infer_shapes(graph)
    assert not MixChannels().groups(graph)


@given(st.integers(1, 24), st.integers(0, 9))
def test_its_arithmetic_is_that_of_matrices(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix, other = random.standard_normal((size, size)), random.standard_normal((size, 5))
    np.testing.assert_allclose(_product(matrix, other), matrix @ other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(_product(_inverse(matrix), matrix), np.eye(size), atol=1e-7)


def test_too_few_rows_tell_nothing() -> None:
    graph = program(CHAIN, correlated())
    ir.infer_shapes(graph)
    (group,) = MixChannels().groups(graph)
    rows = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    transform, gain = best_transform(group, {"a": rows}, symmetric=False)
    assert gain == 0.0 and np.array_equal(transform, np.eye(8))


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda given: given[:4, :4], "of another model.*'mix-channels: a' takes 8 x 8 numbers here, not 4 x 4"),
        (lambda given: given[0], "of another model.*takes 8 x 8 numbers here, not 8"),
        (lambda given: given * np.float32("nan"), "numbers for 'mix-channels: a' are not all finite"),
        (lambda given: np.ones_like(given), "numbers for 'mix-channels: a' have no inverse"),
    ],
)
def test_transforms_that_do_not_fit(spoiled: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    graph = program(CHAIN, correlated())
    _, plan = mixed(graph)
    foreign = replace(plan, smoothing={KEY: spoiled(plan.smoothing[KEY])})
    with pytest.raises(PassError, match=message):
        mixed(graph, foreign)
