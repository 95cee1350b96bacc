"""Asks the target what it did with a plan, and explains, repairs or reverts what it did not take."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.report import FrontRecord
from qcompiler.runtime import Feed, run, session, side_by_side
from qcompiler.search import by_row, free, improve
from qcompiler.search.free import overall
from qcompiler.search.lossy_tables import without_lossy_tables
from qcompiler.search.points import measuring_points
from qcompiler.search.sensitivity import with_outputs
from qcompiler.tables import refusals, tables_of
from qcompiler.target import Target
from qcompiler.verify import fused, numbers, profile, timing

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

MOST_ROUNDS = 4
FIDELITY_BYTES = 64e6
"""Outputs of the float model that are kept for it, about."""
PROFILE_SECONDS = 1.0
ALIKE = 1.25
"""How many times larger one step may be than another for them to count as about the same."""
NOISE = 0.01
"""Gains and losses below this share of a run are not told apart from measuring noise."""


@dataclass
class Candidate:
    """A lowered graph with what the target made of it."""

    graph: ir.Graph
    plan: Plan | None
    forms: dict[str, fused.Fate] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)

    def unfused(self) -> dict[str, str]:
        return {name: fate.why for name, fate in self.forms.items() if not fate.fused}

    def fates(self, graph: ir.Graph) -> Iterator[tuple[str, str, str, str, str]]:
        """(name, operator, precision, form that runs, reason) of each node of the cleaned graph."""
        kept = self.plan.kept if self.plan else {}
        quantized = set(self.plan.intended if self.plan else ())
        few = self.plan.four_bits if self.plan else frozenset()
        quantized |= {name for members in tables_of(self.graph).values() for name in members} - kept.keys()
        for _, node in ir.all_nodes(graph):
            fate = self.forms.get(node.name)
            precision = "int4" if node.name in few else "int8"
            precision = precision if node.name in quantized and fate is not None and fate.fused else "float"
            reason = kept.get(node.name) or (fate.why if fate is not None else "")
            yield node.name, node.op, precision, fate.form if fate else node.op, reason


@dataclass
class Study:
    """A candidate, its fidelity in dB and speed as a multiple of the source's, with what is known of its parts."""

    candidate: Candidate
    decibels: float
    speedup: float
    improver: improve.Improver


class Refiner:
    """Turns a solved plan into one that the target takes in full and runs no slower than the source.

    ``replayed``: the plan was given, and is written as it is.
    """

    def __init__(self, compilation: Compilation, ctx: PassContext, replayed: bool) -> None:
        self.compilation = compilation
        self.ctx = ctx
        self.replayed = replayed
        self.profiles: dict[ir.Graph, profile.Profile] = {}
        self.effort = improve.EFFORTS[compilation.options.improve]
        self.front: list[FrontRecord] = []
        self.other: Candidate | None = None
        """What may serve where there is something to be met: see ``by_row``."""

    @functools.cached_property
    def seconds(self) -> float:
        """Of one run of the cleaned float graph, about."""
        feed = self.compilation.samples.feeds()[0]
        with session(self.compilation.graph) as model:
            run(model, feed)
            start = time.thread_time()  # how much is measured is not to depend on what else the machine does
            run(model, feed)
            return max(time.thread_time() - start, 1e-6)

    def affordable(self, seconds: float, least: int, most: int) -> int:
        """How many runs fit into ``seconds``, within bounds: slow models are measured on fewer."""
        return max(min(least, most), min(most, int(seconds / self.seconds)))

    @functools.cached_property
    def feeds(self) -> list[Feed]:
        """The samples that fidelity is judged on while plans are compared."""
        feeds = self.compilation.samples.feeds()
        if not self.compilation.options.timing:
            return improve.spaced(feeds, self.effort.untimed_samples)
        return improve.spaced(feeds, self.affordable(self.effort.fidelity_seconds, 4, len(feeds)))

    def refined(self) -> Candidate:
        assert self.ctx.plan is not None
        candidate = self.built(self.ctx.plan)
        if self.replayed:
            return candidate
        candidate = self.fused(candidate)
        # Weights alone are in few bits for their size: what that costs in time is told, and not taken back.
        weights_alone = self.compilation.kind.quantize == "weights"
        if self.compilation.samples.feeds() and not weights_alone:
            timing = self.compilation.options.timing
            if timing:
                tried = by_row.ways(self, candidate)
                candidate, self.other = self.no_slower(tried.best), tried.other
            if self.effort.built and self.compilation.options.goal is None:
                candidate = self.faithful(candidate) if timing else self.freely_improved(candidate)
        return candidate

    def fused(self, candidate: Candidate) -> Candidate:
        """Takes out what the runtime did not fuse."""
        for _ in range(MOST_ROUNDS):
            unfused = candidate.unfused()
            if not unfused:
                break
            candidate = self.without(candidate, unfused, "left in float", "the runtime does not fuse it")
        return candidate

    def faithful(self, candidate: Candidate) -> Candidate:
        """Leaves more in float where that buys enough fidelity."""
        study = self.studied(candidate, improve.ENOUGH)
        if study is None:
            return candidate
        candidate, before = study.candidate, study.decibels
        assert candidate.plan is not None
        best, most = candidate, improve.worth(before, 1.0)
        options = study.improver.options(candidate.plan, before)
        self.on_front(study, options)
        first = max(range(len(options)), key=lambda index: options[index].worth, default=0)
        if options and options[first].worth <= most and before >= improve.FLOOR and not self.effort.whole_front:
            return candidate
        index, measured = first, dict[int, float]()
        while index < len(options) and len(measured) < self.effort.built:
            trial, decibels, faster = self.left(candidate, options[index])
            measured[index] = decibels
            known = replace(self.front[1 + index], sqnr_measured=decibels, speedup=study.speedup * faster)
            self.front[1 + index] = known
            self.front[:] = corrected(self.front, [before, *(option.decibels for option in options)])
            value = improve.worth(decibels, 1.0 / faster)
            if value > most:
                best, most = trial, value
            index = reaching(options, measured, index)
            if self.effort.whole_front and index == len(options):
                index = next((other for other in range(len(options)) if other not in measured), len(options))
        return best

    def freely_improved(self, candidate: Candidate) -> Candidate:
        """The candidate with what costs no time and makes it more faithful; no clock is asked."""
        study = self.studied(candidate, improve.ENOUGH)
        return candidate if study is None else study.candidate

    def left(self, candidate: Candidate, option: improve.Option) -> tuple[Candidate, float, float]:
        """The candidate with what the option leaves in float, its fidelity in dB, and how much faster it is."""
        reason = "rounding it costs too much fidelity"

        def change(whole: Candidate) -> Candidate:
            return self.fused(self.without(whole, dict(option.kept), "left in float", reason))

        trial, decibels = free.with_own_biases(self, change, candidate)
        return trial, min(decibels), self.ratio(candidate, trial)

    def studied(self, candidate: Candidate, enough: float = math.inf) -> Study | None:
        """The candidate, with its weights rounded to nearest or other ranges where the outputs ask for it, and what is
        known of leaving more of it in float. None where nothing can be known, and above ``enough`` dB."""
        compilation, plan = self.compilation, candidate.plan
        if plan is None or not isinstance(self.ctx.statistics, Statistics):
            return None
        feeds = self.feeds
        if not self.points or not plan.intended:
            return None
        before = self.decibels(candidate)
        if min(before) >= enough:
            return None
        gained = 1.0
        if compilation.options.timing:
            with session(compilation.source) as source, session(candidate.graph) as own:
                sessions = {"source": source, "own": own}
                gained = timing.interleaved(sessions, feeds, seconds=0.6, sure=timing.SURE)["own"].speedup
        if plan.rounding:
            nearest = self.built(replace(plan, rounding={}))
            decibels = self.decibels(nearest)
            if overall(decibels) > overall(before):  # a product's error was lessened where the outputs do not look
                reason = f"{overall(decibels):.1f} dB, and {overall(before):.1f} rounded on samples"
                plan = replace(plan, rounding={}).deciding(sorted(plan.rounding), "rounded to nearest", reason)
                candidate, before = replace(nearest, plan=plan), decibels
        profiles = None
        if compilation.options.timing:
            profiles = self.profile(compilation.graph), self.profile(candidate.graph)
        improver = improve.Improver(
            compilation.graph,
            plan,
            self.ctx.statistics,
            feeds,
            profiles,
            compilation.target,
            self.unsolved,
            improve.SHARE_OF_FLOAT * profiles[1].total * gained if profiles is not None else 0.0,
            self.effort,
        )
        fewer = without_lossy_tables(self, candidate, before, improver.activations)
        if fewer is not None:
            return self.studied(fewer)
        candidate, before = free.best_of(self, (candidate, before), improver)
        return Study(candidate, min(before), gained, improver)

    def on_front(self, study: Study, options: Sequence[improve.Option]) -> None:
        """Notes the candidate and what is predicted of the options as points of the front."""
        assert self.ctx.plan is not None and study.candidate.plan is not None
        already = len(self.ctx.plan.intended - study.candidate.plan.intended)
        self.front[:] = [FrontRecord(study.speedup, study.decibels, study.decibels, already)]
        for option in options:
            speedup = study.speedup / option.slowdown
            self.front.append(FrontRecord(speedup, option.decibels, None, already + len(option.kept)))

    def profile(self, graph: ir.Graph) -> profile.Profile:
        """Where the graph's time goes; measured once."""
        if graph not in self.profiles:
            runs = self.affordable(PROFILE_SECONDS, 3, profile.RUNS)
            self.profiles[graph] = profile.measure(graph, self.compilation.samples.feeds(), runs)
        return self.profiles[graph]

    @functools.cached_property
    def points(self) -> dict[str, float]:
        """Where fidelity is judged: see ``measuring_points``."""
        return measuring_points(self.compilation.graph)

    @functools.cached_property
    def expected(self) -> list[list[np.ndarray]]:
        """What the float graph holds at the points, for as many of the samples as are affordable."""
        names, taken = list(self.points), 0
        found: list[list[np.ndarray]] = []
        with session(with_outputs(self.compilation.graph, names)) as plain:
            for outputs in side_by_side(lambda feed: run(plain, feed, names), self.feeds):
                found.append(outputs)
                taken += sum(array.nbytes for array in outputs)
                if taken > FIDELITY_BYTES:
                    break
        return found

    def fidelity(self, candidate: Candidate) -> float:
        """Decibels of the worst output over the samples, or of the worst part of one with what it is allowed."""
        return min(self.decibels(candidate))

    def decibels(self, candidate: Candidate) -> list[float]:
        """Of each output, or part of one with what it is allowed. What costs no time is judged by their mean: what one
        gains is not to be paid for by another."""
        found = numbers.Comparison(list(self.points))
        graph = with_outputs(candidate.graph, found.names)
        with session(graph, optimize=self.compilation.optimize) as own:
            outputs = side_by_side(lambda feed: run(own, feed, found.names), self.feeds[: len(self.expected)])
            for wanted, actual in zip(self.expected, outputs):
                found.add(wanted, actual)
        return [error.sqnr + self.points[error.name] for error in found.errors()]

    def unsolved(self, plan: Plan, target: Target | None = None) -> Plan:
        """The placement that respects the plan's kept nodes, of the compilation's ``target`` or another; asked for
        often, so past the pipeline's checks."""
        compilation = self.compilation
        ctx = replace(self.ctx, plan=plan, target=target or self.ctx.target)
        found = compilation.placing().run(compilation.graph, ctx).plan
        assert found is not None
        return found

    def built(self, plan: Plan) -> Candidate:
        before = len(self.compilation.runs)
        graph = self.compilation.lowered(plan, self.ctx.statistics)
        optimized = fused.written(graph) if self.compilation.large else fused.optimize(graph)
        refused = refusals(remark for run in self.compilation.runs[before:] for remark in run.result.diagnostics)
        forms = fused.fates(plan.intended, optimized, tables_of(graph), refused)
        return Candidate(graph, plan, forms, optimized.histogram())

    def without(self, candidate: Candidate, nodes: dict[str, str], action: str, reason: str) -> Candidate:
        """The candidate with these nodes in float."""
        assert candidate.plan is not None
        plan = candidate.plan.without_nodes({name: f"{reason}: {why}" for name, why in nodes.items()})
        plan = plan.deciding(sorted(nodes), action, reason)
        ctx = self.compilation.placed(replace(self.ctx, plan=plan))
        assert ctx.plan is not None
        found = self.compilation.solved(ctx)
        known = with_numbers_of(candidate.plan, ctx.plan, found)
        return self.built(found if known is ctx.plan else self.compilation.solved(replace(ctx, plan=known)))

    def no_slower(self, candidate: Candidate) -> Candidate:
        """Gives regions back to float that measure slower in 8 bits."""
        compilation = self.compilation
        for _ in range(MOST_ROUNDS):
            assert candidate.plan is not None
            regions = regions_of(candidate.plan, tables_of(candidate.graph).values())
            if not regions:
                break
            plain, coded = self.profile(compilation.graph), self.profile(candidate.graph)
            losses = profile.losses(regions, plain, coded)
            worst = {
                name: f"{seconds * 1e6:.0f} us a run slower than in float"
                for index, seconds in losses.items()
                if seconds > NOISE * plain.total
                for name in regions[index]
            }
            if not worst:
                break
            trial = self.without(candidate, worst, "returned to float", "measured slower in 8 bits")
            if self.ratio(candidate, trial) < 1.0:
                break
            candidate = trial
        return candidate

    def ratio(self, base: Candidate, trial: Candidate) -> float:
        """How much faster the trial is than the base."""
        feeds = self.compilation.samples.feeds()
        with session(base.graph) as a, session(trial.graph) as b:
            return timing.interleaved({"base": a, "trial": b}, feeds, seconds=0.6, sure=timing.SURE)["trial"].speedup


def with_numbers_of(before: Plan, placed: Plan, solved: Plan) -> Plan:
    """The placed plan with the steps that tensors have in the plan ``before``, where those that it was ``solved`` to
    are about the same: what was measured with them then holds. Not so where a tensor that is tied no longer to others
    can have steps that are much smaller."""

    def known(site: Site, quant: TensorQuant) -> TensorQuant | None:
        old, new = before.sites.get(site), solved.sites[site]
        if quant.origin != "unsolved" or old is None or old.origin != "calibration" or old.scheme != new.scheme:
            return None
        if old.scale is None or new.scale is None or old == new or old.scale.shape != new.scale.shape:
            return None
        return old if np.all(old.scale < ALIKE * new.scale) and np.all(new.scale < ALIKE * old.scale) else None

    groups: dict[frozenset[str], dict[Site, TensorQuant]] = {}
    broken: set[frozenset[str]] = set()
    for site, quant in placed.sites.items():
        group, own = placed.group(site.tensor), known(site, quant)
        if own is None:
            broken.add(group)
        else:
            groups.setdefault(group, {})[site] = own
    found = {site: quant for group, sites in groups.items() if group not in broken for site, quant in sites.items()}
    return replace(placed, sites={**placed.sites, **found}) if found else placed


def reaching(options: Sequence[improve.Option], measured: Mapping[int, float], last: int) -> int:
    """The option to build next, after some were ``measured`` in dB: of those between the most in float that falls short
    of the floor and the least that reaches it, the least that reaches it too if its prediction is as wrong as the
    ``last`` one's, else, where both ends are known, the one in the middle. ``len(options)`` when there is none."""
    short = max((index for index, decibels in measured.items() if decibels < improve.FLOOR), default=-1)
    long = min((index for index in measured if index > short), default=len(options))
    wanted = options[last].decibels + improve.FLOOR - measured[last]
    between = range(short + 1, long)
    enough = (index for index in between if options[index].decibels >= wanted)
    bracketed = short >= 0 and long < len(options) and len(between) > 0
    return next(enough, between[len(between) // 2] if bracketed else len(options))


def corrected(front: Sequence[FrontRecord], told: Sequence[float]) -> list[FrontRecord]:
    """The points, with what is ``told`` of those that are not built shifted by what the built ones were off, in between
    of them in proportion."""
    built = sorted((raw, one.sqnr_measured - raw) for one, raw in zip(front, told) if one.sqnr_measured is not None)
    raws, off = [raw for raw, _ in built], [difference for _, difference in built]
    return [
        replace(point, sqnr_predicted=raw + float(np.interp(raw, raws, off))) if point.sqnr_measured is None else point
        for point, raw in zip(front, told)
    ]


def regions_of(plan: Plan, tables: Iterable[Sequence[str]] = ()) -> list[set[str]]:
    """Groups of nodes that read the same tensors in codes, or that a table stands for: each can be given back to float
    on its own."""
    links: nx.Graph = nx.Graph()
    links.add_nodes_from(plan.intended)
    for sites in plan.tensors().values():
        nx.add_path(links, [site.node for site in sites if site.node in plan.intended])
    for members in tables:
        nx.add_path(links, [name for name in members if name in plan.intended])
    return [set(group) for group in nx.connected_components(links)]
