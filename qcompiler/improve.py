"""Buys fidelity with speed where it is cheap: which operators to leave in float so that the outputs stay true.

The error that each quantized tensor alone causes at the outputs is measured (``sensitivity``), the time that each
operator takes in both forms is read off the runtime's profiler. Errors add up in power, times add up; so the effect of
leaving any set of operators in float is predicted by placing again, and only the chosen set is built and measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompiler import ir, numerics
from qcompiler.calibrate import Statistics, TensorStatistics
from qcompiler.calibrate.observers import histogram
from qcompiler.cost import cost_of
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.points import before_softmax, measuring_points
from qcompiler.runtime import Feed
from qcompiler.scheme import PerAxis
from qcompiler.sensitivity import Switchboard, contributions
from qcompiler.verify.profile import Profile

FLOOR = 20.0
"""Fidelity in dB that is worth any speed short of float's."""
ENOUGH = 45.0
"""Fidelity in dB beyond which nothing is traded for more."""
SHORT = 15.0
"""Percent of the run time that a decibel is worth below the floor."""
BEYOND = 0.3
"""Percent of the run time that a decibel is worth beyond it."""
SHARE_OF_FLOAT = 0.8
"""Share of the float model's time that 8 bits may take for the sake of the floor."""
WORTH_A_RANGE = 0.01
"""Share of all noise that makes a tensor worth trying other ranges for."""
OTHER_RANGES = 5
MOST_RANGES = 12
RANGE_SAMPLES = 3
"""Samples that other ranges are tried on."""
WALK_SAMPLES = 6
"""Samples that it is measured on how many operators to leave in float."""
STEPS = (12, 3)
"""Steps in how many actions are tried together: first over all of them, then around the best of these."""
SAMPLES = 4
"""Samples that sensitivity is measured on."""
SECONDS = 3.0
"""Spent on measuring sensitivity, and as much on other ranges: large models are measured less finely."""
SWITCHED = 0.5
"""Part of a float run that the effect of one switch takes: see ``Switchboard``."""
WALK_TRIES = 14
"""How many numbers of actions these steps come to, about."""
MOST_ACTIONS = 90
"""Actions looked at closely: those whose tensors make the most noise."""


def other_ranges(quant: TensorQuant, seen: TensorStatistics) -> list[tuple[float, float]]:
    """Ranges around the plan's: out to the extremes, halfway there, and cut closer by some tenths."""
    assert quant.scale is not None and quant.zero_point is not None
    first, last = quant.scheme.code_range
    step, offset = float(quant.scale), int(quant.zero_point)
    low, high = (first - offset) * step, (last - offset) * step
    far = min(seen.smallest, low), max(seen.largest, high)
    closer = [(low * share, high * share) for share in (0.9, 0.8, 0.65)]
    return [far, ((low + far[0]) / 2, (high + far[1]) / 2), *closer]


def worth(decibels: float, slowdown: float) -> float:
    """What a plan is worth, in percent of the run time: see ``SHORT`` and ``BEYOND``, less the time it takes."""
    short, beyond = max(0.0, FLOOR - decibels), max(0.0, decibels - FLOOR)
    return BEYOND * beyond - SHORT * short - 100.0 * math.log(slowdown)


@dataclass(frozen=True)
class Noise:
    """``power``: by tensor of the plan, the noise-to-signal ratio that rounding it causes at the outputs, summed over
    the measuring points."""

    power: Mapping[str, float]

    def total(self, plan: Plan) -> float:
        return sum(self.power.get(name, 0.0) for name in {site.tensor for site in plan.sites})

    def decibels(self, plan: Plan) -> float:
        total = self.total(plan)
        return -10.0 * math.log10(total) if total > 0.0 else math.inf


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


def owners(graph: ir.Graph, plan: Plan) -> tuple[set[str], dict[ir.Tensor, str]]:
    """(products of the plan, and for each tensor the last product before it, "" where there is none)."""
    heavy = {site.node for site, quant in plan.sites.items() if quant.origin == "weights" and site.index == 1}
    owner: dict[ir.Tensor, str] = {}
    for _, node in ir.all_nodes(graph):
        own = node.name if node.name in heavy else next((owner[t] for t in node.inputs if owner.get(t)), "")
        for tensor in node.outputs:
            owner[tensor] = own
    return heavy, owner


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


def actions_of(graph: ir.Graph, plan: Plan) -> list[frozenset[str]]:
    """Sets of nodes that may be left in float: each product, and the light operators behind each."""
    heavy, owner = owners(graph, plan)
    behind: dict[str, set[str]] = defaultdict(set)
    for _, node in ir.all_nodes(graph):
        if node.name in plan.intended and node.name not in heavy and node.outputs and owner.get(node.outputs[0]):
            behind[owner[node.outputs[0]]].add(node.name)
    return [frozenset([name]) for name in sorted(heavy)] + [frozenset(names) for _, names in sorted(behind.items())]


def spaced(feeds: Sequence[Feed], count: int) -> list[Feed]:
    """``count`` of the feeds, evenly spaced: neighbours tend to be alike."""
    return [feeds[index * len(feeds) // count] for index in range(count)] if count < len(feeds) else list(feeds)


def together(part: Mapping[str, float], points: Mapping[str, float]) -> float:
    """Noise-to-signal ratios at the measuring points as one, each less what its point is allowed."""
    return sum(noise * 10.0 ** (-points[name] / 10.0) for name, noise in part.items())


def spread_over(groups: Sequence[frozenset[str]], noise: Sequence[float]) -> dict[str, float]:
    """Each group's noise, shared evenly by its tensors."""
    return {name: power / len(group) for group, power in zip(groups, noise) for name in group}


@dataclass(frozen=True)
class Option:
    """Nodes to leave in float, with the reason, the fidelity in dB that is predicted of it and what it is worth."""

    kept: Mapping[str, str]
    decibels: float
    worth: float


class Improver:
    """Finds better ranges, and the operators to leave in float.

    ``plan`` is solved. ``place``: a plan's ``kept`` nodes to the plan that respects them, unsolved. ``allowed``:
    seconds of a run that may be spent for the sake of the floor.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        statistics: Statistics,
        feeds: Sequence[Feed],
        profiles: tuple[Profile, Profile],
        place: Callable[[Plan], Plan],
        allowed: float,
    ) -> None:
        self.graph, self.plan, self.statistics, self.feeds = graph, plan, statistics, feeds
        self.place, self.allowed = place, allowed
        self.runs = max(1, int(SECONDS / (SWITCHED * profiles[0].total)))
        self.cost = cost_of(graph, plan, *profiles, statistics)
        self.points = before_softmax(graph, measuring_points(graph))
        self.groups = groups_of(graph, plan)
        quants = {site.tensor: quant for site, quant in plan.sites.items()}
        trials = [{name: quants[name] for name in group} for group in self.groups]
        parts = contributions(graph, plan, trials, list(self.points), spaced(feeds, SAMPLES), self.runs)
        self.activations = spread_over(self.groups, [together(part, self.points) for part in parts])

    def with_better_ranges(self) -> Plan:
        """The plan with ranges that measurably make less noise, where there are such; unchanged otherwise."""
        found = self.better_ranges(self.graph, self.plan, self.statistics, self.feeds, self.points, self.activations)
        self.activations.update({name: power for name, (_, power) in found.items()})
        return replace(self.plan, ranges={**self.plan.ranges, **{name: ends for name, (ends, _) in found.items()}})

    def better_ranges(
        self,
        graph: ir.Graph,
        plan: Plan,
        statistics: Statistics,
        feeds: Sequence[Feed],
        points: Mapping[str, float],
        activations: Mapping[str, float],
    ) -> dict[str, tuple[tuple[float, float], float]]:
        """For the tensors that make the most noise: a range that measurably makes less, and the noise that is left.

        An observer weighs every value alike; what a cut value means to the outputs, only the outputs can tell.
        """
        tied = {name for tie in plan.ties for name in tie}
        quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin == "calibration"}
        total = sum(activations.values())
        noisy = [n for n in quants if n not in tied and activations.get(n, 0.0) > WORTH_A_RANGE * total]
        affordable = self.runs // (OTHER_RANGES + 1)
        noisy = sorted(noisy, key=lambda n: (-activations[n], n))[: min(MOST_RANGES, affordable)]
        options: list[tuple[str, tuple[float, float]]] = []
        trials = []
        for name in noisy:
            for low, high in other_ranges(quants[name], statistics.tensors[name]):
                ends, scheme = (np.float64(low), np.float64(high)), quants[name].scheme
                scale, zero_point = numerics.scale_and_zero_point(*ends, scheme)
                options.append((name, (low, high)))
                trials.append({name: quants[name].solved(scale, zero_point, "calibration")})
        if not trials:
            return {}
        baseline = [{name: quants[name]} for name in noisy]
        parts = contributions(graph, plan, [*baseline, *trials], list(points), spaced(feeds, RANGE_SAMPLES), self.runs)
        power = [together(part, points) for part in parts]
        least = dict(zip(noisy, power))
        best: dict[str, tuple[float, float]] = {}
        for (name, found), noise in zip(options, power[len(noisy) :]):
            if noise < 0.8 * least[name]:
                least[name], best[name] = noise, found
        first = dict(zip(noisy, power))
        return {name: (best[name], activations[name] * least[name] / first[name]) for name in best}

    def options(self, plan: Plan, measured: float) -> list[Option]:
        """What may be left in float beside what the solved ``plan`` leaves, the least first; affordable options only.

        Actions are ordered by what they would buy for their time if noise and time just added up. How many of them to
        take is then measured, with the switches of all tensors on that are still rounded. ``measured``: the plan's
        fidelity in dB at the outputs; what the switches tell, on few samples and before a Softmax, is shifted to agree.
        """
        noise = Noise({**self.activations, **weight_noise(self.graph, plan, self.statistics, self.activations)})
        quants = {site.tensor: quant for site, quant in plan.sites.items()}
        weights = {site.tensor for site, q in plan.sites.items() if q.origin == "weights" and site.index == 1}
        groups = [*(group & quants.keys() for group in self.groups), *(frozenset([name]) for name in sorted(weights))]
        trials = [{name: quants[name] for name in group} for group in groups]
        order = self.ordered(plan, noise)
        feeds = spaced(self.feeds, max(2, min(WALK_SAMPLES, self.runs // WALK_TRIES)))
        tried: dict[int, tuple[Plan, float]] = {}
        with Switchboard(self.graph, plan, trials, list(self.points), feeds) as board:

            def tried_with(count: int) -> float:
                """What the first ``count`` actions are worth; measured once."""
                if count not in tried:
                    trial = self.without(plan, (name for action in order[:count] for name in action))
                    rounded = {site.tensor for site in trial.sites}
                    noises = board.noise(index for index, group in enumerate(groups) if group & rounded)
                    worst = max(noises[name] * 10.0 ** (-allowed / 10.0) for name, allowed in self.points.items())
                    tried[count] = trial, -10.0 * math.log10(worst) if worst > 0.0 else ENOUGH
                trial, decibels = tried[count]
                if self.seconds(trial) >= self.allowed:
                    return -math.inf
                return worth(decibels + measured - tried[0][1], self.seconds(trial) / self.seconds(plan))

            tried_with(0)
            best, reach = 0, len(order)
            for step in STEPS:
                around = range(max(0, best - reach), min(len(order), best + reach) + 1, step)
                best, reach = max(around, key=tried_with), step
        shift = measured - tried[0][1]
        found: list[Option] = []
        sure = math.inf
        for _, (trial, decibels) in sorted(tried.items(), reverse=True)[:-1]:
            # More in float is rarely worse: where few samples say so, they were lucky with less.
            sure = min(sure, decibels + shift, ENOUGH)
            slowdown = max(self.seconds(trial) / self.seconds(plan), 1e-3)
            if trial.intended != plan.intended and self.seconds(trial) < self.allowed:
                reason = f"with the others, {sure - measured:.1f} dB for {100.0 * (slowdown - 1.0):.0f} % of the time"
                kept = dict.fromkeys(sorted(plan.intended - trial.intended), reason)
                if not found or found[-1].kept.keys() != kept.keys():
                    found.append(Option(kept, sure, worth(sure, slowdown)))
        return found[::-1]

    def ordered(self, plan: Plan, noise: Noise) -> list[frozenset[str]]:
        """Actions by the noise that they take away for their time, if noise and time just added up."""
        power, seconds = noise.total(plan), self.seconds(plan)
        steps = []
        for action in self.noisiest(plan, noise):
            trial = self.without(plan, action)
            less, more = power - noise.total(trial), self.seconds(trial) - seconds
            if less > 0.0:
                steps.append((less / max(more, 1e-3 * seconds), action))
        return [action for _, action in sorted(steps, key=lambda step: (-step[0], sorted(step[1])))]

    def noisiest(self, plan: Plan, noise: Noise) -> list[frozenset[str]]:
        near: dict[str, float] = defaultdict(float)
        for site in plan.sites:
            near[site.node] += noise.power.get(site.tensor, 0.0)
        made = {node.name: node.outputs for _, node in ir.all_nodes(self.graph)}

        def loudness(action: frozenset[str]) -> float:
            own = {t.name for name in action for t in made[name]}
            return sum(near[name] for name in action) + sum(noise.power.get(name, 0.0) for name in own)

        return sorted(actions_of(self.graph, plan), key=lambda a: (-loudness(a), sorted(a)))[:MOST_ACTIONS]

    def without(self, plan: Plan, action: Iterable[str]) -> Plan:
        return self.place(plan.without_nodes(dict.fromkeys(action, "")))

    def seconds(self, plan: Plan) -> float:
        """Predicted seconds of a run."""
        return self.cost.of(plan)

