"""merge: the statistics of shards put together."""

from __future__ import annotations

from pathlib import Path

import click

from qcompiler.cli import options as shared


@click.command("merge")
@click.argument("files", nargs=-1, required=True, metavar="FILE.npz…")
@click.option("-o", "--output", metavar="FILE.npz", required=True, help="Where the statistics of the whole data go.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@shared.debug_option
def merge_command(files: tuple[str, ...], output: str, quiet: bool, debug: bool) -> None:
    """Put the statistics of all shards of a calibration together: bit for bit those of one run, in any order."""
    from qcompiler.calibrate import Shard, Statistics, merge_shards
    from qcompiler.cli.calibrating import say

    loaded = [(file, Statistics.load(file)) for file in files]
    whole = Shard()
    parts = [
        (file, one)
        for file, one in loaded
        # s*.npz means the shards, whatever an earlier run has left at stats.npz
        if Path(file).resolve() != Path(output).resolve() or one.shard != (whole.number, whole.count)
    ]
    shared.check_outputs([output], [file for file, _ in parts])
    statistics = merge_shards(parts or loaded)
    statistics.save(output)
    if not quiet:
        say(output, statistics)


COMMANDS = (merge_command,)
