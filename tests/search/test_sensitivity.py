"""Sensitivity: what each rounding does to the outputs, and how few runs of the model tell it."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, solved, weights

from qcompiler import ir
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import PerTensor, Scheme
from qcompiler.search import sensitivity
from qcompiler.search.sensitivity import _halved, contributions

LAYERS = 8


def chain() -> ir.Graph:
    """y = - - … x, every step of which can be rounded."""
    x = ir.Variable("x", np.dtype(np.float32), [1, 64])
    graph, tensor = ir.Graph(inputs=[x], opset=17, name="chain"), x
    for index in range(LAYERS):
        made = ir.Variable(f"t{index}", np.dtype(np.float32), [1, 64])
        graph.nodes.append(ir.Node("Neg", f"neg{index}", inputs=[tensor], outputs=[made]))
        tensor = made
    graph.outputs = [tensor]
    return graph


def rounding(step: float) -> TensorQuant:
    return TensorQuant(Scheme("uint8", False, PerTensor())).solved(np.float32(step), np.int64(128), "calibration")


def plan_and_trials(steps: list[float]) -> tuple[Plan, list[dict[str, TensorQuant]]]:
    sites = {Site(f"t{i}", f"neg{i + 1}", 0): rounding(step) for i, step in enumerate(steps)}
    return Plan(sites=sites), [{site.tensor: quant} for site, quant in sites.items()]


FEED = {"x": np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)}


@pytest.mark.parametrize("runs", [None, 100, 7])
def test_a_coarser_step_makes_more_noise(runs: int | None) -> None:
    plan, trials = plan_and_trials([0.5 * 0.7**i for i in range(LAYERS - 1)])
    found = [part[f"t{LAYERS - 1}"] for part in contributions(chain(), plan, trials, ["t7"], [FEED], runs)]
    assert found == sorted(found, reverse=True)
    assert found[0] / found[1] == pytest.approx(2.0, rel=0.3)


def test_where_runs_are_too_few_the_loud_ones_are_found() -> None:
    plan, trials = plan_and_trials([0.04, 0.04, 0.04, 0.04, 1.0, 0.04, 0.04])
    exact = contributions(chain(), plan, trials, ["t7"], [FEED])
    rough = contributions(chain(), plan, trials, ["t7"], [FEED], runs=6)
    assert rough[4]["t7"] == pytest.approx(exact[4]["t7"], rel=0.01)
    assert max(part["t7"] for index, part in enumerate(rough) if index != 4) < 0.01 * rough[4]["t7"]


def test_halving_spends_no_more_runs_than_it_may() -> None:
    noise = np.arange(100.0)
    asked = []

    def measure(first: int, last: int) -> dict[str, float]:
        asked.append((first, last))
        return {"y": float(noise[first:last].sum())}

    found = _halved(measure, 100, 20)
    assert len(asked) <= 21
    assert sum(part["y"] for part in found) == pytest.approx(noise.sum())
    assert _halved(measure, 0, 20) == []
    assert [part["y"] for part in _halved(measure, 4, 100)] == [0, 1, 2, 3]


def test_contributions_add_up_to_what_all_of_them_do() -> None:
    """Of a convolutional net: the sum of what each rounding does alone is within 2 dB of what all do together."""
    text = """(float[2,3,16,16] x) => (float[2,8,10,10] y) {
        a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = Relu(c) s = Add(d, d) y = Conv(s, w3)
    }"""
    graph = program(text, weights(w1=(8, 3, 3, 3), w2=(8, 8, 3, 3), w3=(8, 8, 3, 3)))
    ir.infer_shapes(graph)
    samples = feeds(graph)
    plan = solved(graph, samples=samples)
    trials = [
        {name: next(iter(sites.values()))} for name, sites in plan.tensors().items() if name not in ("y",)
    ]
    predicted = sum(part["y"] for part in contributions(graph, plan, trials, ["y"], samples))
    (together,) = contributions(graph, plan, [{k: v for trial in trials for k, v in trial.items()}], ["y"], samples)
    assert abs(10 * np.log10(predicted / together["y"])) < 2.0


def test_in_segments_each_rounding_makes_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, trials = plan_and_trials([0.5 * 0.7**i for i in range(LAYERS - 1)])
    points = ["t3", "t7"]
    whole = contributions(chain(), plan, trials, points, [FEED, {"x": -2 * FEED["x"]}])
    monkeypatch.setattr(sensitivity, "NODES_A_SEGMENT", 2)
    assert contributions(chain(), plan, trials, points, [FEED, {"x": -2 * FEED["x"]}]) == whole
    assert whole[5]["t3"] == 0.0  # t3 is made before


def test_only_as_many_feeds_as_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MOST_KEPT", 1)
    plan, trials = plan_and_trials([0.1])
    louder = {"x": 100 * FEED["x"]}
    both = contributions(chain(), plan, trials, ["t7"], [FEED, louder])
    assert both == contributions(chain(), plan, trials, ["t7"], [FEED])


def test_of_the_trials_of_one_tensor_the_last_that_is_on_counts() -> None:
    steps = [0.01, 0.5, 0.1]
    plan, _ = plan_and_trials([0.1])
    trials = [{"t0": rounding(step)} for step in steps]
    alone = [contributions(chain(), plan, [trial], ["t7"], [FEED])[0]["t7"] for trial in trials]
    with sensitivity.Switchboard(chain(), plan, trials, ["t7"], [FEED]) as board:
        assert [board.noise([index])["t7"] for index in range(3)] == alone
        assert board.noise([0, 1])["t7"] == alone[1] and board.noise([0, 1, 2])["t7"] == alone[2]
        assert board.noise([])["t7"] == 0.0


def test_where_rounding_changes_a_shape_that_depends_on_values_all_is_lost() -> None:
    text = "(float[64] x) => (float[k] y) { t = Neg(x) p = Abs(t) c = Greater(p, limit) y = Compress(p, c) }"
    graph = program(text, {"limit": np.float32(0.3)})
    trial = {"t": rounding(1.0)}
    plan = Plan(sites={Site("t", "Abs_1", 0): trial["t"]})
    (found,) = contributions(graph, plan, [trial], ["y"], [{"x": np.linspace(0.0, 1.0, 64, dtype=np.float32)}])
    assert found["y"] == 1.0
