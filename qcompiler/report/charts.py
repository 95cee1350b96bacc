"""Where things stand in a chart: places are shares of its width or height, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qcompiler.report.record import HistogramRecord

TINY, HUGE = 1e-290, 1e300
"""Numbers beyond these leave no room for steps between them."""


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with marks at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Values beyond an end stand at that end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis(values: Iterable[float], most: int = 5) -> Axis:
    """Around the finite values, with ``most`` steps at most, each 1, 2 or 5 times a power of ten."""
    finite = [value if abs(value) > TINY else 0.0 for value in values if abs(value) < HUGE] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(index * step for index in range(first, last + 1)))


@dataclass(frozen=True)
class Bar:
    """``left`` and ``width`` along the axis; ``height`` up from it; ``outside``: beyond the ends of the codes."""

    left: float
    width: float
    height: float
    outside: bool


def bars(one: HistogramRecord) -> list[Bar]:
    """The bins that hold something, on a logarithmic scale of counts: what is rare is what matters here."""
    top = math.log1p(max([0, *one.counts]))
    width = 1.0 / max(1, len(one.counts))
    found = []
    for index, count in enumerate(one.counts):
        if count > 0:
            middle = one.low + (index + 0.5) * width * (one.high - one.low)
            outside = not one.clip_low <= middle <= one.clip_high
            found.append(Bar(index * width, width, math.log1p(count) / top, outside))
    return found


def place_in(one: HistogramRecord, value: float) -> float:
    """Of a value, along the axis of the histogram."""
    return min(1.0, max(0.0, (value - one.low) / (one.high - one.low))) if one.high > one.low else 0.0


@dataclass(frozen=True)
class Chart:
    """Two axes, and the path of a line in it, in thousandths from the top left as SVG counts."""

    across: Axis
    up: Axis
    line: str


def chart(line: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]] = ()) -> Chart:
    """Around the points of the line, and others; points that are not finite are not in the line."""
    points = [*line, *others]
    across, up = (axis(point[side] for point in points) for side in (0, 1))
    steps = [
        f"{1000.0 * across.place(x):.1f} {1000.0 * (1.0 - up.place(y)):.1f}"
        for x, y in line
        if math.isfinite(x) and math.isfinite(y)
    ]
    return Chart(across, up, f"M{'L'.join(steps)}" if steps else "")
