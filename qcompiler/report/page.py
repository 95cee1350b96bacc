"""A report as one HTML page that opens from disk: nothing is loaded, and what a model's author wrote stays text."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.report import charts
from qcompiler.report.record import PassRecord, Report
from qcompiler.report.serving import serving
from qcompiler.report.text import decibels, megabytes

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).with_name("html")
UNBROKEN = "\N{NO-BREAK SPACE}"


def page(report: Report, price_per_hour: float | None = None) -> str:
    """The whole page. ``price_per_hour``: of one core, in any currency; with it, what requests cost is shown."""
    from markupsafe import Markup

    front = sorted(report.front, key=lambda one: one.speedup)
    found = [(one.speedup, one.sqnr_measured) for one in front if one.sqnr_measured is not None]
    this = [(report.speed.speedup, report.sqnr)] if report.speed is not None and report.outputs else []
    depth = [one for one in report.depth if math.isfinite(one.position) and not math.isnan(one.sqnr)]
    ends = [(0.0, math.nan), (100.0, math.nan)]
    style, script = ((FOLDER / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return _environment().get_template("page.html").render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        serving=serving(report, price_per_hour),
        precisions=Counter(node.precision for node in report.nodes).most_common(),
        passes=_once(report.passes),
        front=front,
        front_measured=found,
        front_chart=charts.chart([(one.speedup, one.sqnr_predicted) for one in front], [*found, *this]),
        depth=depth,
        depth_chart=charts.chart([(100.0 * one.position, one.sqnr) for one in depth], ends),
    )  # fmt: skip


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(decibels=decibels, megabytes=megabytes, number=number, percent=percent)
    made.globals.update(bars=charts.bars, place_in=charts.place_in)
    return made


def number(value: float, digits: int = 3) -> str:
    """With so many digits, and no exponent where that is readable: ``1230``, ``12.3``, ``0.00123``."""
    if not math.isfinite(value):
        return str(value)
    if 1e-4 <= abs(value) < 1e7:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{places}f}"
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """``26 %``; small shares with the digits that tell them from nothing."""
    if not math.isfinite(share):
        return "?"
    text = f"{100 * share:.0f}" if share == 0.0 or abs(share) >= 0.1 else f"{100 * share:.2g}"
    return f"{text}{UNBROKEN}%"


def _once(records: list[PassRecord]) -> list[tuple[str, int, int, float]]:
    """(name, runs, rewrites, seconds) of each pass, in the order of its first run."""
    found: dict[str, tuple[int, int, float]] = {}
    for one in records:
        runs, rewrites, seconds = found.get(one.name, (0, 0, 0.0))
        found[one.name] = (runs + 1, rewrites + one.rewrites, seconds + one.seconds)
    return [(name, *sums) for name, sums in found.items()]
