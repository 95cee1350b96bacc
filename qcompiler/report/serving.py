"""What it costs to serve a model, by what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler.report.record import Report

HOUR = 3600.0
MANY = 1_000_000


@dataclass(frozen=True)
class Serving:
    """``requests``: runs of the model a second on one core; ``memory``: bytes that a replica takes at its peak, None
    where that was not measured; ``many``: what ``MANY`` requests cost, None where no price is known."""

    requests: float
    memory: int | None
    many: float | None


def serving(report: Report, price_per_hour: float | None = None) -> tuple[Serving, Serving] | None:
    """Of the source and of the compiled model, None where speed was not measured. ``price_per_hour``: of one core."""
    speed, memory = report.speed, report.memory
    if speed is None or speed.threads < 1 or not (0.0 < speed.source_ms < math.inf and 0.0 < speed.speedup < math.inf):
        return None
    sizes = (memory.source_bytes, memory.compiled_bytes) if memory is not None else (None, None)
    # Ratios of runs side by side hold on a noisy machine; medians of each alone do less.
    seconds = (speed.source_ms / 1e3, speed.source_ms / 1e3 / speed.speedup)
    source, compiled = (
        Serving(
            1.0 / (each * speed.threads),
            size,
            None if price_per_hour is None else MANY * each * speed.threads * price_per_hour / HOUR,
        )
        for each, size in zip(seconds, sizes)
    )
    return source, compiled
