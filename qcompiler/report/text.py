"""Reports as tables for people."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qcompiler.report.record import NodeRecord, OutputRecord, PassRecord, Report, SpeedRecord, StageRecord

MOST_NAMES = 3
"""How many of a group's nodes are named: the rest are in the JSON report."""


def render(report: Report, *, verbose: bool = False) -> RenderableType:
    """The whole report; ``verbose`` names each node, pass and remark."""
    cpu = f" ({report.cpu})" if report.cpu else ""
    nodes = report.nodes if report.precision != "float" else []
    counts = Counter(node.precision for node in nodes)
    sections: list[tuple[str, Table | Text]] = [
        ("", gain(report)),
        (f"Agreement with the source on {report.samples}", agreement(report.outputs)),
        (
            "Nodes: " + ", ".join(f"{count} in {precision}" for precision, count in counts.most_common()),
            every_node(nodes) if verbose else fates(nodes),
        ),
        ("Decided by measuring", _lines(_shortened(report.decisions, verbose))),
        ("Stages", stages(report.stages)),
    ]
    if verbose:
        sections += [("Passes", passes(report.passes)), ("Remarks", _lines(report.diagnostics))]
    sections.append(("Warnings", _lines(report.warnings)))
    head = Text(f"{report.model}: {report.precision} for {report.target}{cpu}, {report.runtime}\n", style="bold")
    return Group(head, *(titled(title, body) for title, body in sections if _holds_something(body)))


def titled(title: str, body: Table | Text) -> Group:
    """A heading over a table or lines. (A table's own title would be folded to the table's width.)"""
    return Group(*([Text(title, style="bold")] if title else []), body, Text())


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table in the house's style: no lines but the one under the headings."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def gain(report: Report) -> Table:
    made = table("", "source", "compiled", "", right=("source", "compiled"))
    if report.source_bytes:
        share = 100 * report.compiled_bytes / report.source_bytes
        made.add_row("weights", megabytes(report.source_bytes), megabytes(report.compiled_bytes), f"{share:.0f} %")
    speed, memory = report.speed, report.memory
    if memory is not None:
        made.add_row("memory", megabytes(memory.source_bytes), megabytes(memory.compiled_bytes), "a process's peak")
    if speed is not None:
        made.add_row("time a run", f"{speed.source_ms:.3g} ms", f"{speed.compiled_ms:.3g} ms", _speedup(speed))
    return made


def _speedup(speed: SpeedRecord) -> str:
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    return (
        f"{speed.speedup:.2f}x the speed (quartiles {speed.speedup_low:.2f} … {speed.speedup_high:.2f}), "
        f"{threads}, {speed.rounds} rounds"
    )


def agreement(outputs: Sequence[OutputRecord]) -> Table:
    """Each output's agreement with the source's, and where there are selections that of what they are taken from."""
    selects = any(one.selected_from is not None for one in outputs)
    numbers = ("SQNR", "cosine", "top-1", "largest difference", *(("selected from",) if selects else ()))
    made = table("output", *numbers, right=numbers)
    for one in outputs:
        top1 = "" if one.top1 is None else f"{100 * one.top1:.1f} %"
        source = "" if one.selected_from is None else decibels(one.selected_from)
        cells = (decibels(one.sqnr), f"{one.cosine:.5f}", top1, f"{one.largest:.3g}", *((source,) if selects else ()))
        made.add_row(Text(one.name), *cells)
    return made


def fates(nodes: Sequence[NodeRecord]) -> Table:
    """How many nodes ended how and why, those with the same reason in one row."""
    groups: dict[tuple[str, str], list[NodeRecord]] = defaultdict(list)
    for node in nodes:
        groups[node.precision, _general(node.reason)].append(node)
    made = table("nodes", "precision", "operators", "why", right=("nodes",))
    for (precision, reason), group in sorted(groups.items(), key=lambda item: (item[0][0] == "float", -len(item[1]))):
        made.add_row(str(len(group)), precision, Text(operators(node.op for node in group)), Text(reason))
    return made


def every_node(nodes: Sequence[NodeRecord]) -> Table:
    made = table("node", "operator", "precision", "runs as", "why")
    for node in nodes:
        made.add_row(Text(node.name), Text(node.op), node.precision, Text(node.form), Text(node.reason))
    return made


def stages(records: Sequence[StageRecord]) -> Table:
    made = table("stage", "time", "peak memory", right=("time", "peak memory"))
    for one in records:
        made.add_row(one.name, f"{one.seconds:.2f} s", f"{one.peak_mb:.0f} MB" if one.peak_mb else "")
    if len(records) > 1:
        made.add_row("in all", f"{sum(one.seconds for one in records):.2f} s", "")
    return made


def passes(records: Sequence[PassRecord]) -> Table:
    """Each pass once, in the order of its first run."""
    rows: dict[str, list[PassRecord]] = defaultdict(list)
    for one in records:
        rows[one.name].append(one)
    made = table("pass", "runs", "rewrites", "time", right=("runs", "rewrites", "time"))
    for name, runs in rows.items():
        seconds = sum(run.seconds for run in runs)
        made.add_row(name, str(len(runs)), str(sum(run.rewrites for run in runs)), f"{seconds * 1e3:.1f} ms")
    return made


def operators(names: Iterable[str]) -> str:
    """``Conv ×12, Add ×3``, most frequent first."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counts)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count} B"


def decibels(value: float) -> str:
    if math.isinf(value):
        return "equal" if value > 0 else "nothing alike"
    return f"{value:.1f} dB"


def _holds_something(body: Table | Text) -> bool:
    return body.row_count > 0 if isinstance(body, Table) else bool(body)


def _lines(lines: Sequence[str]) -> Text:
    return Text("\n").join(Text(f"  {line}") for line in lines)


def _general(reason: str) -> str:
    """The reason without the names and measurements in it, so that like reasons fall together."""
    reason = re.sub(r"'[^']*'", "'…'", reason)
    return re.sub(r"\b\d+(\.\d+)?(?= ?(us|ms|%|dB)\b)", "…", reason)


def _shortened(decisions: Sequence[str], verbose: bool) -> list[str]:
    """``action: a, b, c, d: reason`` with at most a few of the names."""
    if verbose:
        return list(decisions)
    lines = []
    for text in decisions:
        action, _, rest = text.partition(": ")
        names, separator, reason = rest.rpartition(": ")
        listed = names.split(", ")
        if separator and len(listed) > MOST_NAMES:
            text = f"{action}: {', '.join(listed[:MOST_NAMES])} and {len(listed) - MOST_NAMES} more: {reason}"
        lines.append(text)
    return lines
