"""Which observer's ranges keep most of a model's outputs: tried on a few samples, as a user would by hand.

An observer weighs every value of a tensor alike. What a cut value means to the outputs differs from model to model by
more than any one observer can know: the best one of one model is 3 to 15 dB behind on another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.plan import Plan
from qcompiler.runtime import Feed, side_by_side
from qcompiler.search.improve import spaced
from qcompiler.search.points import before_softmax, measuring_points
from qcompiler.search.sensitivity import Switchboard

BEST = "best"
"""In place of an observer's name: the one that measures best."""
USUAL = "mse"
"""Where there are no samples to measure on, or none is surely better."""
WIDTHS = {"minmax": 0, "percentile": 1, "mse": 2, "entropy": 3}
"""The observers from the widest ranges to the narrowest."""
SURE = 2.0
"""Standard errors, over the samples, that a difference must come to: one sample alone can make one of them. Of the
noise, or of its decibels: where a few samples hold most of the noise, only these tell what the others hold."""
NARROWER = 1.0
"""Decibels that a narrower range must gain: what it cuts off other samples is not seen on these."""
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
    with _BySample(graph, next(iter(plans.values())), trials, list(points), feeds) as board:
        return {name: board.each([index], points) for index, name in enumerate(plans)}


class _BySample(Switchboard):
    def __enter__(self) -> _BySample:
        return self

    def each(self, switched: Iterable[int], points: Mapping[str, float]) -> np.ndarray:
        """See ``noise_by_sample``, with these trials on."""
        on = frozenset(switched)
        powers = np.array(list(side_by_side(lambda plain: self._powers(plain, on), self._plain)))
        signal, noise = powers[:, 0].sum(axis=0), powers[:, 1]
        allowed = np.array([10 ** (-points[name] / 10) for name in self.points])
        return np.where(signal > 0, noise / np.where(signal > 0, signal, 1), 0.0) @ allowed


def chosen(noise: Mapping[str, np.ndarray], usual: str = USUAL) -> str:
    """The observer with surely less noise, by sample, than the usual one and those that are wider."""
    best = usual
    for name in sorted(noise, key=WIDTHS.__getitem__):
        margin = NARROWER if WIDTHS[name] > WIDTHS[best] else 0.0
        surely = is_sure(noise[best] - noise[name]) or is_sure(decibels_less(noise[best], noise[name]))
        if surely and is_less(noise[name], noise[best], margin):
            best = name
    return best


def is_sure(gain: np.ndarray) -> bool:
    """Whether the mean over the samples is too large for chance."""
    error = gain.std(ddof=1) / math.sqrt(gain.size) if gain.size > 1 else math.inf
    return bool(gain.mean() > SURE * error)


def is_open(noise: np.ndarray, other: np.ndarray) -> bool:
    """Whether the other may have less of it."""
    return is_less(other, noise, OPEN) or bool(decibels_less(noise, other).mean() > OPEN)


def decibels_less(noise: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much the other is less, in each sample."""
    return 10.0 * np.log10((noise + TINY) / (other + TINY))


def is_less(noise: np.ndarray, other: np.ndarray, decibels: float) -> bool:
    """Whether it is less by so many decibels, over all samples."""
    return bool(noise.sum() <= other.sum() * 10 ** (-decibels / 10))
