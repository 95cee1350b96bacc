"""What a compilation came to, written down as its report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.depth import by_depth
from qcompiler.errors import QCompilerError
from qcompiler.inspect import float_reasons
from qcompiler.report import MemoryRecord, NodeRecord, PassRecord, Report
from qcompiler.runtime import side_by_side
from qcompiler.search.refine import Candidate
from qcompiler.search.settle import Measured
from qcompiler.verify import footprint
from qcompiler.worst import worst_tensors

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

CODES = {"float8_e4m3fn": "fp8", "float4_e2m1fn": "fp4", "int4": "int4", "uint4": "int4"}
"""What nodes in codes of these types are said to be in; in int8 otherwise."""
SHARE = 0.01
"""Of the compilation's time so far, what running the model for the error by depth may take."""
MEMORY_FEEDS = 2
MOST_NOT_FINITE = 3
"""Tensors with NaN or infinities that are named; what is computed of them holds some too."""


def report_of(
    job: Compilation, candidate: Candidate, found: Measured, warnings: Sequence[str], statistics: Statistics | None
) -> Report:
    """The report of a compilation that ends in the candidate, which measures what was found."""
    graph, plan, feeds = candidate.graph, candidate.plan, job.samples.feeds()
    origin = "given" if job.data is not None else "random"
    report = Report(
        model=job.name,
        target=job.target.name,
        cpu=job.target.cpu,
        precision=job.precision,
        runtime=job.runtime,
        source_bytes=ir.weight_bytes(job.source),
        compiled_bytes=ir.weight_bytes(graph),
        speed=found.speed,
        outputs=found.outputs,
        samples=f"{found.samples} {origin} samples" if feeds else "no samples",
        warnings=list(warnings),
    )
    if not job.options.ops and job.kind.ops != job.target.ops:
        report.warnings.append("made of the runtime's own operators: the native library is missing")
    if job.large:
        size = f"{ir.weight_bytes(job.source) / 1e9:.1f} GB of weights"
        report.warnings.append(f"not run, neither it nor the source: memory has no room for {size} and copies of them")
    elif not feeds:
        report.warnings.append(f"not measured: {job.samples.unmeasured}; give samples (--data)")
    bad = statistics.not_finite() if statistics is not None else []
    report.warnings += bad[:MOST_NOT_FINITE]
    if len(bad) > MOST_NOT_FINITE:
        report.warnings.append(f"not finite: {len(bad) - MOST_NOT_FINITE} tensors more, see qcompiler stats")
    reasons = float_reasons(job.graph, job.target, job.diagnostics())
    report.nodes = [
        NodeRecord(name, op, kind, form, why or reasons[name])
        if kind == "float"
        else NodeRecord(name, op, CODES.get(job.target.weight.dtype, kind), form, why)
        for name, op, kind, form, why in candidate.fates(job.graph)
    ]
    report.operators = candidate.operators
    report.front = sorted(job.front, key=lambda point: point.speedup)
    report.stages = job.stages.records
    report.passes = [PassRecord(run.name, run.seconds, run.result.rewrites) for run in job.runs]
    report.decisions = [f"{d.action}: {', '.join(d.where)}: {d.reason}" for d in (plan.decisions if plan else ())]
    report.diagnostics = list(dict.fromkeys(str(d) for d in job.diagnostics()))
    if job.options.details:
        with job.stages("describe"):
            describe(report, job, candidate, statistics)
    return report


def describe(report: Report, job: Compilation, candidate: Candidate, statistics: Statistics | None) -> None:
    """Adds what only the whole report shows: error by depth, the worst tensors, and memory."""
    feeds, plan, here = job.samples.feeds(), candidate.plan, job.target.verifier == "onnxruntime"
    if plan is not None and plan.sites and feeds:
        seconds = SHARE * sum(stage.seconds for stage in job.stages.records)
        try:
            report.depth = by_depth(job.graph, candidate.graph, plan, feeds, seconds, job.optimize)
        except QCompilerError as error:
            report.warnings.append(f"the error by depth is not known: {error}")
        if statistics is not None:
            report.histograms = worst_tensors(job.graph, plan, statistics)
    if here and feeds and job.options.timing:
        report.memory = _memory(job, candidate)


def _memory(job: Compilation, candidate: Candidate) -> MemoryRecord | None:
    """None where the system does not tell. Both are measured at once: memory, unlike time, does not mind."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        paths = [
            ir.save(graph, Path(folder) / name)
            for name, graph in (("source.onnx", job.source), ("compiled.onnx", candidate.graph))
        ]
        feeds = job.samples.feeds()[:MEMORY_FEEDS]
        used = list(side_by_side(lambda path: footprint.measured(path, feeds, job.options.threads), paths))
    return MemoryRecord(*used) if all(used) else None
