"""Buys fidelity with speed where it is cheap: which operators to leave in float so that the outputs stay true.

The error that each quantized tensor alone causes at the outputs is measured (``sensitivity``), the time that each
operator takes in both forms is read off the runtime's profiler. Errors add up in power, times add up; so the most
faithful mixture for any time is a mixed-integer program (``mixture``). A few of these are measured with switches, and
only the best of them are built.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Statistics, TensorStatistics
from qcompiler.calibrate.moments import SAMPLES as ROUNDING_SAMPLES
from qcompiler.calibrate.observers import histogram
from qcompiler.plan import Plan, Site
from qcompiler.runtime import Feed, side_by_side
from qcompiler.scheme import PerAxis
from qcompiler.search.cost import Cost, cost_of
from qcompiler.search.mixture import FLOAT, FourBits, Mixture, mixture, owners
from qcompiler.search.points import before_softmax, measuring_points, together
from qcompiler.search.ranges import better_ranges
from qcompiler.search.sensitivity import Switchboard, contributions
from qcompiler.target import Target
from qcompiler.verify.profile import Profile

FLOOR = 21.0
"""Fidelity in dB that is worth any speed short of float's: 20, and one to spare, for samples that nothing was fitted to
keep less."""
ENOUGH = 45.0
"""Fidelity in dB beyond which nothing is traded for more."""
SHORT = 15.0
"""Percent of the run time that a decibel is worth below the floor."""
BEYOND = 0.3
"""Percent of the run time that a decibel is worth beyond it."""
SHARE_OF_FLOAT = 0.9
"""Share of the float model's time that 8 bits may take for the sake of the floor."""
POINTS = 8
"""Mixtures that are looked for: the most faithful ones for as many times of a run."""
SWITCHED = 0.5
"""Part of a float run that the effect of one switch takes: see ``Switchboard``."""


@dataclass(frozen=True)
class Effort:
    """How much is spent. ``built``: mixtures that are built and measured, at most; ``seconds``: on measuring
    sensitivity, and as much on other ranges, large models being measured less finely; ``fidelity_seconds``: float runs
    of this much time are what each plan is judged on; ``samples``, ``range_samples`` and ``rounding_samples`` that
    sensitivity and ranges are measured on and weights rounded for; ``told_samples``: that the fidelity of mixtures is
    told on before any is built; ``whole_front``: whether all mixtures that are looked for are built. Where no clock is
    to be asked, ``untimed_runs`` take the place of ``seconds``, and ``untimed_samples`` that of ``fidelity_seconds``.
    """

    built: int
    seconds: float = 3.0
    fidelity_seconds: float = 1.5
    samples: int = 4
    range_samples: int = 3
    rounding_samples: int = ROUNDING_SAMPLES
    told_samples: int = 4
    whole_front: bool = False
    untimed_runs: int = 600
    untimed_samples: int = 64


EFFORTS = {
    "none": Effort(0),
    "fast": Effort(4),
    "full": Effort(
        POINTS,
        15.0,
        8.0,
        16,
        8,
        rounding_samples=4 * ROUNDING_SAMPLES,
        told_samples=64,
        whole_front=True,
        untimed_runs=3000,
    ),
}


def worth(decibels: float, slowdown: float) -> float:
    """What a plan is worth, in percent of the run time: see ``SHORT`` and ``BEYOND``, less the time it takes."""
    short, beyond = max(0.0, FLOOR - decibels), max(0.0, decibels - FLOOR)
    return BEYOND * beyond - SHORT * short - 100.0 * math.log(slowdown)


def weight_noise(
    graph: ir.Graph, plan: Plan, statistics: Statistics, activations: Mapping[str, float]
) -> dict[str, float]:
    """The noise of rounding each weight, from that of rounding the activation it meets.

    Both errors arise at the product's output, so they reach the model's outputs amplified alike. Of an output n,
    rounding x at step d adds d²/12 · Σ_k W_kn², rounding W at step e_n adds e_n²/12 · K · E[x²].
    """
    found: dict[str, float] = defaultdict(float)
    readers: dict[str, int] = defaultdict(int)
    for site in plan.sites:
        if site.index == 0 and site.node in plan.intended:
            readers[site.tensor] += 1
    for _, node in ir.all_nodes(graph):
        if node.name not in plan.intended or len(node.inputs) < 2 or not ir.is_constant(node.inputs[1]):
            continue
        x, w = node.inputs[0], node.inputs[1]
        step = plan.sites.get(Site(x.name, node.name, 0))
        steps = plan.sites.get(Site(w.name, node.name, 1))
        if step is None or steps is None or step.scale is None or steps.scale is None or steps.origin != "weights":
            continue
        seen = statistics.tensors.get(x.name)
        if seen is None or x.name not in activations:
            continue
        axis = steps.scheme.granularity.axis if isinstance(steps.scheme.granularity, PerAxis) else None
        values = w.values.astype(np.float64)
        terms = values.size / (values.shape[axis] if axis is not None else 1)
        own = float(step.scale.max()) ** 2 * np.sum(values**2)
        theirs = float(np.sum(steps.scale.astype(np.float64) ** 2)) * terms * mean_square(seen)
        if own > 0.0:
            found[w.name] += activations[x.name] / readers[x.name] * theirs / own
    return dict(found)


def mean_square(seen: TensorStatistics) -> float:
    """E[x²] of the finite values, from the histogram's bin centres."""
    bins = histogram(seen)
    total = float(np.sum(bins.counts))
    return float(np.sum(bins.counts * bins.center.astype(np.float64) ** 2)) / total if total else 0.0


def groups_of(graph: ir.Graph, plan: Plan) -> list[frozenset[str]]:
    """Activation tensors of the plan that are judged together: what lies between one product and the next is one
    group, but what a product reads is a group of its own."""
    tensors = ir.all_tensors(graph)
    heavy, owner = owners(graph, plan)
    read = {site.tensor for site in plan.sites if site.node in heavy and site.index == 0}
    grouped: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in plan.tensors():
        tensor = tensors[name]
        if ir.is_constant(tensor):
            continue
        tie = plan.group(name)
        alone = bool(tie & read) or not owner.get(tensor)
        grouped[("read", min(tie)) if alone else ("inside", owner[tensor])].add(name)
    return [frozenset(names) for names in grouped.values()]


def spaced(feeds: Sequence[Feed], count: int) -> list[Feed]:
    """``count`` of the feeds, evenly spaced: neighbours tend to be alike."""
    return [feeds[index * len(feeds) // count] for index in range(count)] if count < len(feeds) else list(feeds)


def spread_over(groups: Sequence[frozenset[str]], noise: Sequence[float]) -> dict[str, float]:
    """Each group's noise, shared evenly by its tensors."""
    return {name: power / len(group) for group, power in zip(groups, noise) for name in group}


@dataclass(frozen=True)
class Option:
    """Nodes to leave in float, with the reason, and what is predicted of it: the fidelity in dB and how many times as
    long a run takes."""

    kept: Mapping[str, str]
    decibels: float
    slowdown: float

    @property
    def worth(self) -> float:
        return worth(self.decibels, self.slowdown)


class Improver:
    """Finds better ranges, and the operators to leave in float.

    ``plan`` is solved. ``profiles``: of the float graph and of the plan's, None where no clock is to be asked: then
    there are no mixtures. ``place``: a plan's ``kept`` nodes to the plan that respects them, unsolved. ``allowed``:
    seconds of a run that may be spent for the sake of the floor.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        statistics: Statistics,
        feeds: Sequence[Feed],
        profiles: tuple[Profile, Profile] | None,
        target: Target,
        place: Callable[[Plan], Plan],
        allowed: float,
        effort: Effort,
    ) -> None:
        self.graph, self.plan, self.statistics, self.feeds = graph, plan, statistics, feeds
        self.target, self.place, self.allowed = target, place, allowed
        self.effort, self.profiles = effort, profiles
        self.runs = effort.untimed_runs
        if profiles is not None:
            self.runs = max(1, int(effort.seconds / (SWITCHED * profiles[0].total)))
        self.points = before_softmax(graph, measuring_points(graph))
        self.groups = groups_of(graph, plan)
        quants = {site.tensor: quant for site, quant in plan.sites.items()}
        trials = [{name: quants[name] for name in group} for group in self.groups]
        parts = contributions(graph, plan, trials, list(self.points), spaced(feeds, effort.samples), self.runs)
        self.activations = spread_over(self.groups, [together(part, self.points) for part in parts])

    @cached_property
    def cost(self) -> Cost:
        """What placements cost in time."""
        assert self.profiles is not None
        return cost_of(self.graph, self.plan, *self.profiles, self.statistics)

    def with_better_ranges(self) -> Plan:
        """The plan with ranges that measurably make less noise, where there are such; unchanged otherwise."""
        few = spaced(self.feeds, self.effort.range_samples)
        found = better_ranges(self.graph, self.plan, self.statistics, few, self.points, self.activations, self.runs)
        self.activations.update({name: power for name, (_, power) in found.items()})
        return replace(self.plan, ranges={**self.plan.ranges, **{name: ends for name, (ends, _) in found.items()}})

    def mixture(self, plan: Plan, four_bits: FourBits | None = None) -> Mixture:
        """Of the solved plan: what may be left in float beside what it leaves, or have weights of four bits."""
        noise = {**self.activations, **weight_noise(self.graph, plan, self.statistics, self.activations)}
        noise.update(self.of_dynamic_weights(plan))
        return mixture(self.graph, plan, noise, self.cost, self.target, four_bits)

    def of_dynamic_weights(self, plan: Plan) -> dict[str, float]:
        """The noise of weights whose operators quantize their activations as they run, in steps of which no one is
        known beforehand, or not at all: it is measured."""
        given = {site.node for site, quant in plan.sites.items() if quant.origin not in ("dynamic", "weights")}
        quants = {s.tensor: q for s, q in plan.sites.items() if s.node not in given and q.origin == "weights"}
        trials = [{name: quant} for name, quant in quants.items()]
        feeds = spaced(self.feeds, self.effort.samples)
        parts = contributions(self.graph, plan, trials, list(self.points), feeds, self.runs) if trials else []
        return {name: together(part, self.points) for name, part in zip(quants, parts)}

    def options(self, plan: Plan, measured: float) -> list[Option]:
        """What may be left in float beside what the solved ``plan`` leaves, the least first; affordable options only.

        Each is the most faithful mixture for some time of a run if noise and time just add up; how faithful is then
        measured, with the switches of all tensors on that are still rounded. ``measured``: the plan's fidelity in dB at
        the outputs; what the switches tell, on few samples and before a Softmax, is shifted to agree.
        """
        found = self.mixture(plan)
        fastest = self.seconds(plan)
        slowest = min(self.allowed, found.problem.price(dict.fromkeys(found.sites, FLOAT)).seconds)
        trials: dict[frozenset[str], Plan] = {}
        # Closer together where they are fast: there a little time buys most.
        shares = (((step + 0.1) / POINTS) ** 1.5 for step in range(POINTS))
        budgets = [{"seconds": fastest + max(0.0, slowest - fastest) * share} for share in shares]
        for picks in side_by_side(lambda most: found.problem.best("error", most), budgets):
            if picks is not None:
                trial = self.without(plan, found.kept(picks))
                trials.setdefault(plan.intended - trial.intended, trial)
        decibels = self.predicted([plan, *trials.values()])
        shift = measured - decibels[0]
        options: list[Option] = []
        sure = math.inf
        told = sorted(zip(trials.items(), decibels[1:]), key=lambda one: -self.seconds(one[0][1]))
        for (kept, trial), found_decibels in told:
            # More in float is rarely worse: where few samples say so, they were lucky with less.
            sure = min(sure, found_decibels + shift, ENOUGH)
            slowdown = max(self.seconds(trial) / fastest, 1e-3)
            if kept and self.seconds(trial) < self.allowed:
                percent = round(100.0 * (slowdown - 1.0))
                reason = f"with the others, {sure - measured:.1f} dB for {percent} % of the time"
                options.append(Option(dict.fromkeys(sorted(kept), reason), sure, slowdown))
        return options[::-1]

    def predicted(self, plans: Sequence[Plan]) -> list[float]:
        """Fidelity in dB of plans that differ in what they leave in float, told by the switches of all tensors on that
        they round. The first plan rounds all that others do."""
        quants = {site.tensor: quant for site, quant in plans[0].sites.items()}
        weights = {site.tensor for site, q in plans[0].sites.items() if q.origin == "weights" and site.index == 1}
        groups = [*(group & quants.keys() for group in self.groups), *(frozenset([name]) for name in sorted(weights))]
        trials = [{name: quants[name] for name in group} for group in groups]
        feeds = spaced(self.feeds, max(2, min(self.effort.told_samples, self.runs // (POINTS + 1))))
        found = []
        with Switchboard(self.graph, plans[0], trials, list(self.points), feeds) as board:
            for plan in plans:
                rounded = {site.tensor for site in plan.sites}
                noises = board.noise(index for index, group in enumerate(groups) if group & rounded)
                worst = max(noises[name] * 10.0 ** (-allowed / 10.0) for name, allowed in self.points.items())
                found.append(-10.0 * math.log10(worst) if worst > 0.0 else ENOUGH)
        return found

    def without(self, plan: Plan, nodes: Iterable[str]) -> Plan:
        return self.place(plan.without_nodes(dict.fromkeys(nodes, "")))

    def seconds(self, plan: Plan) -> float:
        """Predicted seconds of a run."""
        return self.cost.of(plan)
