"""From a histogram to the range that quantization should cover. Every observer is ``f(stats, scheme) -> (low, high)``.

A range always contains zero, as ``numerics.scale_and_zero_point`` wants it to. Values that are not finite are not in
the histogram, and sentinels are left out first (see ``without_sentinels``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.calibrate.statistics import TensorStatistics
from qcompiler.errors import StatisticsError
from qcompiler.scheme import Scheme

Observer = Callable[[TensorStatistics, Scheme], tuple[float, float]]


@dataclass(frozen=True)
class Histogram:
    """The bins in ascending order of value: ``lower <= x <= upper``, float64 [n], and how many fell in, float64 [n]."""

    lower: np.ndarray
    upper: np.ndarray
    counts: np.ndarray

    @property
    def center(self) -> np.ndarray:
        return (self.lower + self.upper) / 2


def histogram(stats: TensorStatistics) -> Histogram:
    """Raises StatisticsError when no finite value was seen."""
    if stats.bins.size == 0:
        why = f"all {stats.bad} values were NaN or infinite" if stats.bad else "it was never computed"
        fix = "give samples that reach it, or leave it in float"
        raise StatisticsError("the tensor has no range", why=why, fix=fix)
    order = np.argsort(np.where(stats.bins >= 0x8000, -(stats.bins.astype(np.int32) - 0x7FFF), stats.bins))
    bins, counts = stats.bins[order].astype(np.uint32), stats.counts[order].astype(np.float64)
    inner = (bins << 16).view(np.float32).astype(np.float64)
    outer = ((bins << 16) | 0xFFFF).view(np.float32).astype(np.float64)
    lower, upper = np.minimum(inner, outer), np.maximum(inner, outer)
    lower[bins == 0] = upper[bins == 0] = 0.0  # zeros, and what is below 1e-38
    ends = stats.smallest, stats.largest
    return Histogram(np.clip(lower, *ends), np.clip(upper, *ends), counts)


def spread(stats: TensorStatistics, edges: np.ndarray) -> np.ndarray:
    """How many values lie between each two neighbours of the ascending ``edges`` (float64 ``[n]``), as float64
    ``[n - 1]``; a bin's values are taken to be spread evenly. Raises StatisticsError when no finite value was seen."""
    seen = histogram(stats)
    ends = np.cumsum(seen.counts)
    values = np.stack([seen.lower, seen.upper], axis=1).ravel()
    heights = np.stack([ends - seen.counts, ends], axis=1).ravel()
    # What lies exactly on an edge counts in the interval that the edge begins, on the last one in the one it ends.
    below = np.interp(np.nextafter(edges, -np.inf), values, heights, left=0.0)
    below[-1] = np.interp(edges[-1], values, heights)
    return np.diff(below)


def clipped(stats: TensorStatistics, low: float, high: float) -> float:
    """Which share of the finite values lies outside of a range. Raises StatisticsError when there is none."""
    seen = histogram(stats)
    outside = seen.counts[(seen.center < low) | (seen.center > high)]
    return float(outside.sum() / seen.counts.sum())


# Sentinels ------------------------------------------------------------------------------------------------------

SMALLEST_SENTINEL = 4096.0
SENTINEL_GAP = 32.0
CERTAIN_GAP = 2.0**20
_DISTINCT_SENTINELS = 4


def without_sentinels(stats: TensorStatistics) -> tuple[TensorStatistics, str]:
    """The statistics without values that stand for "never" rather than for a quantity, and a sentence about them.

    Attention masks put −1e4, −1e9 or −3.4e38 where a score must not count. Left in a range they would leave a few
    codes to all other values. Values count as sentinels when, compared by magnitude, all of this holds:

    1. they are at least 4096, and 32 times the largest value below them;
    2. they are (nearly) constants: no more than 4 groups of adjacent bins, each within 1/64 of its value; or
       they are 2^20 times the largest value below them;
    3. below them there is something else than zeros. A tensor of zeros and one constant is quantized exactly.

    Without sentinels the statistics come back as they are, with an empty sentence.
    """
    magnitudes = (stats.bins & 0x7FFF).astype(np.int64)
    distinct = np.flatnonzero(np.bincount(magnitudes))
    below = (((distinct[:-1].astype(np.uint32) << 16) | 0xFFFF).view(np.float32)).astype(np.float64)
    above = ((distinct[1:].astype(np.uint32) << 16).view(np.float32)).astype(np.float64)
    for place in np.flatnonzero((above >= SMALLEST_SENTINEL) & (above >= SENTINEL_GAP * below) & (distinct[:-1] > 0)):
        upper = distinct[place + 1 :]
        steps = np.diff(upper)
        groups = np.split(upper, np.flatnonzero(steps > 1) + 1)
        constant = len(groups) <= _DISTINCT_SENTINELS and all(group[-1] - group[0] <= 1 for group in groups)
        if not constant and above[place] < CERTAIN_GAP * below[place]:
            continue
        kept = magnitudes <= distinct[place]
        counts, bins = stats.counts[kept], stats.bins[kept]
        edges = histogram(replace(stats, bins=bins, counts=counts, smallest=-np.inf, largest=np.inf))
        trimmed = replace(
            stats,
            bins=bins,
            counts=counts,
            smallest=max(stats.smallest, float(edges.lower[0])),
            largest=min(stats.largest, float(edges.upper[-1])),
        )
        left_out, total = int(stats.counts[~kept].sum()), stats.finite
        ends = [f"{end:.4g}" for end in (stats.smallest, stats.largest) if abs(end) >= above[place]]
        return trimmed, (
            f"{left_out} of {total} values, at {' and '.join(ends)}, are far from all others "
            f"(at most {max(-trimmed.smallest, trimmed.largest):.4g} in magnitude) and set no range"
        )
    return stats, ""


# Observers ------------------------------------------------------------------------------------------------------


def minmax(stats: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """The exact extremes."""
    values = _sound(stats)
    return _with_zero(values.smallest, values.largest)


def percentile(stats: TensorStatistics, scheme: Scheme, share: float = 0.99999) -> tuple[float, float]:
    """The range that leaves out ``(1 - share) / 2`` of the values at either end.

    The default leaves out one value in 100,000: outliers of a few pixels or tokens, and nothing of a small tensor.
    """
    values = _sound(stats)
    seen = histogram(values)
    ends = np.cumsum(seen.counts)
    tail = (1.0 - share) / 2

    def ranked(rank: float) -> float:
        """The value of that rank, from 0; the values of a bin are taken to be spread evenly, the extremes are exact."""
        if rank <= 0 or rank >= ends[-1] - 1:
            return values.smallest if rank <= 0 else values.largest
        index = int(np.searchsorted(ends, rank, "right"))
        within = (rank - (ends[index] - seen.counts[index]) + 0.5) / seen.counts[index]
        return float(seen.lower[index] + within * (seen.upper[index] - seen.lower[index]))

    def quantile(share_below: float) -> float:
        rank = share_below * (ends[-1] - 1)  # numpy.quantile's definition: linear between the two nearest ranks
        before = float(np.floor(rank))
        return ranked(before) + (rank - before) * (ranked(before + 1) - ranked(before))

    return _with_zero(quantile(tail), quantile(1 - tail))


def mse(stats: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """The range with the smallest expected squared error, both ends searched at once for asymmetric schemes.

    See ``Cost`` for the error. The search goes from coarse to fine over fractions of the extremes in geometric steps
    of 1.26, then 1.05, then 1.01, then 1.002; the extremes themselves are a candidate, so min-max is never better.
    """
    values = _sound(stats)
    cost = Cost(histogram(values), scheme)
    low, high = _with_zero(values.smallest, values.largest)
    if values.bins.size == 1 or low == high:
        return low, high
    if scheme.symmetric:
        reach = max(-low, high)
        fractions, step = _COARSE, _COARSE_STEP
        best = 1.0
        for _ in range(4):
            errors = cost.symmetric(reach * fractions)
            best = float(fractions[np.argmin(errors)])
            fractions, step = _refined(best, step)
        return -best * reach, best * reach
    lows = _COARSE if low < 0 else np.ones(1)
    highs = _COARSE if high > 0 else np.ones(1)
    step = _COARSE_STEP
    for _ in range(4):
        errors = cost(low * lows[:, None], high * highs[None, :])
        a, b = np.unravel_index(np.argmin(errors), errors.shape)
        best_low, best_high = float(lows[a]), float(highs[b])
        lows = _refined(best_low, step)[0] if low < 0 else lows
        highs, step = _refined(best_high, step)[0] if high > 0 else highs, _refined(1.0, step)[1]
    return low * best_low, high * best_high


_LINEAR_BINS = 2048
_CANDIDATES = 96
_MOST_ROUNDS = 7
"""How often the search looks closer: at 8 bits each round is 8 or 16 times finer, and what is 2^20 times farther out
than all else is a sentinel anyway."""


def entropy(stats: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    """The range that loses least information: TensorRT's search for the threshold T on |x| that minimises the
    Kullback-Leibler divergence between the values clipped at T and the same values quantized (S. Migacz, "8-bit
    inference with TensorRT", GTC 2017), here with 2048 linear bins, into which the histogram is spread evenly.

    Zeros are left out: every range represents them exactly. Of an asymmetric scheme, T gets all codes where the values
    have one sign, otherwise half; T never extends an end beyond the extreme.
    """
    values = _sound(stats)
    low, high = _with_zero(values.smallest, values.largest)
    first, last = scheme.code_range
    levels = (last - first + 1) if not scheme.symmetric and (low == 0 or high == 0) else (last - first + 2) // 2
    reach = max(-low, high)
    if values.bins.size == 1 or reach == 0 or levels >= _LINEAR_BINS // 2:
        return low, high
    below = _cumulative(values)
    if not below[0].size:  # all are in the bins of zero, which hold the smallest subnormal numbers too
        return low, high
    sizes = np.unique(np.linspace(levels, _LINEAR_BINS, _CANDIDATES).astype(np.int64))
    threshold = reach
    for _ in range(_MOST_ROUNDS):
        linear, outside = _linear(*below, threshold)
        best = int(sizes[np.argmin(divergences(linear, outside, sizes, levels))])
        threshold *= best / _LINEAR_BINS
        if best != levels:  # where the narrowest candidate wins, look at narrower ones with finer bins
            break
    return max(low, -threshold), min(high, threshold)


def divergences(counts: np.ndarray, outside: float, sizes: np.ndarray, levels: int) -> np.ndarray:
    """KL divergence for each candidate: the first ``size`` of the linear bins ``counts``, quantized to ``levels``.

    ``counts``: float64 [n]; ``outside``: how many values lie beyond all bins. In P, whatever lies beyond a candidate is
    added to its last bin. In Q, the values within are spread evenly over the bins of their level that are not empty.
    As Q is constant on a level, sums over bins become differences of prefix sums, one a level.
    """
    total = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    information = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    edges = sizes[:, None] * np.arange(levels + 1) // levels
    inside, cells = np.diff(total[edges]), np.diff(filled[edges])
    density = np.log(np.where(inside > 0, inside, 1.0) / np.maximum(cells, 1))
    beyond = total[-1] + outside - total[sizes]
    last = counts[sizes - 1]
    p_log_p = information[sizes] - _x_log_x(last) + _x_log_x(last + beyond)
    p_log_q = (inside * density).sum(axis=1) + beyond * density[:, -1]
    n, n_inside = total[-1] + outside, np.maximum(total[sizes], np.finfo(np.float64).tiny)
    result = (p_log_p - p_log_q) / n - np.log(n) + np.log(n_inside)
    return np.where((last > 0) | (beyond == 0), result, np.inf)  # Q has nothing where P has the clipped values


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.where(x > 0, x, 1.0))


def _cumulative(stats: TensorStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Ascending magnitudes and how many values other than zero are no larger; linear between each two of them, as each
    bin's values are spread evenly."""
    by_magnitude = np.bincount(stats.bins & 0x7FFF, stats.counts.astype(np.float64))
    bins = np.flatnonzero(by_magnitude)
    bins = bins[bins > 0]
    lower = (bins.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    upper = np.minimum(((bins + 1).astype(np.uint32) << 16).view(np.float32), max(-stats.smallest, stats.largest))
    ends = np.cumsum(by_magnitude[bins])
    values = np.stack([lower, upper], axis=1).ravel()
    return values, np.stack([ends - by_magnitude[bins], ends], axis=1).ravel()


def _linear(values: np.ndarray, below: np.ndarray, reach: float) -> tuple[np.ndarray, float]:
    """Counts of ``0 < |x| <= reach`` in linear bins, and the count beyond; see ``_cumulative``."""
    cumulative = np.interp(np.linspace(0, reach, _LINEAR_BINS + 1), values, below)
    cumulative[-1] = below[-1] if reach >= values[-1] else cumulative[-1]
    return np.diff(cumulative), float(below[-1] - cumulative[-1])


_COARSE_STEP = 2.0 ** (1 / 3)
_COARSE = _COARSE_STEP ** -np.arange(48.0)
_FINE = np.arange(-5, 6) / 5


def _refined(best: float, step: float) -> tuple[np.ndarray, float]:
    """Fractions around the best one, as far as its neighbours in the grid of this step, and their own step."""
    return np.minimum(best * step**_FINE, 1.0), step ** (1 / 5)


class Cost:
    """Expected squared error of quantizing what a histogram counted, summed over the values.

    With step ``s``, a value beyond an end costs the square of its distance to it; one within ``s/2`` of zero becomes
    zero and costs its own square; every other one costs ``s^2 / 12``, the variance of rounding. Values count as the
    center of their bin, those of the outermost bins as the exact extremes: a mass just at the end, as probabilities
    have it at 1, is not to be clipped for nothing. Sums over prefixes make an evaluation a few look-ups.
    """

    def __init__(self, seen: Histogram, scheme: Scheme) -> None:
        first, last = scheme.code_range
        middle = 0 if first < 0 else (scheme.storage_range[0] + scheme.storage_range[1] + 1) // 2
        self.codes, self.codes_below, self.codes_above = last - first, middle - first, last - middle
        self.x = seen.center
        self.x[0], self.x[-1] = seen.lower[0], seen.upper[-1]
        c = seen.counts
        self.sums = [np.concatenate([[0.0], np.cumsum(c * self.x**power)]) for power in range(3)]

    def __call__(self, low: np.ndarray, high: np.ndarray, step: np.ndarray | None = None) -> np.ndarray:
        """For asymmetric schemes; ``low <= 0 <= high`` broadcast against each other."""
        if step is None:
            step = (high - low) / self.codes
        a = np.searchsorted(self.x, low, "left")
        b = np.searchsorted(self.x, high, "right")
        n, s1, s2 = self.sums
        below = s2[a] - 2 * low * s1[a] + low**2 * n[a]
        above = (s2[-1] - s2[b]) - 2 * high * (s1[-1] - s1[b]) + high**2 * (n[-1] - n[b])
        p = np.maximum(np.searchsorted(self.x, -step / 2, "left"), a)
        q = np.minimum(np.searchsorted(self.x, step / 2, "right"), b)
        p, q = np.minimum(p, q), q
        rounded = n[b] - n[a] - (n[q] - n[p])
        return np.maximum(below, 0) + np.maximum(above, 0) + (s2[q] - s2[p]) + rounded * step**2 / 12

    def symmetric(self, reach: np.ndarray) -> np.ndarray:
        """For symmetric schemes: the codes reach ``reach`` above zero and as many steps below as there are codes."""
        step = reach / self.codes_above
        return self(-step * self.codes_below, reach, step)


OBSERVERS: dict[str, Observer] = {"minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse}


def _sound(stats: TensorStatistics) -> TensorStatistics:
    if stats.bins.size == 0:
        histogram(stats)  # raises
    return without_sentinels(stats)[0]


def _with_zero(low: float, high: float) -> tuple[float, float]:
    return min(low, 0.0), max(high, 0.0)
