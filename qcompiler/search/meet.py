"""Compiling to a goal: the mixture that meets it, found by solving, building, measuring and solving again.

The mixed-integer program of ``mixture`` predicts error and time of every mixture. What is built and measured tells by
how much the predictions are off, and the next solution is looked for within bounds that are moved by as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from qcompiler import ir
from qcompiler.errors import VerificationError
from qcompiler.metrics import Metric, metric_from
from qcompiler.metrics.metric import Model
from qcompiler.plan import Plan
from qcompiler.report import FrontRecord
from qcompiler.runtime import Feed, run, session
from qcompiler.search.budget import Price, Problem
from qcompiler.search.fewer_bits import four_bits, with_four_bits
from qcompiler.search.free import with_own_biases
from qcompiler.search.goal import Goal
from qcompiler.search.mixture import Mixture
from qcompiler.search.refine import NOISE, Candidate, Refiner
from qcompiler.search.settle import Measured, in_float, measured

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

MOST_BUILT = 8
"""Mixtures that are built and measured at most."""
CLOSE = 1.25
"""How many times the error of the best mixture found one that is known to lose too much may have, for no mixture
between them to be looked for."""
STEP = 0.4
"""Share of an error that was too much to try next where nothing tells how much is too much."""
TIGHTER = 0.98
"""Share of a bound on time that a solution is looked for in: measuring is not exact."""


@dataclass(frozen=True)
class Standing:
    """A candidate and what it measures. ``price``: what the problem says of it; ``size``: of its weights, as a share of
    the source's; ``value``: of the metric, where there is one, and ``drop``: how far that is behind the float model's,
    in its own unit; ``told``: what it was expected to have in dB, by what the one before it was off."""

    candidate: Candidate
    found: Measured
    price: Price
    size: float
    value: float = 0.0
    drop: float = 0.0
    told: float = math.inf

    @property
    def sqnr(self) -> float:
        """The worst output's, in dB."""
        return min((output.judged for output in self.found.outputs), default=math.inf)

    @property
    def noise(self) -> float:
        return max(10.0 ** (-self.sqnr / 10.0), 1e-12) if math.isfinite(self.sqnr) else 1e-12

    @property
    def speedup(self) -> float:
        return self.found.speed.speedup if self.found.speed is not None else 1.0


class Meeting:
    """The search for a candidate that meets the goal of a compilation."""

    def __init__(self, compilation: Compilation, refiner: Refiner, goal: Goal) -> None:
        self.compilation, self.refiner, self.goal = compilation, refiner, goal
        self.metric: Metric | None = None
        self.plain = 0.0
        self.warnings: list[str] = []
        if goal.max_drop is not None:
            with session(compilation.source, threads=compilation.options.threads) as source:
                model = callable_of(source)
                self.metric = metric_from(
                    goal.metric, compilation.samples.all(), model, goal.labels, lower_is_better=goal.lower_is_better
                )
                self.plain = self.metric.of(model)

    def met(self, candidate: Candidate) -> Standing:
        """The best standing within the goal, starting from a candidate that is quantized as far as it pays. Where 8
        bits do not pay at all and no budget asks for them, the model in float.

        Raises:
            VerificationError: there is none, with what can be had.
        """
        found, standings = self.searched(candidate)
        if self.refiner.other is not None:
            other, more = self.searched(self.refiner.other)
            standings += more
            if other is not None and (found is None or self.better(other, found)):
                found = other
        if found is not None:
            return found
        mixed = [one for one in standings if one.candidate.plan is not None and one.candidate.plan.intended]
        pays = any(one.speedup > 1.0 + NOISE for one in mixed)
        if not pays and self.goal.latency is None and self.goal.size is None and candidate.plan is not None:
            reason = "no operator is faster in 8 bits"
            if mixed:
                reason = f"in 8 bits the model runs at {max(one.speedup for one in mixed):.2f}x its speed"
            self.warnings.append(f"stays in float: {reason}")
            return self.standing(in_float(self.compilation, candidate.plan, reason), Price())
        raise self.refusal(mixed or standings)

    def searched(self, candidate: Candidate) -> tuple[Standing | None, list[Standing]]:
        """The best mixture within the goal, and all that were built."""
        study = self.refiner.studied(candidate)
        if study is not None and study.candidate.plan is not None:
            few = four_bits(self.refiner, study) if self.goal.size is not None else None
            search = _Search(self, study.candidate, study.improver.mixture(study.candidate.plan, few))
            search.run()
            return search.good, search.standings
        standing = self.standing(candidate, Price())
        out = self.lost_too_much(standing) or self.takes_too_much(standing)
        return None if out else standing, [standing]

    def better(self, one: Standing, other: Standing) -> bool:
        return one.speedup > other.speedup if self.goal.keeps else one.sqnr > other.sqnr

    def standing(self, candidate: Candidate, price: Price) -> Standing:
        found = measured(self.compilation, candidate.graph)
        size = ir.weight_bytes(candidate.graph) / max(1, ir.weight_bytes(self.compilation.source))
        standing = Standing(candidate, found, price, size)
        if self.metric is not None:
            with session(candidate.graph, threads=self.compilation.options.threads) as own:
                value = self.metric.of(callable_of(own))
            standing = replace(standing, value=value, drop=self.metric.drop(self.plain, value))
        return standing

    def lost_too_much(self, standing: Standing) -> bool:
        goal = self.goal
        if goal.min_sqnr is not None and standing.sqnr < goal.min_sqnr:
            return True
        return goal.max_drop is not None and standing.drop > goal.max_drop.allowed(self.plain)

    def takes_too_much(self, standing: Standing) -> bool:
        """Nothing is a mixture that has no 8 bits left: by chance the source measures faster than itself."""
        goal, plan = self.goal, standing.candidate.plan
        if plan is None or not plan.intended or 1.0 / standing.speedup > self.most_time:
            return True
        return goal.size is not None and standing.size > goal.size

    @property
    def most_time(self) -> float:
        """As a share of the source's: 8 bits are to be measurably faster."""
        return min(1.0 / (1.0 + NOISE), self.goal.latency or 1.0)

    def refusal(self, standings: list[Standing]) -> VerificationError:
        """Says that the goal cannot be met, the best that can be had, and what it would take."""
        goal, where = self.goal, self.compilation.name
        what = f"no mixture of precisions meets {goal}"
        fitting = [one for one in standings if not self.takes_too_much(one)]
        if not fitting:
            fastest, smallest = max(standings, key=lambda s: s.speedup), min(standings, key=lambda s: s.size)
            return VerificationError(
                what, where=where,
                why=f"the fastest takes {1.0 / fastest.speedup:.2f}x the source's time, the smallest "
                f"{smallest.size:.2f}x its weights",
                fix="allow as much",
            )  # fmt: skip
        if goal.max_drop is not None and self.metric is not None:
            best = min(fitting, key=lambda one: (one.drop, -one.speedup))
            share = goal.max_drop.relative and self.plain != 0.0  # of nothing there is no share
            amount = 100.0 * best.drop / abs(self.plain) if share else best.drop
            needed = f"--max-drop {_up(amount):g}{'%' if share else ''}"
            had = f"takes {self.metric.name} from {self.plain:.5g} to {best.value:.5g}"
        else:
            best = max(fitting, key=lambda one: one.sqnr)
            needed, had = f"--min-sqnr {math.floor(best.sqnr * 10.0) / 10.0:g}", f"has {best.sqnr:.1f} dB"
        return VerificationError(
            what, where=where, why=f"the best that is no slower {had}, at {best.speedup:.2f}x the speed",
            fix=f"ask for {needed}, or take --precision float",
        )  # fmt: skip


class _Search:
    """Solving and building in turn. Error and time of the predictions are those of the problem; what they are off by
    is the last built mixture's measured value over its predicted one."""

    def __init__(self, meeting: Meeting, base: Candidate, mixture: Mixture) -> None:
        self.meeting, self.base, self.mixture = meeting, base, mixture
        self.problem: Problem = mixture.problem
        self.standings: list[Standing] = []
        self.tried: set[tuple[frozenset[str], frozenset[str]]] = set()
        self.good: Standing | None = None
        self.bad = math.inf
        """The least predicted error that is known to lose too much."""

    def run(self) -> None:
        """Leaves the best within the goal in ``good``, and all that was built in ``standings``."""
        goal = self.meeting.goal
        first = self.judged(self.mixture.quantized)
        self.unit = self.problem.price(self.mixture.quantized).seconds * first.speedup
        """What the source takes, in seconds of the problem."""
        while len(self.standings) < MOST_BUILT and not self.done():
            picks = self.solution()
            if picks is None or self.changed(picks) in self.tried:
                if not goal.keeps or picks is None or self.good is not None:
                    break
                self.bad *= STEP  # the same again: what is predicted must be less
                if self.bad < 1e-9:
                    break
                continue
            self.judged(picks)
        if self.good is None and goal.size is not None:
            self.smallest()
        self.record()

    def smallest(self) -> None:
        """Judges the smallest mixture of all, for what is said where none is small enough."""
        picks = self.problem.best("bytes")
        if picks is not None and self.changed(picks) not in self.tried:
            self.judged(picks)

    def judged(self, picks: Mapping[str, str]) -> Standing:
        """Builds and measures the mixture."""
        kept, few = self.changed(picks)
        self.tried.add((kept, few))
        candidate, refiner, reason = self.base, self.meeting.refiner, f"to meet {self.meeting.goal}"

        def change(whole: Candidate) -> Candidate:
            if few:
                whole = with_four_bits(refiner, whole, few)
                assert whole.plan is not None
                plan = whole.plan.deciding(sorted(few), "given weights of four bits", reason)
                whole = refiner.fused(replace(whole, plan=plan))
            if kept:
                whole = refiner.fused(refiner.without(whole, dict.fromkeys(kept, ""), "left in float", reason))
            return whole

        if kept or few:
            candidate, _ = with_own_biases(refiner, change, candidate)
        standing = self.meeting.standing(candidate, self.problem.price(picks))
        before = self.standings[-1] if self.standings else standing
        told = standing.price.error * before.noise / max(before.price.error, 1e-12)
        standing = replace(standing, told=-10.0 * math.log10(max(told, 1e-12)))
        self.standings.append(standing)
        if self.meeting.lost_too_much(standing):
            self.bad = min(self.bad, standing.price.error)
        elif not self.meeting.takes_too_much(standing) and (
            self.good is None or self.meeting.better(standing, self.good)
        ):
            self.good = standing
        return standing

    def changed(self, picks: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
        """The nodes to leave in float, and those to give weights of four bits."""
        return frozenset(self.mixture.kept(picks)), self.mixture.four_bits(picks)

    def done(self) -> bool:
        """Whether nothing much better can be hoped for."""
        if self.good is None:
            return False
        if self.meeting.goal.keeps:
            return self.bad == math.inf or self.bad / max(self.good.price.error, 1e-12) < CLOSE
        used = (1.0 / self.good.speedup) / self.meeting.most_time
        return len(self.standings) > 1 and (used > 0.95 or self.meeting.goal.latency is None)

    def solution(self) -> dict[str, str] | None:
        goal, last = self.meeting.goal, self.standings[-1]
        slow = (self.unit / last.speedup) / max(last.price.seconds, 1e-12)
        most = {"seconds": TIGHTER * self.meeting.most_time * self.unit / slow}
        if goal.size is not None:
            heavy = last.size * ir.weight_bytes(self.meeting.compilation.source) / max(last.price.bytes, 1.0)
            most["bytes"] = goal.size * ir.weight_bytes(self.meeting.compilation.source) / heavy
        if not goal.keeps:
            return self.problem.best("error", most)
        most["error"] = self.allowed(last)
        return self.problem.best("seconds", most)

    def allowed(self, last: Standing) -> float:
        """The error to look for next, as it is predicted: between what is known to be too much and what is not."""
        goal = self.meeting.goal
        least = self.good.price.error if self.good is not None else 0.0
        if goal.min_sqnr is not None:
            off = last.noise / max(last.price.error, 1e-12)
            guess = 10.0 ** (-goal.min_sqnr / 10.0) / off
            if goal.max_drop is None and least < guess < self.bad:
                return guess
        if self.good is not None:
            return math.sqrt(max(least, 1e-12) * self.bad)
        return STEP * self.bad

    def record(self) -> None:
        """The front as it was seen: mixtures that no other one beats in both speed and fidelity."""
        assert self.meeting.refiner.ctx.plan is not None
        intended = self.meeting.refiner.ctx.plan.intended
        for one in self.standings:
            if any(o.speedup >= one.speedup and o.sqnr >= one.sqnr and o is not one for o in self.standings):
                continue
            plan: Plan | None = one.candidate.plan
            kept = len(intended - plan.intended) if plan is not None else 0
            self.meeting.refiner.front.append(FrontRecord(one.speedup, one.told, one.sqnr, kept))


def callable_of(model: ort.InferenceSession) -> Model:
    """The session as metrics want it: from a feed to outputs by name."""
    names = [output.name for output in model.get_outputs()]

    def call(feed: Feed) -> dict[str, np.ndarray]:
        return dict(zip(names, run(model, feed)))

    return call


def _up(amount: float) -> float:
    """Two digits that are enough, rounded up."""
    if amount <= 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return float(f"{math.ceil(amount / unit - 1e-9) * unit:.6g}")
