"""The last word: whether what was compiled is what the user gets, by what it measures beside the source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.explain import loudest
from qcompiler.plan import Plan
from qcompiler.report import OutputRecord, SpeedRecord
from qcompiler.runtime import Feed, run, session
from qcompiler.search import improve
from qcompiler.search.points import selecting
from qcompiler.search.refine import NOISE, Candidate
from qcompiler.search.selected import with_selections
from qcompiler.verify import numbers, timing

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

UNCHANGED = "left as it was"
"""The action of a decision to return the source itself."""
FAITHFUL = 15.0
"""Fidelity in dB below which an output is warned about."""
ALIKE = 10.0
"""An output that floats, computed in another order, keep this little more of than 8 bits cannot be told apart."""
AGREEMENT_SECONDS = 2.0
"""Runs of the source of this much time are what outputs are compared over, a few at least."""
LEAST_SAMPLES = 4
EXPLAINING = 3.0
"""Seconds that may go into finding out what makes an output unfaithful."""
MOST_NAMED = 3


@dataclass(frozen=True)
class Measured:
    """A graph beside the source, over this many samples. ``speed`` is None where time is not to be measured."""

    outputs: list[OutputRecord]
    speed: SpeedRecord | None
    samples: int

    def unfaithful(self) -> list[OutputRecord]:
        return [output for output in self.outputs if output.judged < FAITHFUL]


def measured(compilation: Compilation, graph: ir.Graph) -> Measured:
    options, feeds = compilation.options, compilation.samples.feeds()
    if compilation.large:
        return Measured([], None, 0)
    with compilation.stages("measure"), session(compilation.source, threads=options.threads) as source:
        if options.timing:
            feeds = improve.spaced(feeds, affordable(source, feeds))
        with session(graph, threads=options.threads, optimize=compilation.optimize) as compiled:
            outputs = [OutputRecord(**vars(error)) for error in numbers.compare(source, compiled, feeds)]
        outputs = with_selections(compilation.graph, graph, outputs, feeds, optimize=compilation.optimize)
        if not options.timing or not feeds:
            return Measured(outputs, None, len(feeds))
        with session(graph, threads=options.threads) as compiled:
            found = timing.interleaved({"source": source, "compiled": compiled}, feeds, sure=timing.SURE)["compiled"]
    speed = SpeedRecord(
        source_ms=found.median * found.speedup * 1e3,
        compiled_ms=found.median * 1e3,
        speedup=found.speedup,
        speedup_low=found.speedup_low,
        speedup_high=found.speedup_high,
        threads=options.threads,
        rounds=found.rounds,
    )
    return Measured(outputs, speed, len(feeds))


def affordable(source: ort.InferenceSession, feeds: Sequence[Feed]) -> int:
    """On how many of the samples the source can be run in about ``AGREEMENT_SECONDS``, a few at least."""
    start = time.perf_counter()
    for feed in feeds[:LEAST_SAMPLES]:
        run(source, feed)
    seconds = (time.perf_counter() - start) / LEAST_SAMPLES
    return max(LEAST_SAMPLES, int(AGREEMENT_SECONDS / max(seconds, 1e-6)))


def settled(
    compilation: Compilation, candidate: Candidate, statistics: Statistics | None
) -> tuple[Candidate, Measured, list[str]]:
    """The candidate where its 8 bits pay, else the cleaned float graph where it is no slower than the source, else the
    source as it was; with what it measures, and what the user should be warned of.

    8 bits pay when they are measurably faster, and where an output suffers, faster by as much as that is worth; but
    where the cleaned float graph has lost about as much of it, these samples decide nothing: they find what is as small
    as the rounding of floats. Few bits for weights alone always pay, by their size; should they make the model slower,
    that is told.
    """
    if candidate.plan is not None and candidate.plan.smoothing and not candidate.plan.intended:
        candidate = in_float(compilation, candidate.plan)
    found, warnings = measured(compilation, candidate.graph), []
    if compilation.kind.quantize == "weights" and candidate.plan is not None and candidate.plan.intended:
        if found.speed is not None and found.speed.speedup < 1.0 - NOISE:
            warnings.append(f"smaller and slower: it runs at {found.speed.speedup:.2f}x its speed")
        return candidate, found, warnings + unfaithful(compilation, candidate.plan, statistics, found)
    if found.speed is not None and candidate.plan is not None and candidate.plan.intended:
        reason = ""
        if found.speed.speedup < 1.0 + NOISE:
            reason = f"in 8 bits the model runs at {found.speed.speedup:.2f}x its speed"
        elif not _worth_it(compilation, found):
            complaint = unfaithful(compilation, candidate.plan, statistics, found)[0]
            reason = f"in 8 bits, at {found.speed.speedup:.2f}x the speed, {complaint}"
        if reason:
            eight, marked = (candidate, found), compilation.graph
            candidate = in_float(compilation, candidate.plan, reason)
            found = measured(compilation, candidate.graph)
            told = _as_lost_in_float(eight[1], found)
            if told:
                (candidate, found), compilation.graph = eight, marked
            warnings.append(told or f"stays in float: {reason}")
    if found.speed is not None and found.speed.speedup < 1.0 - NOISE:
        reason = f"cleaned it runs at {found.speed.speedup:.2f}x its speed"
        warnings.append(f"{UNCHANGED}: {reason}")
        plan = candidate.plan.deciding((), UNCHANGED, reason) if candidate.plan is not None else None
        candidate = unchanged(compilation, plan)
        found = measured(compilation, candidate.graph)
    return candidate, found, warnings + unfaithful(compilation, candidate.plan, statistics, found)


def _worth_it(compilation: Compilation, found: Measured) -> bool:
    """Whether the speed of the candidate makes up for what its outputs lost, where they lost much."""
    assert found.speed is not None
    floats = {t.name for t in compilation.source.outputs if t.dtype is not None and np.dtype(t.dtype).kind == "f"}
    lost = [output.judged for output in found.unfaithful() if output.name in floats]
    return not lost or improve.worth(min(lost), 1.0) > improve.worth(improve.ENOUGH, found.speed.speedup)


def _as_lost_in_float(eight: Measured, plain: Measured) -> str:
    """What to say where outputs that the faster 8 bits lose are about as lost in floats; empty elsewhere."""
    assert eight.speed is not None and plain.speed is not None
    kept = {output.name: output for output in plain.outputs}
    lost = [output for output in eight.unfaithful() if output.name in kept]
    if not lost or eight.speed.speedup < max(1.0, plain.speed.speedup) + NOISE:
        return ""
    if any(kept[one.name].judged >= min(FAITHFUL, one.judged + ALIKE) for one in lost):
        return ""
    worst = min((kept[one.name] for one in lost), key=lambda output: output.judged)
    return (
        f"these samples say little of output '{worst.name}': in float, cleaned, it keeps {worst.judged:.1f} dB, and "
        f"differs by {worst.largest:.1g} at most; give samples in which the model finds something"
    )


def in_float(compilation: Compilation, plan: Plan, reason: str = "") -> Candidate:
    """The cleaned graph, with the reason why nothing of the plan is left."""
    kept = {**plan.kept, **dict.fromkeys(plan.intended, f"stays in float: {reason}")}
    nothing = Plan(plan.target, plan.precision, kept=kept, decisions=plan.decisions)
    if plan.intended:
        nothing = nothing.deciding(sorted(plan.intended), "returned to float", reason)
    if plan.smoothing:  # it has left its marks on the graph
        compilation.graph = ir.clone(compilation.source)
        compilation.clean()
    return Candidate(compilation.lowered(nothing), nothing)


def unchanged(compilation: Compilation, plan: Plan | None) -> Candidate:
    """The source itself."""
    compilation.graph = ir.clone(compilation.source)
    return Candidate(ir.clone(compilation.source), plan)


def unfaithful(
    compilation: Compilation, plan: Plan | None, statistics: Statistics | None, found: Measured
) -> list[str]:
    """A line for each output that has little left of the source's, naming the nodes that make the noise, or those that
    select otherwise."""
    bad = sorted(found.unfaithful(), key=lambda output: output.judged)
    if not bad:
        return _exchanged(compilation, found)
    shares: list[tuple[str, float]] = []
    if plan is not None and plan.sites and compilation.precision == "int8":
        runs = int(EXPLAINING / (2e-3 * found.speed.source_ms)) if found.speed is not None else 100
        feeds = compilation.samples.feeds()[:2]
        shares = loudest(compilation.graph, plan, statistics, feeds, max(1, runs))[:MOST_NAMED]
    why = "".join(f", {name} ({share:.0%})" for name, share in shares)
    why = f"; most noise is made by rounding at{why[1:]}: leave more in float with --keep-float" if why else ""
    names = [
        f"output '{output.name}'" if output.selected_from is None else f"what output '{output.name}' is selected from"
        for output in bad
    ]
    quantized = plan is not None and bool(plan.intended)
    lines = []
    for name, output in zip(names, bad):
        reason = why if quantized else f", in float: it differs by {output.largest:.1g} at most"
        lines.append(f"{name} keeps {output.judged:.1f} dB{reason}")
    return lines + _exchanged(compilation, found)


def _exchanged(compilation: Compilation, found: Measured) -> list[str]:
    """A line for each output that a selection is all that is wrong with: compared place by place it says little."""
    lines = []
    for output in found.outputs:
        if output.selected_from is None or output.judged < FAITHFUL or output.sqnr >= FAITHFUL:
            continue
        names = list(dict.fromkeys(f"{node.op} '{node.name}'" for node in selecting(compilation.graph, output.name)))
        among = f"{', '.join(names[:MOST_NAMED])} select" + ("s" if len(names) == 1 else "")
        lines.append(
            f"output '{output.name}' keeps {output.sqnr:.1f} dB place by place: {among} among what keeps "
            f"{output.selected_from:.1f} dB, where what is nearly equal changes places"
        )
    return lines
