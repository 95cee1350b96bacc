"""Axes, lines and bars: everything in its place, whatever the numbers are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report.reports import full

from qcompiler.report.charts import axis, bars, chart, place_in

ANYTHING = st.lists(st.floats(), max_size=20)


@given(ANYTHING)
@example([5e-324])
@example([0.0, 1e-289])
@example([-1e299, 1e299])
def test_an_axis_holds_its_values_between_a_few_round_marks(values: list[float]) -> None:
    found = axis(values)
    assert found.low < found.high and 2 <= len(found.ticks) <= 8
    assert found.ticks[0] == found.low and found.ticks[-1] == found.high
    for value in values:
        assert 0.0 <= found.place(value) <= 1.0
        if math.isfinite(value) and abs(value) < 1e300:
            slack = 1e-6 * (found.high - found.low)
            assert found.low - slack <= value <= found.high + slack


def test_marks_are_round() -> None:
    assert axis([15.2, 38.0]).ticks == (15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
    assert axis([1.4, 2.3]).ticks == pytest.approx((1.4, 1.6, 1.8, 2.0, 2.2, 2.4))
    assert axis([0, 100]).ticks == (0, 20, 40, 60, 80, 100)
    assert axis([]).low < 0 < axis([]).high


def test_a_line_goes_through_its_points() -> None:
    assert chart([(0.0, 0.0), (50.0, 100.0), (100.0, 50.0)]).line == "M0.0 1000.0L500.0 0.0L1000.0 500.0"
    assert chart([(0.0, math.inf), (50.0, math.nan)]).line == ""
    assert chart([(0.0, 0.0)], [(100.0, 10.0)]).across.high == 100.0


@given(ANYTHING, ANYTHING)
def test_a_chart_stands_any_numbers(xs: list[float], ys: list[float]) -> None:
    found = chart(list(zip(xs, ys)))
    assert "nan" not in found.line and "inf" not in found.line


def test_bars_stand_for_counts_and_tell_which_are_clipped() -> None:
    one = full().histograms[0]
    found = bars(one)
    assert len(found) == sum(count > 0 for count in one.counts)
    assert max(bar.height for bar in found) == 1.0 and min(bar.height for bar in found) > 0.0
    assert [bar.outside for bar in found] == [True] + [False] * 7 + [True]
    assert [place_in(one, value) for value in (-5.0, 0.0, 5.0, 99.0)] == [0.0, 0.5, 1.0, 1.0]


@given(st.floats(), st.floats(), st.lists(st.integers(-5, 2**70), max_size=5))
def test_bars_stand_any_numbers(low: float, high: float, counts: list[int]) -> None:
    one = replace(full().histograms[0], low=low, high=high, counts=counts)
    assert all(0.0 < bar.height <= 1.0 and 0.0 <= bar.left < 1.0 for bar in bars(one))
    assert 0.0 <= place_in(one, 1.0) <= 1.0
