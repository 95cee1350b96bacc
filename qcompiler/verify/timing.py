"""Speed, measured so that it holds on a noisy machine: interleaved runs, ratios taken pair by pair, medians."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from qcompiler.runtime import Feed, run

SURE = 0.003
"""Standard error of a ratio, as a share, that is enough for a decision: below what is told apart from noise."""
FEWEST = 24
"""Rounds that this is told from."""


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
    sure: float = 0.0,
) -> dict[str, Timing]:
    """Runs the sessions in turn over the feeds for about ``seconds`` in all; others are compared to the first.
    ``sure``: the standard error of the ratios, as a share, at which it may end earlier."""
    names = list(sessions)
    for name in names:
        run(sessions[name], feeds[0])
    taken: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    for count in range(most):
        if count >= least and time.perf_counter() > stop:
            break
        if sure and count >= FEWEST and count % 8 == 0 and _error(names, taken) < sure:
            break
        feed = feeds[count % len(feeds)]
        for name in names if count % 2 == 0 else reversed(names):
            start = time.perf_counter()
            run(sessions[name], feed)
            taken[name].append(time.perf_counter() - start)
    base = taken[names[0]]
    return {name: _summary(base, taken[name]) for name in names}


def _error(names: Sequence[str], taken: Mapping[str, Sequence[float]]) -> float:
    """The largest standard error of a median of ratios, as a share of it, from its quartiles as for a normal
    distribution."""
    errors = [0.0]
    for name in names[1:]:
        low, middle, high = statistics.quantiles((a / b for a, b in zip(taken[names[0]], taken[name])), n=4)
        errors.append(1.2533 * (high - low) / 1.349 / (middle * math.sqrt(len(taken[name]))))
    return max(errors)


def _summary(base: list[float], own: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(base, own)]
    low, _, high = statistics.quantiles(own, n=4)
    slow, _, fast = statistics.quantiles(ratios, n=4)
    return Timing(statistics.median(own), low, high, statistics.median(ratios), slow, fast, len(own))
