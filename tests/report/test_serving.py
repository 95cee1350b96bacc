"""What serving costs: per core, whatever the number of threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report.reports import full

from qcompiler.report import Report, SpeedRecord
from qcompiler.report.serving import serving


def test_requests_and_money() -> None:
    report = replace(full(), speed=SpeedRecord(10.0, 4.0, 2.5, 2.4, 2.6, 1, 100))
    found = serving(report, 3.6)
    assert found is not None
    source, compiled = found
    assert (source.requests, compiled.requests) == pytest.approx((100.0, 250.0))
    assert (source.many, compiled.many) == pytest.approx((10.0, 4.0))  # 10,000 and 4,000 s, 0.001 a second
    assert (source.memory, compiled.memory) == (60_000_000, 24_000_000)


def test_a_core_of_two_threads_serves_half() -> None:
    found = serving(replace(full(), speed=SpeedRecord(10.0, 4.0, 2.5, 2.4, 2.6, 2, 100)), 3.6)
    assert found is not None and found[0].requests == pytest.approx(50.0) and found[0].many == pytest.approx(20.0)


def test_without_a_price_or_memory_or_speed() -> None:
    found = serving(replace(full(), memory=None))
    assert found is not None and found[0].many is None and found[1].memory is None
    assert serving(Report()) is None


@pytest.mark.parametrize("wrong", [{"source_ms": 0.0}, {"speedup": 0.0}, {"speedup": float("nan")}, {"threads": 0}])
def test_numbers_that_cannot_be_are_not_divided_by(wrong: dict[str, float]) -> None:
    speed = full().speed
    assert speed is not None and serving(replace(full(), speed=replace(speed, **wrong))) is None
