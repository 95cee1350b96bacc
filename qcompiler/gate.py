"""Bounds that a compiled model must hold, and an earlier run that it must not fall behind: one line says what broke."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcompiler.errors import ReportError, VerificationError
from qcompiler.metrics import Drop, Metric
from qcompiler.report import OutputRecord
from qcompiler.report.reading import check_format, read_json, record_of
from qcompiler.verify.numbers import OutputError

VERIFIED = "qcompiler-verify/1"
"""The format of what ``qcompiler verify --json`` prints."""
ALIKE = 100.0
"""Decibels beyond which outputs are as good as equal: what is left there is the order of float additions."""


@dataclass(frozen=True)
class Judged:
    """What a metric says of the source and of the compiled model."""

    metric: Metric
    source: float
    compiled: float

    @property
    def drop(self) -> float:
        return self.metric.drop(self.source, self.compiled)


@dataclass(frozen=True)
class Tolerance:
    """How much worse than a baseline is not worse: ``sqnr`` in dB, ``speed`` as a share of it, and the metric's."""

    sqnr: float
    speed: float
    metric: Drop


@dataclass(frozen=True)
class _Output:
    name: str
    sqnr: float


@dataclass(frozen=True)
class _Speed:
    speedup: float


@dataclass(frozen=True)
class _Metric:
    name: str
    compiled: float


@dataclass(frozen=True)
class Baseline:
    """What an earlier run measured. ``where``: the file that says so."""

    outputs: list[_Output]
    speed: _Speed | None = None
    metric: _Metric | None = None
    where: str = field(default="", compare=False)


def load_baseline(path: str | os.PathLike[str]) -> Baseline:
    """From what ``verify --json`` printed or ``compile --report`` wrote. Raises ReportError."""
    where, data = str(path), read_json(path)
    fix = "give what verify --json printed, or what compile --report wrote"
    kind = data.get("format", VERIFIED)
    if isinstance(kind, str) and kind.startswith("qcompiler-report/"):
        check_format(data, where)
    elif kind != VERIFIED or not data.get("outputs"):
        raise ReportError("is no baseline", where=where, why="there are no outputs of a verified model in it", fix=fix)
    found = record_of(Baseline, {**data, "where": where}, where, fix)
    for output in found.outputs:
        if math.isnan(output.sqnr):
            why = f"the SQNR of output '{output.name}' is no number"
            raise ReportError("is damaged", where=where, why=why, fix=fix)
    return found


def check_metric(found: Judged, allowed: Drop, where: str) -> None:
    """Raises VerificationError where the metric drops by more than is allowed."""
    if _beyond(found.drop, allowed, found.source):
        raise VerificationError(
            f"{found.metric.name} is {found.compiled:.6g}, in float {found.source:.6g}: {found.drop:.4g} worse, more "
            f"than the {allowed} asked for with --max-drop",
            where=where,
        )


def check_baseline(
    baseline: Baseline,
    errors: Mapping[str, OutputError],
    speedup: float | None,
    metric: Judged | None,
    tolerance: Tolerance,
    where: str,
) -> None:
    """Raises VerificationError that names the output and the number that got worse, and by how much; the output that
    lost most comes first. ReportError where the baseline is of another model."""
    for output in baseline.outputs:
        if output.name not in errors:
            raise ReportError(
                "is of another model", where=baseline.where, why=f"there is no output '{output.name}' in {where}",
                fix="take the baseline anew",
            )  # fmt: skip
    lost = {one.name: _lost(one.sqnr, errors[one.name].sqnr) for one in baseline.outputs}
    for one in sorted(baseline.outputs, key=lambda output: lost[output.name], reverse=True):
        if lost[one.name] > tolerance.sqnr:
            raise _worse(
                where, f"output '{one.name}' has {errors[one.name].sqnr:.2f} dB, {lost[one.name]:.2f} dB less than",
                f"{one.sqnr:.2f} dB", baseline, f"--sqnr-tolerance allows {tolerance.sqnr:g}",
            )  # fmt: skip
    before = baseline.speed.speedup if baseline.speed is not None else math.nan
    if speedup is not None and speedup < before * (1.0 - tolerance.speed):
        raise _worse(
            where, f"has {speedup:.3f}x the source's speed, {100 * (1 - speedup / before):.1f} % less than",
            f"{before:.3f}x", baseline, f"--speed-tolerance allows {100 * tolerance.speed:g} %",
        )  # fmt: skip
    if metric is not None and baseline.metric is not None and baseline.metric.name == metric.metric.name:
        drop = metric.metric.drop(baseline.metric.compiled, metric.compiled)
        if _beyond(drop, tolerance.metric, baseline.metric.compiled):
            raise _worse(
                where, f"{metric.metric.name} is {metric.compiled:.6g}, {drop:.4g} worse than",
                f"{baseline.metric.compiled:.6g}", baseline, f"--metric-tolerance allows {tolerance.metric}",
            )  # fmt: skip


def _lost(before: float, now: float) -> float:
    """Decibels; none where both outputs are equal to the source's, or have nothing of it."""
    return 0.0 if before == now else min(before, ALIKE) - min(now, ALIKE)


def _beyond(drop: float, allowed: Drop, value: float) -> bool:
    """One sample in 200 is no more than 0.5 %, whatever the last bit of the difference says."""
    return drop - allowed.allowed(value) > 1e-9 * max(1.0, abs(value))


def _worse(where: str, found: str, before: str, baseline: Baseline, allowed: str) -> VerificationError:
    return VerificationError(f"{found} the {before} in {baseline.where}", where=where, why=allowed)


def _written(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verified(
    source: str, compiled: str, samples: int | None, records: Sequence[OutputRecord], speed: Any, metric: Judged | None
) -> dict[str, Any]:
    """What ``verify --json`` prints: JSON has no infinity, so it is written as a string that float() reads back."""
    outputs = [{name: _written(value) for name, value in vars(one).items()} for one in records]
    found: dict[str, Any] = {"format": VERIFIED, "source": source, "compiled": compiled, "samples": samples}
    if metric is not None:
        found["metric"] = {"name": metric.metric.name, "source": metric.source, "compiled": metric.compiled}
    return {**found, "outputs": outputs, "speed": vars(speed)}
