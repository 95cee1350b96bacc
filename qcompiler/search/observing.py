"""Which observer's ranges keep most of a model's outputs: tried on a few samples, as a user would by hand.

An observer weighs every value of a tensor alike. What a cut value means to the outputs differs from model to model by
more than any one observer can know: the best one of one model is 3 to 15 dB behind on another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.plan import Plan
from qcompiler.runtime import Feed, side_by_side
from qcompiler.search.improve import spaced
from qcompiler.search.points import before_softmax, measuring_points
from qcompiler.search.sensitivity import Switchboard

BEST = "best"
"""In place of an observer's name: the one that measures best."""
USUAL = "percentile"
"""Where there are no samples to measure on, or none is surely better: of the four, it is never far behind."""
WIDTHS = {"minmax": 0, "percentile": 1, "mse": 2, "entropy": 3}
"""The observers from the widest ranges to the narrowest."""
SURE = 2.0
"""Standard errors that a difference must come to, over ``BLOCKS`` of samples: one sample alone can make it, and so can
a few that follow one another, which are often of one recording or page."""
BLOCKS = 8
NARROWER = 0.3
"""Decibels that a narrower range must gain: what it cuts off other samples is not seen on these."""
MUCH_NARROWER = 1.0
"""The same where the gain is sure in decibels alone: a few samples hold most of the noise, and say so by themselves."""
SAMPLES, MORE_SAMPLES = 16, 64
"""Measured on first, and where that leaves the question open."""
OPEN = 0.3
"""Decibels that an observer is better by, over all samples or for most of them, though not surely, for the question to
be open."""
TINY = 1e-30
"""Noise that is none, for its decibels."""


def best_observer(graph: ir.Graph, plans: Mapping[str, Plan], feeds: Sequence[Feed]) -> str:
    """The name of the plan with the best ranges for computed tensors; weights are not rounded. ``plans``: of the
    cleaned float ``graph``, solved, each by the observer of its name, and otherwise alike. ``USUAL`` where no output is
    computed in floats."""
    points = before_softmax(graph, measuring_points(graph))
    if not points:
        return USUAL
    noise = noise_by_sample(graph, plans, points, spaced(feeds, SAMPLES))
    best = chosen(noise)
    others = [name for name in noise if name != best and is_open(noise[best], noise[name])]
    if len(feeds) > SAMPLES and others:
        left = {name: plans[name] for name in (best, *others)}
        best = chosen(noise_by_sample(graph, left, points, spaced(feeds, MORE_SAMPLES)), best)
    return best


def noise_by_sample(
    graph: ir.Graph, plans: Mapping[str, Plan], points: Mapping[str, float], feeds: Sequence[Feed]
) -> dict[str, np.ndarray]:
    """Of each plan, float64 ``[samples]``: what each sample adds to the noise-to-signal ratio, over all points and less
    what each point is allowed."""
    tensors = ir.all_tensors(graph)
    trials = [
        {site.tensor: quant for site, quant in plan.sites.items() if not ir.is_constant(tensors[site.tensor])}
        for plan in plans.values()
    ]
    with _Unkept(graph, next(iter(plans.values())), trials, list(points), (), segments=1) as board:
        powers = np.array(list(side_by_side(board.of_each_trial, feeds)))  # [samples, trials, 2, points]
    signal, noise = powers[:, 0, 0].sum(axis=0), powers[:, :, 1]
    allowed = np.array([10 ** (-decibels / 10) for decibels in points.values()])
    weights = np.divide(allowed, signal, out=np.zeros_like(signal), where=signal > 0)
    return dict(zip(plans, (noise @ weights).T))


class _Unkept(Switchboard):
    """A feed is done with all trials before it is let go, so no number of them is too large for memory. As each trial
    is in all of the graph, segments would spare nothing."""

    def __enter__(self) -> _Unkept:
        return self

    def of_each_trial(self, feed: Feed) -> list[tuple[list[float], list[float]]]:
        """The power of each point, and that of its error, with each trial on alone."""
        plain = self._values(feed)
        return [self._powers(plain, frozenset([trial])) for trial in range(self.count)]


def chosen(noise: Mapping[str, np.ndarray], usual: str = USUAL) -> str:
    """The observer with surely less noise, by sample, than the usual one and those that are wider.

    Sure is what the noise says or what its decibels say: where a few samples hold most of the noise, only these tell
    what the others hold. Of a narrower range, which is good for most samples and ruins a few, they would hide just
    these: the few must then gain too, and more.
    """
    best = usual
    for name in sorted(noise, key=WIDTHS.__getitem__):
        narrower = WIDTHS[name] > WIDTHS[best]
        if is_sure(noise[best] - noise[name]):
            least = NARROWER
        elif is_sure(decibels_less(noise[best], noise[name])):
            least = MUCH_NARROWER
        else:
            continue
        if is_less(noise[name], noise[best], least if narrower else 0.0):
            best = name
    return best


def is_sure(gain: np.ndarray) -> bool:
    """Whether the mean over the samples, in their order, is too large for chance."""
    count = min(BLOCKS, gain.size)
    if count < 2:
        return False
    means = np.array([block.mean() for block in np.array_split(gain, count)])
    return bool(means.mean() > SURE * means.std(ddof=1) / math.sqrt(count))


def is_open(noise: np.ndarray, other: np.ndarray) -> bool:
    """Whether the other may have less of it."""
    return is_less(other, noise, OPEN) or bool(decibels_less(noise, other).mean() > OPEN)


def decibels_less(noise: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much the other is less, in each sample."""
    return 10.0 * np.log10((noise + TINY) / (other + TINY))


def is_less(noise: np.ndarray, other: np.ndarray, decibels: float) -> bool:
    """Whether it is less by so many decibels, over all samples."""
    return bool(noise.sum() <= other.sum() * 10 ** (-decibels / 10))
