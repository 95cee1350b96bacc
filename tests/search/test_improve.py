"""What is judged and what may be changed; the whole of it is tested on models in test_compile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, observed, solved, weights

from qcompiler import ir
from qcompiler.calibrate import TensorStatistics
from qcompiler.search import improve
from qcompiler.search.mixture import actions_of
from qcompiler.search.points import before_softmax, measuring_points
from qcompiler.search.sensitivity import contributions

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), u=(4, 4, 1, 1))
CHAIN = """(float[1,3,8,8] x) => (float[1,4,6,6] y) {
    a = Conv(x, w) b = Relu(a) s = Sigmoid(b) m = Mul(b, s) c = Conv(m, v) t = Tanh(c) y = Conv(t, u)
}"""


def inferred(text: str, constants: dict[str, np.ndarray]) -> ir.Graph:
    graph = program(text, constants)
    ir.infer_shapes(graph)
    return graph


def test_outputs_are_judged_part_by_part() -> None:
    text = """(float[1,4] x) => (float[1,8] y, float[4] z) {
        a = Tanh(x) b = Relu(x) c = Concat<axis = 1>(a, b) y = Identity(c) z = Squeeze(a)
    }"""
    points = measuring_points(inferred(text, {}))
    assert set(points) == {"a", "b"}
    assert points["a"] == 0.0  # a whole output of its own
    assert points["b"] > 0.0


def test_integers_and_inputs_are_not_judged() -> None:
    text = "(float[1,4] x) => (int64[1,1] y, float[4,1] z) { y = ArgMax<axis = 1>(x) z = Transpose(x) }"
    assert measuring_points(inferred(text, {})) == {}


def test_scores_are_judged_before_their_softmax() -> None:
    graph = inferred("(float[1,4] x) => (float[1,4] y) { a = Tanh(x) y = Softmax(a) }", {})
    assert before_softmax(graph, measuring_points(graph)) == {"a": 0.0}


def test_what_lies_between_products_is_one_group() -> None:
    graph = inferred(CHAIN, CONV)
    groups = improve.groups_of(graph, solved(graph))
    assert sorted(map(sorted, groups)) == [["b", "s"], ["c"], ["m"], ["t"], ["x"], ["y"]]


def test_actions_are_products_and_what_follows_them() -> None:
    graph = inferred(CHAIN, CONV)
    plan = solved(graph)
    assert [sorted(action) for action in actions_of(graph, plan)] == [
        ["Conv_0"], ["Conv_4"], ["Conv_6"], ["Mul_3", "Sigmoid_2"],
    ]  # fmt: skip


def test_the_noise_of_weights_follows_from_that_of_activations() -> None:
    """Predicted from the activation's, and measured by rounding the weight alone."""
    graph = inferred("(float[64,32] x) => (float[64,16] y) { m = MatMul(x, w) y = Neg(m) }", weights(w=(32, 16)))
    samples = feeds(graph)
    plan = solved(graph, samples=samples)
    quants = {site.tensor: quant for site, quant in plan.sites.items()}
    trials = [{"x": quants["x"]}, {"w": quants["w"]}]
    x, w = (part["y"] for part in contributions(graph, plan, trials, ["y"], samples))
    predicted = improve.weight_noise(graph, plan, observed(graph, plan, samples), {"x": x})["w"]
    assert abs(10 * math.log10(predicted / w)) < 1.0


def test_mean_square() -> None:
    values = np.random.default_rng(0).normal(size=10000).astype(np.float32)
    assert improve.mean_square(TensorStatistics.of(values)) == pytest.approx(np.mean(values**2), rel=0.01)


def test_speed_is_worth_nothing_more_than_fidelity_below_the_floor() -> None:
    floor = improve.FLOOR
    assert improve.worth(floor, 1.0) == 0.0
    assert improve.worth(floor - 3, 1.0) < improve.worth(floor - 2, 1.1)
    assert improve.worth(floor + 30, 1.0) < improve.worth(floor + 30, 0.5)
    assert improve.worth(floor + 1, 1.0) > improve.worth(floor, 1.0)


def test_feeds_are_spaced_evenly() -> None:
    many = [{"x": np.array(index)} for index in range(10)]
    assert [int(feed["x"]) for feed in improve.spaced(many, 4)] == [0, 2, 5, 7]
    assert improve.spaced(many, 12) == many
