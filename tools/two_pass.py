"""Ranges as two passes over kept activations find them: the extremes first, then linear bins between these.

What the one-pass, logarithmic histograms of ``qcompiler.calibrate`` are held against. Nothing of them is used here, and
searches are plain. The values of a bin are taken to be spread evenly over it: as if all lay in its middle, a range that
keeps 8,192 bins is up to 2.4 % away from the one that the values themselves ask for (measured on ppocr4-rec), which is
0.3 % so.
"""

from __future__ import annotations

import numpy as np

CODES = 255


def linear_bins(x: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """(counts ``[bins]``, edges ``[bins + 1]``) of all values, between the extremes and zero."""
    return np.histogram(x, bins, (min(x.min(), 0.0), max(x.max(), 0.0)))


def percentile(x: np.ndarray, bins: int, share: float = 0.99999) -> tuple[float, float]:
    """numpy.quantile's definition: linear between the two nearest ranks; the extremes are exact."""
    counts, edges = linear_bins(x, bins)
    below = np.cumsum(counts)

    def ranked(rank: float) -> float:
        if rank <= 0 or rank >= below[-1] - 1:
            return float(x.min() if rank <= 0 else x.max())
        index = int(np.searchsorted(below, rank, "right"))
        within = (rank - (below[index] - counts[index]) + 0.5) / counts[index]
        return float(edges[index] + within * (edges[index + 1] - edges[index]))

    def quantile(part: float) -> float:
        rank = part * (below[-1] - 1)
        before = np.floor(rank)
        return ranked(before) + (rank - before) * (ranked(before + 1) - ranked(before))

    return min(quantile((1 - share) / 2), 0.0), max(quantile((1 + share) / 2), 0.0)


def mse(x: np.ndarray, bins: int) -> tuple[float, float]:
    """The range with the smallest squared error of uint8 codes, from coarse to fine. A value beyond an end costs the
    square of its distance to it, one within half a step of zero its own square, every other one step² / 12."""
    counts, edges = linear_bins(x[x != 0], bins)  # exact zeros cost nothing
    lower, upper = edges[:-1][counts > 0], edges[1:][counts > 0]
    density = counts[counts > 0] / (upper - lower)

    def error(low: float, high: float) -> float:
        step = (high - low) / CODES

        def squares(first: float, last: float, around: float) -> np.ndarray:
            return ((np.clip(upper, first, last) - around) ** 3 - (np.clip(lower, first, last) - around) ** 3) / 3

        def width(first: float, last: float) -> np.ndarray:
            return np.clip(upper, first, last) - np.clip(lower, first, last)

        inner = max(low, -step / 2), min(high, step / 2)
        clipped = squares(-np.inf, low, low) + squares(high, np.inf, high)
        rounded = (width(low, high) - width(*inner)) * step**2 / 12
        return float(density @ (clipped + squares(*inner, 0.0) + rounded))

    ends = edges[0], edges[-1]
    lows = highs = 1.15 ** -np.arange(14.0)
    step = 1.15
    for _ in range(5):
        lows, highs = (lows if ends[0] else np.ones(1)), (highs if ends[1] else np.ones(1))
        _, a, b = min((error(ends[0] * a, ends[1] * b), a, b) for a in lows for b in highs)
        lows, highs = (np.minimum(best * step ** (np.arange(-4, 5) / 4), 1) for best in (a, b))
        step **= 1 / 3
    return float(ends[0] * a), float(ends[1] * b)


def error(x: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of the values themselves in uint8 codes of this range."""
    step = (high - low) / CODES
    zero = np.rint(-low / step)
    return float(np.mean(((np.clip(np.rint(x / step) + zero, 0, CODES) - zero) * step - x) ** 2))
