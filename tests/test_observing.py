"""The observer that measures best: a wide one where values matter that a narrow one cuts off."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program

import qcompiler
from qcompiler import ir
from qcompiler.errors import TargetError
from qcompiler.observing import chosen


@pytest.mark.parametrize(
    ("decibels", "best"),
    [
        pytest.param({"minmax": 20, "percentile": 25, "entropy": 30, "mse": 27}, "entropy", id="each is surely better"),
        pytest.param(
            {"minmax": 20, "percentile": 25, "entropy": 26.4, "mse": 25.5}, "entropy", id="than the best so far"
        ),
        pytest.param(
            {"minmax": 20, "percentile": 25, "entropy": 25.9, "mse": 25.5}, "percentile", id="narrower, not surely"
        ),
        pytest.param({"minmax": 25, "percentile": 25.5, "entropy": 1, "mse": 20}, "minmax", id="the widest"),
        pytest.param({"minmax": np.inf, "percentile": np.inf, "entropy": 1, "mse": 20}, "minmax", id="exact"),
    ],
)
def test_a_narrower_range_must_be_surely_better(decibels: dict[str, float], best: str) -> None:
    assert chosen(decibels) == best


def spiked(heard: float) -> tuple[ir.Graph, list[dict[str, np.ndarray]]]:
    """A product of rows that hold a few values far beyond the others, of which ``heard`` reaches the output."""
    random = np.random.default_rng(0)
    w = random.normal(size=(64, 16)).astype(np.float32)
    w[0] *= heard
    graph = program("(float[256,64] x) => (float[256,16] y) { y = MatMul(x, w) }", {"w": w})
    feeds = [{"x": random.normal(size=(256, 64)).astype(np.float32)} for _ in range(8)]
    for feed in feeds:
        feed["x"][::64, 0] = 60.0
    return graph, feeds


@pytest.mark.parametrize(("heard", "kept"), [(1.0, True), (0.0, False)])
def test_what_the_outputs_hear_decides(heard: float, kept: bool) -> None:
    graph, feeds = spiked(heard)
    options = qcompiler.Options(timing=False, passes=("-smooth-matmul",))
    plan = qcompiler.compile(ir.to_proto(graph), feeds, options=options).plan
    assert plan is not None
    quant = next(quant for site, quant in plan.sites.items() if site.tensor == "x")
    assert quant.scale is not None
    assert (float(quant.scale) * 255 > 60) == kept


def test_without_samples_it_is_the_usual_one() -> None:
    graph, feeds = spiked(1.0)
    statistics = qcompiler.compile(ir.to_proto(graph), feeds, options=qcompiler.Options(timing=False)).statistics

    def made(observer: str) -> bytes:
        options = qcompiler.Options(timing=False, observer=observer)
        return qcompiler.compile(ir.to_proto(graph), statistics=statistics, options=options).model.SerializeToString()

    assert made("") == made("mse") != made("minmax")


def test_an_unknown_observer() -> None:
    graph, feeds = spiked(1.0)
    with pytest.raises(TargetError, match="there is no observer 'guess'; use one of minmax"):
        qcompiler.compile(ir.to_proto(graph), feeds, options=qcompiler.Options(observer="guess"))
