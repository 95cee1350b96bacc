"""What a compilation came to, written down as its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompiler import ir
from qcompiler.inspect import float_reasons
from qcompiler.refine import Candidate
from qcompiler.report import NodeRecord, PassRecord, Report
from qcompiler.settle import Measured

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

CODES = {"float8_e4m3fn": "fp8", "int4": "int4", "uint4": "int4"}
"""What nodes in codes of these types are said to be in; in int8 otherwise."""


def report_of(job: Compilation, candidate: Candidate, found: Measured, warnings: Sequence[str]) -> Report:
    """The report of a compilation that ends in the candidate, which measures what was found."""
    graph, plan, feeds = candidate.graph, candidate.plan, job.feeds()
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
    if not feeds:
        report.warnings.append(f"not measured: {job.unmeasured}; give samples (--data)")
    reasons = float_reasons(job.graph, job.target, job.diagnostics())
    report.nodes = [
        NodeRecord(name, op, kind, form, why or reasons[name])
        if kind == "float"
        else NodeRecord(name, op, CODES.get(job.target.weight.dtype, kind), form, why)
        for name, op, kind, form, why in candidate.fates(job.graph)
    ]
    report.operators = candidate.operators
    report.stages = job.stages.records
    report.passes = [PassRecord(run.name, run.seconds, run.result.rewrites) for run in job.runs]
    report.decisions = [f"{d.action}: {', '.join(d.where)}: {d.reason}" for d in (plan.decisions if plan else ())]
    report.diagnostics = list(dict.fromkeys(str(d) for d in job.diagnostics()))
    return report
