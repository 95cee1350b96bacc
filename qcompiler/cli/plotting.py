"""Pictures of statistics and sites. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import DependencyError, OutputError, StatisticsError
from qcompiler.ir import written_beside

if TYPE_CHECKING:
    from qcompiler.calibrate import TensorStatistics
    from qcompiler.search.sites import SiteRecord

Range = tuple[float, float]

BARS = 256
MOST_SITES = 40


def histogram(path: str, name: str, seen: TensorStatistics, observers: Mapping[str, Range]) -> None:
    """One tensor's values, counted on a logarithmic scale, with the ends of each observer's range. Raises OutputError,
    DependencyError."""
    from qcompiler.calibrate import spread

    low, high = (seen.smallest, seen.largest) if seen.smallest < seen.largest else (seen.smallest - 1, seen.largest + 1)
    edges = np.linspace(low, high, BARS + 1)
    figure, axes = _figure(10, 5)
    axes.stairs(spread(seen, edges), edges, fill=True, color="0.6")
    axes.set_yscale("symlog", linthresh=1)
    for index, (observer, ends) in enumerate(observers.items()):
        for end in ends:
            label = observer if end == ends[0] else None
            axes.axvline(end, color=f"C{index}", linestyle="--", linewidth=1, label=label)
    axes.set(title=name, xlabel="value", ylabel="how many")
    axes.legend()
    _save(figure, path)


def ranges(path: str, extremes: Mapping[str, Range], observers: Mapping[str, Mapping[str, Range]]) -> None:
    """All tensors, a line each: from the smallest to the largest value, with the ends of each observer's range. Raises
    OutputError, DependencyError, and StatisticsError when there is nothing to draw."""
    if not extremes:
        raise StatisticsError("there is nothing to draw", why="no tensor held a finite value")
    figure, axes = _figure(10, 1.5 + 0.18 * len(extremes))
    rows = np.arange(len(extremes))
    ends = np.array(list(extremes.values()))
    axes.hlines(rows, ends[:, 0], ends[:, 1], color="0.7", linewidth=4, label="all values")
    for index, observer in enumerate(next(iter(observers.values()))):
        found = np.array([observers[name][observer] for name in extremes])
        for side in (0, 1):
            label = observer if side == 0 else None
            axes.plot(found[:, side], rows, "|", color=f"C{index}", markersize=7, label=label)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_yticks(rows, list(extremes), fontsize=5)
    axes.set(xlabel="value", ylim=(len(extremes) - 0.5, -0.5))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=5)
    _save(figure, path)


def sensitivity(path: str, sites: Sequence[SiteRecord]) -> None:
    """The fidelity that each site alone leaves, the worst first, beside the time that it saves. Raises OutputError,
    DependencyError."""
    shown = [site for site in sites if math.isfinite(site.sqnr)][:MOST_SITES]
    figure, axes = _figure(10, 1.5 + 0.2 * max(1, len(shown)))
    rows = np.arange(len(shown))
    axes.barh(rows, [site.sqnr for site in shown], color="0.7")
    for row, site in zip(rows, shown):
        if site.plain.nanoseconds is not None and site.coded.nanoseconds is not None:
            saved = (site.plain.nanoseconds - site.coded.nanoseconds) * 1e-3
            place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{saved:+.0f} µs", (site.sqnr, row), fontsize=6, **place)
    axes.set_yticks(rows, [f"{site.node} ({site.op})" for site in shown], fontsize=6)
    axes.set(xlabel="dB at the outputs with this site alone in 8 bits; time that 8 bits save there")
    axes.invert_yaxis()
    _save(figure, path)


def check(path: str) -> None:
    """Raises OutputError or DependencyError when no picture could be drawn there, before any work starts."""
    figure, _ = _figure(1, 1)
    _kind(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("a plot needs matplotlib", fix="pip install 'qcompiler-onnx[plots]'") from None
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _kind(figure: Any, path: str) -> str:
    suffix = path.rpartition(".")[2].lower()
    if suffix not in figure.canvas.get_supported_filetypes():
        raise OutputError("is no kind of picture", where=path, why=f"it ends in '{suffix}'", fix="name it FILE.png")
    return suffix


def _save(figure: Any, path: str) -> None:
    suffix = _kind(figure, path)
    with written_beside(path) as file:
        figure.savefig(file, format=suffix, dpi=150)
