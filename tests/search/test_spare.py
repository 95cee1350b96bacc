"""What rounding ruins is found; what it does not is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, solved, weights

from qcompiler import Options, ir
from qcompiler.compiler import compile
from qcompiler.search import spare
from qcompiler.search.sensitivity import Switchboard
from qcompiler.verify import tensorrt

CANCELLING = """(float[n,8,32] x) => (float[n,8,64] y) {
    d = Concat<axis = -1>(x, x) a = MatMul(d, w) t = Tanh(a) b = MatMul(t, v) u = Tanh(b) y = MatMul(u, v)
}"""


def graph(loud: float) -> ir.Graph:
    """A model whose first product is of two halves that cancel, but for a small rest where ``loud`` is large."""
    made = weights(rest=(32, 64), half=(32, 64), v=(64, 64))
    first = np.concatenate([loud * made["half"] + made["rest"] / 8, -loud * made["half"]])
    found = program(CANCELLING, {"w": first.astype(np.float32), "v": made["v"] / 8})
    ir.infer_shapes(found)
    return found


def test_the_one_product_that_rounding_ruins_is_spared() -> None:
    model = graph(100.0)
    found = spare.ruined(model, solved(model), feeds(model))
    assert list(found) == ["MatMul_1"] and found["MatMul_1"] > 0.9


def test_a_model_that_stays_faithful_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    noise = Switchboard.noise
    monkeypatch.setattr(Switchboard, "noise", lambda self, on, *few: runs.append(len(on)) or noise(self, on, *few))
    model = graph(0.0)
    assert spare.ruined(model, solved(model), feeds(model)) == {}
    assert len(runs) == 1  # one look at all of it is enough


def test_what_a_few_nodes_do_not_help_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "FAITHFUL", 90.0)
    model = graph(0.0)
    assert spare.ruined(model, solved(model), feeds(model)) == {}


def test_nothing_to_look_at() -> None:
    model = program("(float[n,4] x) => (float[n,4] y) { y = Tanh(x) }")
    ir.infer_shapes(model)
    assert spare.ruined(model, solved(model), feeds(model)) == {}


@pytest.mark.parametrize("precision", ["int8", "fp8", "nvfp4"])
def test_for_tensorrt_it_stays_in_float_with_the_reason(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    model = graph(100.0)
    result = compile(model, feeds(model), target="tensorrt", precision=precision, options=Options(timing=False))
    assert result.plan is not None
    if precision == "nvfp4":  # the scales of its blocks are found in each run, by no operator that runs here
        assert "MatMul_1" in result.plan.intended
        return
    assert "MatMul_1" not in result.plan.intended and result.plan.intended == {"MatMul_3", "MatMul_5"}
    assert "% of the noise" in result.plan.kept["MatMul_1"]
    assert any(decision.where == ("MatMul_1",) for decision in result.plan.decisions)
    assert result.report.sqnr > 15.0


def test_ranges_are_those_that_the_outputs_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """One large value in a thousand, in a channel that nothing reads: a range that leaves it out is worth more."""
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    made = weights(v=(64, 64))["v"]
    made[0] = 0.0
    model = program("(float[8,64] x) => (float[8,64] y) { t = Identity(x) y = MatMul(t, v) }", {"v": made})
    samples = feeds(model, 8)
    for sample in samples:
        sample["x"][0, 0] = 40.0
    options = Options(timing=False, observer="minmax", passes=("-smooth-matmul",))
    result = compile(model, samples, target="tensorrt", options=options)
    assert result.plan is not None
    ((low, high),) = result.plan.ranges.values()
    assert -40.0 < low < 0.0 < high < 30.0
