"""What makes the outputs more faithful and costs no time of a run: other ranges, corrected biases, or both.

Neither is taken for granted: ranges cut closer make errors that add up otherwise than noise does, and the mean error
that corrected biases take away may be most of what other ranges had gained. So both are built with and without the
other, and what measures best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING

from qcompiler.correcting import corrected
from qcompiler.search import improve

if TYPE_CHECKING:
    from qcompiler.search.refine import Candidate, Refiner

Told = tuple["Candidate", list[float]]
"""A candidate with its fidelity in dB: of each output, or part of one."""


def best_of(refiner: Refiner, plain: Told, improver: improve.Improver) -> Told:
    """The most faithful of the candidate, of it with other ranges, and of both with corrected biases. The improver's
    noise of tensors is that with the ranges which are kept."""
    best, noise = plain, dict(improver.activations)
    for ranged in (plain, *with_other_ranges(refiner, plain, improver)):
        for one in (ranged, *with_corrected_biases(refiner, ranged)):
            if overall(one[1]) > overall(best[1]):
                best = one
    if best[0].plan is not None and plain[0].plan is not None and best[0].plan.ranges == plain[0].plan.ranges:
        improver.activations = noise
    return best


def with_other_ranges(refiner: Refiner, plain: Told, improver: improve.Improver) -> Iterator[Told]:
    candidate, before = plain
    plan = candidate.plan
    assert plan is not None
    ranged = improver.with_better_ranges()
    if ranged.ranges == plan.ranges:
        return
    trial = refiner.built(refiner.compilation.solved(replace(refiner.ctx, plan=refiner.unsolved(ranged))))
    assert trial.plan is not None
    decibels = refiner.decibels(trial)
    changed = sorted(name for name in ranged.ranges if name not in plan.ranges)
    reason = f"{overall(decibels):.1f} dB, and {overall(before):.1f} with the observer's"
    yield replace(trial, plan=trial.plan.deciding(changed, "given other ranges", reason)), decibels


def with_corrected_biases(refiner: Refiner, plain: Told) -> Iterator[Told]:
    candidate, before = plain
    assert candidate.plan is not None
    plan = corrected(refiner.compilation, candidate.plan)
    if not plan.shifts:
        return
    trial = refiner.built(plan)
    decibels = refiner.decibels(trial)
    reason = f"{overall(decibels):.1f} dB, and {overall(before):.1f} with the biases that they had"
    yield replace(trial, plan=plan.deciding(sorted(plan.shifts), "biases corrected", reason)), decibels


def with_own_biases(refiner: Refiner, change: Callable[[Candidate], Candidate], candidate: Candidate) -> Told:
    """What ``change`` makes of the candidate, by leaving more of it in float say. Biases that were corrected are
    corrected anew: the means that rounding moved before are not those that it moves now."""
    assert candidate.plan is not None
    changed = change(replace(candidate, plan=replace(candidate.plan, shifts={})))
    told = changed, refiner.decibels(changed)
    if not candidate.plan.shifts or changed.plan is None:
        return told
    return max((told, *with_corrected_biases(refiner, told)), key=lambda one: overall(one[1]))


def overall(decibels: Sequence[float]) -> float:
    """The mean of what outputs keep, of each no more than is worth anything."""
    return mean(min(one, max(improve.ENOUGH, min(decibels))) for one in decibels)
