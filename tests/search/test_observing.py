"""The observer that measures best: a wide one where values matter that a narrow one cuts off."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program

import qcompiler
from qcompiler import ir
from qcompiler.errors import TargetError
from qcompiler.search.observing import chosen


def of_samples(decibels: float, *, unlike: float = 0.01) -> np.ndarray:
    """Noise of 16 samples that are this much unlike one another."""
    return 10 ** (-decibels / 10) * (1 + unlike * np.linspace(-1, 1, 16))


@pytest.mark.parametrize(
    ("decibels", "best"),
    [
        pytest.param((20, 25, 27, 30), "entropy", id="the best"),
        pytest.param((25, 24.5, 24, 21), "minmax", id="a wider one"),
        pytest.param((20, 25, 25.1, 25.2), "percentile", id="narrower than the usual one, not by enough"),
        pytest.param((25, 24, 25.2, 1), "minmax", id="narrower than a wider one, not by enough"),
        pytest.param((np.inf, np.inf, np.inf, 20), "percentile", id="all alike"),
    ],
)
def test_a_narrower_range_must_gain_more(decibels: tuple[float, ...], best: str) -> None:
    names = ("minmax", "percentile", "mse", "entropy")
    assert chosen({name: of_samples(value) for name, value in zip(names, decibels)}) == best


def alike() -> dict[str, np.ndarray]:
    return {name: of_samples(30) for name in ("minmax", "percentile", "mse", "entropy")}


def test_one_sample_decides_nothing() -> None:
    noise = alike()
    noise["percentile"][3] *= 1000
    assert chosen(noise) == "percentile"
    noise["percentile"] *= 1000
    noise["percentile"][3] /= 1000
    assert chosen(noise) == "minmax"


def test_nearly_all_samples_decide_for_a_wider_range() -> None:
    """Where one sample holds most of the noise, the noise of all tells of that one alone."""
    noise = alike()
    noise["minmax"] /= 3
    for observed in noise.values():
        observed[3] *= 1000
    assert chosen(noise) == "minmax"
    noise["minmax"][3] *= 4
    assert chosen(noise) == "percentile"


def test_for_a_narrower_range_the_loudest_samples_must_gain_too() -> None:
    noise = alike()
    for observed in noise.values():
        observed[3] *= 1000
    noise["entropy"] /= 30
    noise["entropy"][3] *= 30
    assert chosen(noise) == "percentile"
    noise["entropy"][3] /= 1.2
    assert chosen(noise) == "percentile"
    noise["entropy"][3] /= 1.2
    assert chosen(noise) == "entropy"


def test_samples_that_follow_one_another_are_one() -> None:
    """Of 64, eight of one recording make the difference: as sure as one of eight is, not as eight of 64 are."""
    noise = {name: np.ones(64) for name in ("minmax", "percentile")}
    noise["percentile"][8:16] = 2
    assert chosen(noise) == "percentile"
    noise["percentile"][:] = 1
    noise["percentile"][4::8] = 2
    assert chosen(noise) == "minmax"


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

    def made(observer: str) -> qcompiler.Result:
        options = qcompiler.Options(timing=False, observer=observer)
        return qcompiler.compile(ir.to_proto(graph), statistics=statistics, options=options)

    usual, named, other = (made(observer).model.SerializeToString() for observer in ("", "percentile", "minmax"))
    assert usual == named != other
    assert any("observer: percentile: untried: with samples" in decision for decision in made("").report.decisions)
    assert not any("untried" in decision for decision in made("percentile").report.decisions)


def test_an_unknown_observer() -> None:
    graph, feeds = spiked(1.0)
    with pytest.raises(TargetError, match="there is no observer 'guess'; use one of minmax"):
        qcompiler.compile(ir.to_proto(graph), feeds, options=qcompiler.Options(observer="guess"))
