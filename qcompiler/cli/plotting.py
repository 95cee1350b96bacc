"""Pictures of statistics. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import DependencyError, OutputError, StatisticsError
from qcompiler.ir import written_beside

if TYPE_CHECKING:
    from qcompiler.calibrate import TensorStatistics

Range = tuple[float, float]

BARS = 256


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


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("a plot needs matplotlib", fix="pip install 'qcompiler-onnx[plots]'") from None
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Any, path: str) -> None:
    suffix = path.rpartition(".")[2].lower()
    if suffix not in figure.canvas.get_supported_filetypes():
        raise OutputError("is no kind of picture", where=path, why=f"it ends in '{suffix}'", fix="name it FILE.png")
    with written_beside(path) as file:
        figure.savefig(file, format=suffix, dpi=150)
