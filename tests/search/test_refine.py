from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import placed, solved, weights

import qcompiler
from qcompiler.passes.place_dynamic import PlaceDynamic
from qcompiler.plan import Plan
from qcompiler.report import FrontRecord
from qcompiler.search import improve
from qcompiler.search.free import overall
from qcompiler.search.refine import ALIKE, Candidate, corrected, reaching, regions_of, with_numbers_of
from qcompiler.verify.fused import Fate

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))
UNTIMED = qcompiler.Options(timing=False)


def feeds(*shape: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(3)]


def test_a_region_reads_the_same_codes() -> None:
    text = "(float[1,3,8,8] x) => (float y) { a = Conv(x, w) b1 = Conv(a, v) s = Add(a, b1) y = Conv(s, u) }"
    graph = program(text, {**CONV, **weights(u=(4, 4, 1, 1))})
    assert sorted(map(sorted, regions_of(placed(graph)))) == [["Add_2", "Conv_1"], ["Conv_0"], ["Conv_3"]]


def test_dynamic_products_of_one_tensor_are_a_region() -> None:
    text = "(float[2,32] x) => (float y) { a = MatMul(x, w) b = MatMul(x, v) s = Add(a, b) y = MatMul(s, u) }"
    graph = program(text, weights(w=(32, 32), v=(32, 32), u=(32, 32)))
    regions = regions_of(placed(graph, by=PlaceDynamic()))
    assert sorted(map(sorted, regions)) == [["MatMul_0", "MatMul_1"], ["MatMul_3"]]


def test_an_empty_plan_has_no_regions() -> None:
    assert regions_of(Plan()) == []


@pytest.mark.parametrize(("times", "kept"), [(1.1, True), (0.9, True), (ALIKE * 1.01, False), (1.0, False)])
def test_steps_about_the_same_are_those_that_were_measured(times: float, kept: bool) -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { a = Conv(x, w) y = Conv(a, v) }", CONV)
    fresh, before = placed(graph), solved(graph)
    anew = dict(before.sites)
    for site, quant in before.sites.items():
        if site.tensor == "a":
            assert quant.scale is not None
            anew[site] = replace(quant, scale=quant.scale * np.float32(times))
    found = with_numbers_of(before, fresh, replace(before, sites=anew))
    known = {site: quant for site, quant in found.sites.items() if quant.origin != "unsolved"}
    assert {site.tensor for site in known} == ({"a"} if kept else set())
    assert all(quant == before.sites[site] for site, quant in known.items())


def test_fates_of_nodes() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) t = Tanh(c) y = Conv(t, v) }", CONV)
    forms = {
        "Conv_0": Fate("Conv_0", "QLinearConv", True),
        "Conv_2": Fate("Conv_2", "Conv", False, "'t' is dequantized before it"),
    }
    plan = Plan(intended=frozenset({"Conv_0", "Conv_2"}), kept={"Tanh_1": "asked for"})
    assert [fate[2:] for fate in Candidate(graph, plan, forms).fates(graph)] == [
        ("int8", "QLinearConv", ""),
        ("float", "Tanh", "asked for"),
        ("float", "Conv", "'t' is dequantized before it"),
    ]


def test_the_report_tells_each_nodes_fate() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) t = Tanh(c) y = Conv(t, v) }"
    result = qcompiler.compile(program(text, CONV), feeds(1, 3, 8, 8), options=UNTIMED)
    fates = {node.name: node for node in result.report.nodes}
    assert (fates["Conv_0"].precision, fates["Conv_0"].form) == ("int8", "QLinearConv")
    assert (fates["Tanh_1"].precision, fates["Tanh_1"].reason) == ("float", "not fused")


def test_a_given_plan_is_written_as_it_is() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) y = Conv(c, v) }"
    source, data = program(text, CONV), feeds(1, 3, 8, 8)
    first = qcompiler.compile(source, data, options=UNTIMED)
    again = qcompiler.compile(source, data, plan=first.plan)  # with timing: nothing is decided anew
    assert again.plan == first.plan
    assert again.model.SerializeToString() == first.model.SerializeToString()


OPTIONS = [improve.Option({}, decibels, 1.0) for decibels in (10.0, 12.0, 15.0, 15.0, 30.0)]


@pytest.mark.parametrize(
    ("built", "measured", "following"),
    [
        (0, 18.0, 2),  # 3 dB short: the first option that is predicted to be 3 dB better
        (0, 22.0, 5),  # reached, and there is none with less
        (3, 25.0, 1),  # 4 dB to spare: 11 dB would do as predictions go
        (3, 21.5, 2),  # equally good, and less
        (4, 6.0, 5),  # nothing better is left
        (2, 20.0, 4),
    ],
)
def test_what_was_measured_corrects_what_is_built_next(built: int, measured: float, following: int) -> None:
    assert improve.FLOOR == 21.0
    assert reaching(OPTIONS, {built: measured}, built) == following


@pytest.mark.parametrize(
    ("measured", "last", "following"),
    [
        pytest.param({0: 18.0, 4: 27.0}, 4, 1, id="the least between that should do"),
        pytest.param({0: 18.0, 4: 21.1}, 4, 2, id="the middle, where none should"),
        pytest.param({0: 18.0, 1: 27.0}, 1, 5, id="nothing between"),
        pytest.param({0: 18.0, 4: 27.0, 2: 20.0}, 2, 3, id="closer"),
    ],
)
def test_what_falls_short_and_what_reaches_are_brought_together(
    measured: dict[int, float], last: int, following: int
) -> None:
    options = [improve.Option({}, decibels, 1.0) for decibels in (18.0, 19.0, 20.0, 20.5, 24.0)]
    assert reaching(options, measured, last) == following


def test_what_is_told_is_corrected_by_what_was_built() -> None:
    """Built: 2 dB off at 10 dB, 6 dB off at 30; in between in proportion, beyond as at the nearest."""
    told = [5.0, 10.0, 20.0, 30.0, 40.0]
    measured = [None, 8.0, None, 24.0, None]
    front = [FrontRecord(2.0, raw, found, 0) for raw, found in zip(told, measured)]
    found = corrected(front, told)
    assert [point.sqnr_predicted for point in found] == [3.0, 10.0, 16.0, 30.0, 34.0]
    assert [point.sqnr_measured for point in found] == measured


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([55.0, 28.0], [47.0, 29.0], id="what is beyond enough is given for what is short of it"),
        pytest.param([30.0, 31.0], [34.0, 28.0], id="the mean of those that are short"),
        pytest.param([50.0, 60.0], [51.0, 60.0], id="where all have enough, more is better"),
    ],
)
def test_what_outputs_keep_overall(one: list[float], other: list[float]) -> None:
    assert overall(one) < overall(other)
