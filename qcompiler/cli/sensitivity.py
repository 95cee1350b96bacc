"""sensitivity: which sites hurt, and what each of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from qcompiler.cli import options as shared
from qcompiler.cli.compiling import (
    compilation,
    decision_options,
    finish,
    pipeline_options,
    reporting_options,
    settle_observer,
)
from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from rich.table import Table

    from qcompiler.search.sites import SiteRecord

SHOWN = 30


@click.command("sensitivity")
@click.argument("model")
@click.option("-o", "--output", metavar="FILE.json", help="Where all of it goes.")
@click.option("--plot", metavar="FILE.png", help="Draw it.")
@shared.target_options
@decision_options
@click.option("--stats", metavar="FILE.npz", help="Take ranges from these statistics instead of samples.")
@click.option("--samples", type=click.IntRange(min=1), default=32, show_default=True,
              help="How many of the samples to measure on.")
@click.option("--verbose", is_flag=True, help="Show every site, with its tensors.")
@pipeline_options
@reporting_options
def sensitivity_command(model: str, output: str | None, plot: str | None, samples: int, **given: Any) -> None:
    """Measure what each site of MODEL does to the outputs when it alone is quantized, and what it costs both ways."""
    if not given["data"]:
        raise click.UsageError("needs samples to measure on: --data SAMPLES", click.get_current_context())
    shared.check_outputs([output, plot], (model, given["data"], given["stats"], given["recipe"]))
    if plot is not None:
        from qcompiler.cli import plotting

        plotting.check(plot)

    from qcompiler.calibrate import Statistics
    from qcompiler.ir import written_beside
    from qcompiler.search.sites import of_model

    statistics = Statistics.load(given["stats"]) if given["stats"] else None
    settle_observer(given, statistics)
    with compilation(model, given, needs_data=True) as (job, _):
        if job.kind.quantize != "static" or job.target.verifier != "onnxruntime":
            raise TargetError(
                f"the sensitivity of {job.target.name} at {job.precision} cannot be measured",
                why="it takes ranges from samples, and a target that is this machine", fix="use --target ort-cpu",
            )  # fmt: skip
        found = of_model(job, statistics, samples)
    finish(job, given)
    if output is not None:
        with written_beside(output) as file:
            file.write(found.to_json().encode())
    if plot is not None:
        plotting.sensitivity(plot, found.sites)
    if not given["quiet"]:
        from qcompiler.report.text import titled

        console = shared.console()
        title = f"{found.model}: {len(found.sites)} sites, the worst first, on {found.samples} samples"
        console.print(titled(title, sites(found.sites if given["verbose"] else found.sites[:SHOWN], given["verbose"])))
        if len(found.sites) > SHOWN and not given["verbose"]:
            console.print(f"{len(found.sites) - SHOWN} more: --verbose")
        console.print(f"measured in {found.passes:.1f} runs of the float model over the samples, {found.seconds:.1f} s")
        for path in filter(None, (output, plot)):
            console.print(f"wrote {path}", markup=False)


def sites(records: Sequence[SiteRecord], verbose: bool) -> Table:
    """A row a site; ``verbose``: one below it for each of its tensors."""
    from rich.text import Text

    from qcompiler.report.text import decibels, megabytes, table

    numbers = ("alone", "of all error", "float", "8 bits", "weights in float", "in 8 bits")
    made = table("site", "operator", *numbers, right=numbers)
    for one in records:
        times = ["" if way.nanoseconds is None else f"{way.nanoseconds:,} ns" for way in (one.plain, one.coded)]
        weights = [megabytes(way.bytes) if way.bytes else "" for way in (one.plain, one.coded)]
        made.add_row(Text(one.node), Text(one.op), decibels(one.sqnr), f"{one.share:.1%}", *times, *weights)
        for tensor in one.tensors if verbose else ():
            kind = "weight" if tensor.weight else "activation"
            made.add_row(Text(f"  {tensor.name}"), kind, decibels(tensor.sqnr), "", "", "", "", "")
    return made


COMMANDS = (sensitivity_command,)
