"""One model for several targets, calibrated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qcompiler import calibrate, ir
from qcompiler.compiler import Compilation
from qcompiler.errors import TargetError


def statistics_for(jobs: Sequence[Compilation]) -> calibrate.Statistics:
    """Statistics that serve every one of the compilations, which are left as they were before any stage.

    One of them, the one for this machine where there is one, decides how the graph is smoothed and how weights are
    rounded, on its own samples; the others repeat that, and what each needs to know is observed in the same run.

    Raises:
        TargetError: the targets do not clean the model alike, so that tensors of one are not those of another.
    """
    for job in jobs:
        job.clean()
    lead = next((job for job in jobs if job.target.verifier == "onnxruntime"), jobs[0])
    key = calibrate.model_key(lead.graph)
    other = next((job for job in jobs if calibrate.model_key(job.graph) != key), None)
    if other is not None:
        raise TargetError(
            f"{lead.target.name} and {other.target.name} clean this model in different ways", where=lead.name,
            fix="compile for one target at a time",
        )  # fmt: skip
    plan = lead.prepared()
    decided = calibrate.Statistics({}, key, 0, smoothing=dict(plan.smoothing), rounding=dict(plan.rounding))
    names = dict.fromkeys(lead.watched(plan))
    for job in jobs:
        if job is not lead:
            names.update(dict.fromkeys(job.watched(job.prepared(decided))))
    with lead.stages("calibrate"):
        found = lead.calibrated(list(names))
    for job in jobs:
        job.graph = ir.clone(job.source)
        job.runs.clear()
    return replace(found, smoothing=decided.smoothing, rounding=decided.rounding)
