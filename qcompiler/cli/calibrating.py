"""calibrate: observing a model over samples, here or elsewhere, whole or a shard of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompiler.cli import compiling
from qcompiler.cli import options as shared

if TYPE_CHECKING:
    from qcompiler.calibrate import Statistics


class ShardOf(click.ParamType):
    """``i/n``."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from qcompiler.calibrate import Shard

        found = re.fullmatch(r"(\d+)/(\d+)", value)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"'{value}' is no shard such as 3/8, the third of eight", param, ctx)
        return Shard(int(found[1]), int(found[2]))


class Address(click.ParamType):
    """``local`` or a Dask scheduler's address."""

    name = "scheduler"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value != "local" and not re.fullmatch(r"(tcp|tls|ws|wss)://.+:\d+", value):
            self.fail(f"'{value}' is neither local nor an address such as tcp://host:8786", param, ctx)
        return value


@click.command("calibrate")
@click.argument("model")
@click.option("-o", "--output", metavar="FILE.npz", required=True, help="Where the statistics go.")
@shared.data_options
@click.option("--skip-bad", is_flag=True, help="Leave out samples that fail, and list them.")
@click.option(
    "--observer", type=click.Choice(shared.OBSERVERS),
    help="What compile is to take ranges with, which it then insists on [left to compile].",
)
@click.option("--shard", type=ShardOf(), metavar="I/N", help="Observe every N-th sample from the I-th on; see merge.")
@click.option("--resume", is_flag=True, help="Go on from FILE.npz.checkpoint, which a killed run leaves.")
@click.option(
    "--scheduler", "address", type=Address(), default="local", show_default=True, metavar="local|tcp://HOST:PORT",
    help="Count in processes here, or on a Dask cluster.",
)
@click.option(
    "--workers", type=click.IntRange(min=1),
    help="Processes of the local scheduler [one a processor, fewer for few samples].",
)
@click.option("--smoothing", metavar="FILE.npz", help="Smooth and round weights as these statistics do.")
@click.option("--ops", type=click.Choice(shared.OPS), help="The operators that compile is to use.")
@shared.target_options
@compiling.pipeline_options
@compiling.reporting_options
def calibrate_command(model: str, output: str, **given: Any) -> None:
    """Observe the values inside MODEL over samples, once for many compilations.

    Progress is written to FILE.npz.checkpoint every few seconds and removed at the end. A shard's statistics are for
    qcompiler merge; each shard reads the same data with the same options.
    """
    context = click.get_current_context()
    if not given["data"]:
        raise click.UsageError("needs --data: the samples to observe", context)
    if given["workers"] and given["address"] != "local":
        raise click.UsageError("--workers is for the local scheduler: the cluster has its own", context)
    checkpoint = Path(f"{output}.checkpoint")
    shared.check_outputs([output, str(checkpoint)], (model, given["data"], given["smoothing"]))

    from qcompiler.calibrate import Calibration, Shard, Statistics, scheduler
    from qcompiler.memory import keep_little

    keep_little()
    earlier = Statistics.load(given["smoothing"]) if given["smoothing"] else None
    with compiling.compilation(model, given) as (job, _):
        shared.check_outputs([output, str(checkpoint)], job.source.sources)
        job.clean()
        plan = job.prepared(earlier, skip_bad=given["skip_bad"])
        if earlier is not None:
            earlier.check_model(job.graph)
        calibration = Calibration(
            job.graph,
            job.observed(plan),
            smoothing=plan.smoothing,
            rounding=plan.rounding,
            observer=given["observer"] or "",
            shard=given["shard"] or Shard(),
            skip_bad=given["skip_bad"],
            scheduler=scheduler(given["address"], given["workers"], job.samples.all().count),
            checkpoint=checkpoint,
            resume=given["resume"],
            on_sample=job.counted,
        )
        with job.stages("calibrate"):
            statistics = calibration.run(job.samples.all())
        statistics.save(output)
        checkpoint.unlink(missing_ok=True)
    compiling.finish(job, given)
    if not given["quiet"]:
        say(output, statistics)


def say(output: str, statistics: Statistics) -> None:
    console = shared.console()
    part = "" if statistics.shard == (1, 1) else ", shard {} of {}".format(*statistics.shard)
    text = f"wrote {output}: {len(statistics.tensors)} tensors over {statistics.samples} samples{part}"
    console.print(text, markup=False)
    for line in remarks(statistics):
        console.print(line, markup=False)


def remarks(statistics: Statistics) -> list[str]:
    """Samples left out, and tensors that held NaN or infinities."""
    return [*(f"skipped sample {index}: {why}" for index, why in statistics.skipped.items()), *statistics.not_finite()]


COMMANDS = (calibrate_command,)
