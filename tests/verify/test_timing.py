from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from qcompiler.verify import timing


class Model:
    """A stand-in for a session that takes as long as it is told, by a clock that only it moves."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def run(self, outputs: Any, feed: Any) -> list[np.ndarray]:
        self.clock[0] += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_ratios_are_taken_pair_by_pair(clock: list[float]) -> None:
    models: dict[str, Any] = {"a": Model(clock, [0.2]), "b": Model(clock, [0.1])}
    found = timing.interleaved(models, [{}], seconds=3.0)
    assert found["b"].speedup == pytest.approx(2.0) and found["a"].speedup == pytest.approx(1.0)
    assert found["a"].median == pytest.approx(0.2) and found["b"].median == pytest.approx(0.1)


def test_a_disturbance_that_hits_both_does_not_count(clock: list[float]) -> None:
    slow = [0.1] * 6 + [1.0] * 4
    models: dict[str, Any] = {"a": Model(clock, slow), "b": Model(clock, [s / 2 for s in slow])}
    assert timing.interleaved(models, [{}], seconds=5.0)["b"].speedup == pytest.approx(2.0)


def test_it_stops_in_time_but_not_too_early(clock: list[float]) -> None:
    models: dict[str, Any] = {"a": Model(clock, [10.0]), "b": Model(clock, [10.0])}
    assert timing.interleaved(models, [{}], seconds=1.0, least=5)["a"].rounds == 5
    quick: dict[str, Any] = {"a": Model(clock, [1e-6]), "b": Model(clock, [1e-6])}
    assert timing.interleaved(quick, [{}], seconds=1.0, most=50)["a"].rounds == 50


def test_feeds_take_turns(clock: list[float]) -> None:
    seen: list[int] = []

    class Watching(Model):
        def run(self, outputs: Any, feed: Any) -> list[np.ndarray]:
            seen.append(feed["x"])
            return super().run(outputs, feed)

    models: dict[str, Any] = {"a": Watching(clock, [1.0]), "b": Model(clock, [1.0])}
    timing.interleaved(models, [{"x": 0}, {"x": 1}], seconds=0.0, least=4, most=4)
    assert seen[-4:] == [0, 1, 0, 1]


def test_it_ends_earlier_where_the_ratio_is_sure(clock: list[float]) -> None:
    steady: dict[str, Any] = {"a": Model(clock, [0.02]), "b": Model(clock, [0.01])}
    found = timing.interleaved(steady, [{}], seconds=100.0, sure=timing.SURE)["b"]
    assert found.rounds == timing.FEWEST and found.speedup == pytest.approx(2.0)
    uneven: dict[str, Any] = {"a": Model(clock, [0.02, 0.01, 0.03]), "b": Model(clock, [0.01])}
    assert timing.interleaved(uneven, [{}], seconds=10.0, sure=timing.SURE)["a"].rounds > 10 * timing.FEWEST
