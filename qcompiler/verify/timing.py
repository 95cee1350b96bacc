"""Speed, measured so that it holds on a noisy machine: interleaved runs, ratios taken pair by pair, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from qcompiler.runtime import Feed, run


@dataclass(frozen=True)
class Timing:
    """Seconds of one run of each model: ``median`` and quartiles; ``speedup``: the median of the pairwise ratios of
    the first model's time to this one's, with its quartiles."""

    median: float
    low: float
    high: float
    speedup: float
    speedup_low: float
    speedup_high: float
    rounds: int


def interleaved(
    sessions: Mapping[str, ort.InferenceSession],
    feeds: Sequence[Feed],
    *,
    seconds: float = 2.0,
    least: int = 5,
    most: int = 2000,
) -> dict[str, Timing]:
    """Runs the sessions in turn over the feeds for about ``seconds`` in all; others are compared to the first."""
    names = list(sessions)
    for name in names:
        run(sessions[name], feeds[0])
    taken: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    for count in range(most):
        if count >= least and time.perf_counter() > stop:
            break
        feed = feeds[count % len(feeds)]
        for name in names if count % 2 == 0 else reversed(names):
            start = time.perf_counter()
            run(sessions[name], feed)
            taken[name].append(time.perf_counter() - start)
    base = taken[names[0]]
    return {name: _summary(base, taken[name]) for name in names}


def _summary(base: list[float], own: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(base, own)]
    low, _, high = statistics.quantiles(own, n=4)
    slow, _, fast = statistics.quantiles(ratios, n=4)
    return Timing(statistics.median(own), low, high, statistics.median(ratios), slow, fast, len(own))
