"""stats: what calibration saw, as tables, a histogram in the terminal, or a picture."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from qcompiler.cli import options as shared
from qcompiler.errors import StatisticsError

if TYPE_CHECKING:
    from rich.console import Console

    from qcompiler.calibrate import Statistics, TensorStatistics

SHARE_WITHIN = 0.999
"""Values beyond the range of this share of them are shown as outliers, by how many times farther they reach."""
HISTOGRAM_ROWS = 32
HISTOGRAM_WIDTH = 60

Range = tuple[float, float]


@click.command("stats")
@click.argument("file", metavar="STATS.npz")
@click.option("--tensor", metavar="NAME", help="Show one tensor: its ranges by each observer, and its histogram.")
@click.option("--plot", metavar="FILE.png", help="Draw that: the tensor's histogram, or the ranges of all tensors.")
@shared.debug_option
def stats_command(file: str, tensor: str | None, plot: str | None, debug: bool) -> None:
    """Show what qcompiler calibrate saw: ranges, outliers, and what each observer clips at 8 bits.

    "Beyond" is how many times farther the values reach than 99.9 % of them do. Each observer's column is the share of
    values outside of its range, in %. Values that are not finite are in no range.
    """
    shared.check_outputs([plot], [file])

    from qcompiler.calibrate import Statistics

    statistics = Statistics.load(file)
    console = shared.console()
    if tensor is None:
        overview(file, statistics, console)
    elif tensor in statistics.tensors:
        one_tensor(tensor, statistics.tensors[tensor], console)
    else:
        close = difflib.get_close_matches(tensor, statistics.tensors, 1)
        fix = f"did you mean '{close[0]}'" if close else "see all of them without --tensor"
        raise StatisticsError(f"does not hold tensor '{tensor}'", where=file, fix=fix)
    if plot is not None:
        from qcompiler.cli import plotting

        if tensor is None:
            seen = {name: one for name, one in statistics.tensors.items() if one.finite}
            plotting.ranges(plot, {name: (one.smallest, one.largest) for name, one in seen.items()},
                            {name: ranges_of(one) for name, one in seen.items()})  # fmt: skip
        else:
            plotting.histogram(plot, tensor, statistics.tensors[tensor], ranges_of(statistics.tensors[tensor]))
        console.print(f"wrote {plot}", markup=False)


def ranges_of(seen: TensorStatistics) -> dict[str, Range]:
    """Each observer's range for uint8, asymmetric. Raises StatisticsError when no finite value was seen."""
    from qcompiler.calibrate import OBSERVERS
    from qcompiler.scheme import Scheme

    scheme = Scheme("uint8", symmetric=False)
    return {name: observer(seen, scheme) for name, observer in OBSERVERS.items()}


def overview(file: str, statistics: Statistics, console: Console) -> None:
    from rich.text import Text

    from qcompiler.calibrate import OBSERVERS, clipped
    from qcompiler.cli.calibrating import remarks
    from qcompiler.report.text import table

    part = "" if statistics.shard == (1, 1) else ", shard {} of {}".format(*statistics.shard)
    console.print(
        f"{file}: {len(statistics.tensors)} tensors over {statistics.samples} samples{part}, "
        f"for {statistics.observer or 'any'} observer", style="bold", markup=False,
    )  # fmt: skip
    numbers = ("smallest", "largest", "zeros %", "beyond", *OBSERVERS)
    made = table("tensor", *numbers, right=numbers)
    for name, seen in statistics.tensors.items():
        if not seen.finite:
            made.add_row(Text(name), *("-" for _ in numbers))
            continue
        clips = (100 * clipped(seen, *found) for found in ranges_of(seen).values())
        ends = (f"{seen.smallest:.4g}", f"{seen.largest:.4g}")
        shares = (f"{share:.2g}" for share in clips)
        made.add_row(Text(name), *ends, f"{100 * zeros(seen):.1f}", f"{beyond(seen):.1f}", *shares)
    console.print(made)
    for line in remarks(statistics):
        console.print(line, markup=False)
    for name, factor in statistics.smoothing.items():
        text = f"smoothed: '{name}', {len(factor)} channels, by numbers from {factor.min():.3g} to {factor.max():.3g}"
        console.print(text, markup=False)


def one_tensor(name: str, seen: TensorStatistics, console: Console) -> None:
    from qcompiler.calibrate import clipped, without_sentinels
    from qcompiler.report.text import table

    console.print(name, style="bold", markup=False)
    bad = f", {seen.nan} NaN, {seen.positive_infinity + seen.negative_infinity} infinite" if seen.bad else ""
    first = f", first in sample {seen.first_bad_sample}" if seen.bad else ""
    console.print(f"{seen.finite} finite values{bad}{first}", markup=False)
    ranges = ranges_of(seen)
    console.print(
        f"from {seen.smallest:.6g} to {seen.largest:.6g}, {100 * zeros(seen):.2f} % zeros, "
        f"reaching {beyond(seen):.1f} times as far as 99.9 % of them", markup=False,
    )  # fmt: skip
    if sentence := without_sentinels(seen)[1]:
        console.print(sentence, markup=False)
    numbers = ("low", "high", "step at 8 bits", "clipped %")
    made = table("observer", *numbers, right=numbers)
    for observer, (low, high) in ranges.items():
        share = 100 * clipped(seen, low, high)
        made.add_row(observer, f"{low:.6g}", f"{high:.6g}", f"{(high - low) / 255:.4g}", f"{share:.3g}")
    console.print(made)
    for line in bars(seen, ranges):
        console.print(line, markup=False, soft_wrap=True)


def zeros(seen: TensorStatistics) -> float:
    """Which share of the finite values is zero."""
    return float(seen.counts[seen.bins == 0].sum()) / seen.finite


def beyond(seen: TensorStatistics) -> float:
    """How many times farther from zero the values reach than ``SHARE_WITHIN`` of them do."""
    import numpy as np

    magnitudes = (seen.bins & 0x7FFF).astype(np.uint32)
    order = np.argsort(magnitudes)
    index = np.searchsorted(np.cumsum(seen.counts[order]), SHARE_WITHIN * seen.finite)
    within = (magnitudes[order][min(int(index), order.size - 1)] << 16 | 0xFFFF).view(np.float32)
    farthest = max(-seen.smallest, seen.largest)
    return max(1.0, farthest / float(within)) if farthest else 1.0


def bars(seen: TensorStatistics, ranges: dict[str, Range]) -> list[str]:
    """A histogram with a logarithmic scale of counts; an observer's name marks where its range ends."""
    import numpy as np

    from qcompiler.calibrate import spread

    low, high = seen.smallest, seen.largest
    if low == high:
        return [f"every value is {low:.6g}"]
    edges = np.linspace(low, high, HISTOGRAM_ROWS + 1)
    counts = spread(seen, edges)
    heights = np.log1p(counts) / np.log1p(counts.max())
    lines = []
    for row, (count, height) in enumerate(zip(counts, heights)):
        marks = [
            name
            for name, ends in ranges.items()
            if name != "minmax" and any(edges[row] <= end < edges[row + 1] for end in ends if low < end < high)
        ]
        bar = "█" * round(HISTOGRAM_WIDTH * height) or ("▏" if count >= 0.5 else "")
        mark = f"  ◄ {', '.join(marks)}" if marks else ""
        lines.append(f"{edges[row]:>11.4g} {bar:<{HISTOGRAM_WIDTH}} {count:>12.0f}{mark}")
    return lines


COMMANDS = (stats_command,)
