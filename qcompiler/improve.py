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
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.runtime import Feed
from qcompiler.scheme import PerAxis
from qcompiler.sensitivity import contributions
from qcompiler.verify.profile import Profile

PASSING = frozenset(("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat"))
"""Operators that only arrange values: what they join is judged part by part."""

FLOOR = 22.0
"""Fidelity in dB that is worth any speed short of float's."""
PART = 7.0
"""Decibels by which one part of an output may be less true than a whole output."""
ENOUGH = 45.0
"""Fidelity in dB beyond which nothing is traded for more."""
WORTH = 0.5
"""Beyond the floor: gain in dB that one percent of the run time must buy."""
LEAST_GAIN = 0.05
"""Gain in dB below which a step is not worth its place in the plan."""
SHARE_OF_FLOAT = 0.85
"""Share of the float model's time that 8 bits may take for the sake of the floor."""
WORTH_A_RANGE = 0.02
"""Share of all noise that makes a tensor worth trying other ranges for."""
OTHER_RANGES = 3
MOST_RANGES = 10
RANGE_SAMPLES = 4
"""Samples that other ranges are tried on."""
SAMPLES = 2
"""Samples that sensitivity is measured on."""
SECONDS = 5.0
"""Spent on measuring sensitivity, and as much on other ranges: large models are measured less finely."""
SWITCHED = 2.5
"""Times as long as the float model takes the one that holds every tensor plain and rounded."""
MOST_ACTIONS = 80
"""Actions looked at closely: those whose tensors make the most noise."""


def other_ranges(quant: TensorQuant, seen: TensorStatistics) -> list[tuple[float, float]]:
    """Ranges around the plan's: out to the extremes, halfway there, and cut closer."""
    assert quant.scale is not None and quant.zero_point is not None
    first, last = quant.scheme.code_range
    step, offset = float(quant.scale), int(quant.zero_point)
    low, high = (first - offset) * step, (last - offset) * step
    far = min(seen.smallest, low), max(seen.largest, high)
    return [far, ((low + far[0]) / 2, (high + far[1]) / 2), (low * 0.8, high * 0.8)]


def worth(decibels: float, slowdown: float) -> float:
    """What a plan is worth, in dB: its fidelity less its time at the rate of ``WORTH``; what is missing to the floor
    counts tenfold."""
    return decibels - 9.0 * max(0.0, FLOOR - decibels) - WORTH * 100.0 * math.log(slowdown)


def measuring_points(graph: ir.Graph) -> dict[str, float]:
    """The float tensors that make up the outputs, a Concat of boxes and scores being two quantities, not one; each with
    the decibels by which it may fall behind: none for a whole output, ``PART`` for one of several parts."""
    found: dict[str, float] = {}
    for tensor in graph.outputs:
        parts = _parts(graph, tensor)
        for name in parts:
            found[name] = min(found.get(name, math.inf), PART if len(parts) > 1 else 0.0)
    return found


def _parts(graph: ir.Graph, output: ir.Tensor) -> list[str]:
    """Names of the tensors that the output only arranges."""
    found: dict[str, None] = {}

    def walk(tensor: ir.Tensor, depth: int) -> None:
        node = ir.producer(tensor)
        if node is not None and node.op in PASSING and node.domain in (None, "") and depth < 16:
            for source in node.inputs if node.op == "Concat" else node.inputs[:1]:
                walk(source, depth + 1)
        elif node is not None and any(node is own for own in graph.nodes) and _float(tensor):
            found[tensor.name] = None

    walk(output, 0)
    return list(found)


def before_softmax(graph: ir.Graph, points: Mapping[str, float]) -> dict[str, float]:
    """The points with what a Softmax reads in place of what it returns.

    Behind it, the error of a few samples is that of the one decision which happened to turn; before it, all samples
    tell about the same.
    """
    tensors = ir.all_tensors(graph)
    found: dict[str, float] = {}
    for name, allowed in points.items():
        node = ir.producer(tensors[name])
        if node is not None and node.op in ("Softmax", "LogSoftmax") and _float(node.inputs[0]):
            name = node.inputs[0].name
        found[name] = min(found.get(name, math.inf), allowed)
    return found


def _float(tensor: ir.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32


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


def weight_noise(graph: ir.Graph, plan: Plan, statistics: Statistics, activations: Mapping[str, float]) -> dict[str, float]:
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
        key = ("read", name) if name in read or not owner.get(tensor) else ("inside", owner[tensor])
        grouped[key].add(name)
    return [frozenset(names) for names in grouped.values()]


def actions_of(graph: ir.Graph, plan: Plan) -> list[frozenset[str]]:
    """Sets of nodes that may be left in float: each product, and the light operators behind each."""
    heavy, owner = owners(graph, plan)
    behind: dict[str, set[str]] = defaultdict(set)
    for _, node in ir.all_nodes(graph):
        if node.name in plan.intended and node.name not in heavy and node.outputs and owner.get(node.outputs[0]):
            behind[owner[node.outputs[0]]].add(node.name)
    return [frozenset([name]) for name in sorted(heavy)] + [frozenset(names) for _, names in sorted(behind.items())]


def together(part: Mapping[str, float], points: Mapping[str, float]) -> float:
    """Noise-to-signal ratios at the measuring points as one, each less what its point is allowed."""
    return sum(noise * 10.0 ** (-points[name] / 10.0) for name, noise in part.items())


def spread_over(groups: Sequence[frozenset[str]], noise: Sequence[float]) -> dict[str, float]:
    """Each group's noise, shared evenly by its tensors."""
    return {name: power / len(group) for group, power in zip(groups, noise) for name in group}


@dataclass(frozen=True)
class Cost:
    """Seconds of each node in float and in 8 bits, by name, and of one element through a Q or a DQ."""

    plain: Mapping[str, float]
    coded: Mapping[str, float]
    elements: Mapping[str, float]
    per_element: float
    rest: float

    def of(self, plan: Plan, producers: Mapping[str, str]) -> float:
        """Predicted seconds of a run under the plan. ``producers``: the node that makes each tensor."""
        seconds = self.rest + self.per_element * self.crossing(plan, producers)
        for name in set(self.plain) | set(self.coded):
            seconds += self.coded.get(name, 0.0) if name in plan.intended else self.plain.get(name, 0.0)
        return seconds

    def crossing(self, plan: Plan, producers: Mapping[str, str]) -> float:
        """Elements a run that change between codes and float."""
        total = 0.0
        for tensor, sites in plan.tensors().items():
            made_in_codes = producers.get(tensor, "") in plan.intended
            read_in_float = any(site.node not in plan.intended for site in sites)
            crossings = (not made_in_codes) + (made_in_codes and read_in_float)
            total += crossings * self.elements.get(tensor, 0.0)
        return total


def cost_of(plan: Plan, plain: Profile, coded: Profile, statistics: Statistics) -> Cost:
    """From profiles of the float graph and of the plan's lowered one."""
    times = [profile.by_node() for profile in (plain, coded)]
    elements = {name: seen.finite / max(statistics.samples, 1) for name, seen in statistics.tensors.items()}
    known = {name for name in plain.names}
    rest = sum(seconds for name, seconds in times[0].items() if name not in known)
    return Cost(
        {name: s for name, s in times[0].items() if name in known},
        {name: s for name, s in times[1].items() if name in plan.intended},
        elements,
        SECONDS_PER_ELEMENT,
        rest,
    )


SECONDS_PER_ELEMENT = 0.28e-9
"""Of a step between codes and float, measured with ONNX Runtime 1.32 on one AVX512 core: 0.14 ns for QuantizeLinear or
DequantizeLinear, and as much for the change of layout that convolutions want on either side."""


class Improver:
    """Finds the operators to leave in float.

    ``place``: a plan's ``kept`` nodes to the plan that respects them, unsolved. ``measured``: decibels of the current
    plan at its worst point, as measured; predictions are shifted to agree with it. ``allowed``: seconds of a run that
    may be spent for the sake of the floor.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        statistics: Statistics,
        feeds: Sequence[Feed],
        profiles: tuple[Profile, Profile],
        place: Callable[[Plan], Plan],
        measured: float,
        allowed: float,
    ) -> None:
        self.graph, self.plan, self.place = graph, plan, place
        groups = groups_of(graph, plan)
        points = before_softmax(graph, measuring_points(graph))
        quants = {site.tensor: quant for site, quant in plan.sites.items()}
        trials = [{name: quants[name] for name in group} for group in groups]
        self.runs = max(1, int(SECONDS / (SWITCHED * profiles[0].total)))
        parts = contributions(graph, plan, trials, list(points), feeds[:SAMPLES], self.runs)
        activations = spread_over(groups, [together(part, points) for part in parts])
        self.ranges = self.better_ranges(graph, plan, statistics, feeds, points, activations)
        self.plan = plan = replace(plan, ranges={**plan.ranges, **{n: found for n, (found, _) in self.ranges.items()}})
        activations.update({name: power for name, (_, power) in self.ranges.items()})
        self.noise = Noise({**activations, **weight_noise(graph, plan, statistics, activations)})
        self.cost = cost_of(plan, *profiles, statistics)
        self.allowed = allowed
        self.producers = {t.name: node.name for _, node in ir.all_nodes(graph) for t in node.outputs}
        self.shift = measured - self.noise.decibels(plan)

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
                scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), quants[name].scheme)
                options.append((name, (low, high)))
                trials.append({name: quants[name].solved(scale, zero_point, "calibration")})
        if not trials:
            return {}
        baseline = [{name: quants[name]} for name in noisy]
        parts = contributions(graph, plan, [*baseline, *trials], list(points), feeds[:RANGE_SAMPLES], self.runs)
        power = [together(part, points) for part in parts]
        least = dict(zip(noisy, power))
        best: dict[str, tuple[float, float]] = {}
        for (name, found), noise in zip(options, power[len(noisy) :]):
            if noise < 0.8 * least[name]:
                least[name], best[name] = noise, found
        first = dict(zip(noisy, power))
        return {name: (best[name], activations[name] * least[name] / first[name]) for name in best}

    def learn(self, plan: Plan, slowdown: float, decibels: float) -> None:
        """Corrects the predictions from what a plan turned out to be: its time relative to the first one's tells what
        an element costs between codes and float, its fidelity how far errors that do not simply add up were missed."""
        if math.isfinite(decibels):
            self.shift = min(self.shift, decibels - self.noise.decibels(plan))
        elements = self.cost.crossing(plan, self.producers) - self.cost.crossing(self.plan, self.producers)
        before, predicted = self.judged(self.plan)[1], self.judged(plan)[1]
        if elements > 0.0:
            per_element = self.cost.per_element + (before * slowdown - predicted) / elements
            self.cost = replace(self.cost, per_element=max(per_element, SECONDS_PER_ELEMENT))

    def chosen(self) -> dict[str, str]:
        """Nodes to leave in float, with what each step is predicted to buy and to cost."""
        power, seconds = self.judged(self.plan)
        steps = []
        for action in self.noisiest():
            trial = self.without(self.plan, action)
            less, more = power - self.judged(trial)[0], self.judged(trial)[1] - seconds
            if less > 0.0:
                steps.append((less / max(more, 1e-6 * seconds), action))
        kept: dict[str, str] = {}
        plan = self.plan
        for _, action in sorted(steps, key=lambda step: (-step[0], sorted(step[1]))):
            if not action & plan.intended:
                continue
            trial = self.without(plan, action)
            before, after = self.judged(plan), self.judged(trial)
            gain = 10.0 * math.log10(before[0] / after[0]) if after[0] > 0.0 else math.inf
            percent = 100.0 * (after[1] / before[1] - 1.0)
            now = self.shift - 10.0 * math.log10(before[0])
            pays = worth(now + gain, max(after[1] / before[1], 1e-3)) > worth(now, 1.0)
            if gain >= LEAST_GAIN and pays and after[1] < self.allowed:
                reason = f"{gain:.1f} dB for {percent:.1f} % of the time"
                kept.update(dict.fromkeys(sorted(action & plan.intended), reason))
                plan = trial
        return kept

    def noisiest(self) -> list[frozenset[str]]:
        heavy, owner = owners(self.graph, self.plan)
        near: dict[str, float] = defaultdict(float)
        for site in self.plan.sites:
            near[site.node] += self.noise.power.get(site.tensor, 0.0)
        made = {node.name: node.outputs for _, node in ir.all_nodes(self.graph)}

        def noise(action: frozenset[str]) -> float:
            own = {t.name for name in action for t in made[name]}
            return sum(near[name] for name in action) + sum(self.noise.power.get(name, 0.0) for name in own)

        return sorted(actions_of(self.graph, self.plan), key=lambda a: (-noise(a), sorted(a)))[:MOST_ACTIONS]

    def without(self, plan: Plan, action: Iterable[str]) -> Plan:
        return self.place(plan.without_nodes(dict.fromkeys(action, "")))

    def judged(self, plan: Plan) -> tuple[float, float]:
        """(predicted noise-to-signal ratio, predicted seconds)."""
        return self.noise.total(plan), self.cost.of(plan, self.producers)
