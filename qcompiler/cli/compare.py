"""verify and bench: two models, or several, on the same samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompiler.cli import options as shared
from qcompiler.cli.engines import verify_engine
from qcompiler.errors import ModelError, VerificationError
from qcompiler.progress import bar

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

    from qcompiler.data import Samples
    from qcompiler.gate import Judged
    from qcompiler.runtime import Feed

FEW = 16
"""Samples that speed and memory are measured on; agreement is measured on all."""

measuring_options = shared.together(
    shared.data_options,
    shared.threads_option,
    click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True,
                 help="How long to measure speed."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--quiet", is_flag=True, help="Print errors only."),
    shared.debug_option,
)  # fmt: skip


baseline_options = shared.together(
    click.option("--baseline", metavar="LAST.json", help="Nothing may be worse than in this earlier run."),
    click.option("--sqnr-tolerance", type=click.FloatRange(min=0), default=0.1, show_default=True, metavar="DB",
                 help="An output that has lost this much is not worse than the baseline."),
    click.option("--speed-tolerance", type=click.FloatRange(0, 1), default=0.05, show_default=True, metavar="SHARE",
                 help="Nor is a model that is slower by this share: speed is measured anew each time."),
    click.option("--metric-tolerance", type=shared.DropOf(), default="0.1%", show_default=True, metavar="DROP",
                 help="Nor is a metric that has dropped by this."),
)  # fmt: skip


@click.command("verify")
@click.argument("source")
@click.argument("compiled")
@click.option("--min-sqnr", type=float, metavar="DB", help="Least SQNR of each output, in decibels.")
@click.option("--min-cosine", type=float, metavar="C", help="Least cosine of each output.")
@click.option("--min-top1", type=float, metavar="SHARE", help="Least top-1 agreement of outputs with scores, 0 … 1.")
@click.option("--min-speedup", type=float, metavar="X", help="Least speed, as a multiple of the source's.")
@shared.metric_options
@baseline_options
@click.option("--target", default="ort-cpu", show_default=True, help="A target's name, or the path of its .toml.")
@click.option("--gpu", multiple=True, metavar="SM", help="Kinds of GPU to build for: sm80, sm89, … [the target's].")
@click.option("--run", is_flag=True, help="Run it on this machine's GPU too, where the target is one.")
@click.option("--verbose", is_flag=True, help="Show each layer of the engine.")
@measuring_options
def verify_command(source: str, compiled: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Hold COMPILED against SOURCE: its outputs, its speed, and a metric. Exits with 1 when a bound does not hold.

    Of an output that the model selects by computed numbers (TopK, NonMaxSuppression) the SQNR of what it is selected
    from is shown too, where both models have that. Bounds hold for the output itself.

    --baseline holds it against an earlier run too: what --json printed, or what compile --report wrote. SQNR, speed and
    the metric must not have got worse.

    For --target tensorrt an engine is built, which needs no GPU, and every layer of it is shown.
    """
    from qcompiler import ir
    from qcompiler.report import OutputRecord
    from qcompiler.search.selected import with_selections
    from qcompiler.target_files import load_target
    from qcompiler.verify import numbers, timing
    from qcompiler.verify.overflow import overflowing

    target = load_target(given["target"])
    if target.verifier == "tensorrt":
        for name in ("metric", "max_drop", "baseline"):
            if given[name] is not None:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for targets that run on this machine's CPU",
                    click.get_current_context(),
                )
        return verify_engine(source, compiled, target, as_json, quiet, given)
    for name in ("max_drop", "labels"):
        if given[name] is not None and given["metric"] is None:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is of a metric: give --metric too", click.get_current_context()
            )

    from qcompiler import gate

    baseline = gate.load_baseline(given["baseline"]) if given["baseline"] else None
    with opened({"source": source, "compiled": compiled}, given, quiet) as (sessions, samples, progress):
        before, after = sessions.values()
        errors = numbers.compare(before, after, progress("verify", samples))
        feeds = list(islice(samples, FEW))
        speed = timing.interleaved(sessions, feeds, seconds=given["seconds"])["compiled"]
        judged = judge(given, samples, before, after) if given["metric"] is not None else None
        plain, coded = ir.load(source), ir.load(compiled)
        ir.infer_shapes(plain)
        outputs = with_selections(plain, coded, [OutputRecord(**vars(error)) for error in errors], samples)
    cut_off = overflowing(coded, target)
    if as_json:
        found = gate.verified(source, compiled, samples.count, outputs, speed, judged)
        click.echo(json.dumps({**found, "cut_off": cut_off}, indent=1))
    elif not quiet:
        from qcompiler.report.text import agreement, titled

        console = shared.console()
        title = f"Agreement of {compiled} with {source} on {samples.count} samples ({samples.where})"
        console.print(titled(title, agreement(outputs)))
        console.print(
            f"speed: {speed.speedup:.2f}x the source's (quartiles {speed.speedup_low:.2f} … {speed.speedup_high:.2f}), "
            f"{speed.median * 1e3:.3g} ms a run, {speed.rounds} rounds"
        )
        if judged is not None:
            line = f"{judged.metric.name}: {judged.compiled:.6g}, in float {judged.source:.6g}"
            console.print(line, markup=False)
        if cut_off:
            console.print(
                f"note: {len(cut_off)} nodes, '{cut_off[0]}' the first, have sums of products cut off: weights use "
                "all 8 bits, and this CPU sums in 16. Elsewhere they err less; compile with --cpu avx2 for here",
                markup=False,
            )
    for one in outputs:
        output = f"output '{one.name}' has"
        if given["min_sqnr"] is not None and one.sqnr < given["min_sqnr"]:
            among = "" if one.selected_from is None else f", what it is selected from {one.selected_from:.2f} dB"
            raise short(compiled, f"{output} {one.sqnr:.2f} dB{among}", f"{given['min_sqnr']:g} dB", "sqnr")
        if given["min_cosine"] is not None and one.cosine < given["min_cosine"]:
            raise short(compiled, f"{output} a cosine of {one.cosine:.6f}", f"{given['min_cosine']:g}", "cosine")
        if given["min_top1"] is not None and one.top1 is not None and one.top1 < given["min_top1"]:
            raise short(compiled, f"{output} a top-1 agreement of {one.top1:.4f}", f"{given['min_top1']:g}", "top1")
    if given["min_speedup"] is not None and speed.speedup < given["min_speedup"]:
        raise short(compiled, f"has {speed.speedup:.3f}x the source's speed", f"{given['min_speedup']:g}x", "speedup")
    if judged is not None and given["max_drop"] is not None:
        gate.check_metric(judged, given["max_drop"], compiled)
    if baseline is not None:
        tolerance = gate.Tolerance(given["sqnr_tolerance"], given["speed_tolerance"], given["metric_tolerance"])
        named = {error.name: error for error in errors}
        gate.check_baseline(baseline, named, speed.speedup, judged, tolerance, compiled)


def judge(given: dict[str, Any], samples: Samples, before: ort.InferenceSession, after: ort.InferenceSession) -> Judged:
    """The metric that the arguments name, of both models."""
    from qcompiler.gate import Judged
    from qcompiler.metrics import labels_from, metric_from
    from qcompiler.runtime import run

    def called(model: ort.InferenceSession) -> Callable[[Feed], dict[str, np.ndarray]]:
        names = [output.name for output in model.get_outputs()]
        return lambda feed: dict(zip(names, run(model, feed)))

    labels = labels_from(given["labels"]) if given["labels"] else None
    metric = metric_from(given["metric"], samples, called(before), labels, lower_is_better=given["lower_is_better"])
    return Judged(metric, metric.of(called(before)), metric.of(called(after)))


@click.command("bench")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@measuring_options
def bench_command(models: tuple[str, ...], as_json: bool, quiet: bool, **given: Any) -> None:
    """Measure MODELs against one another: speed in interleaved runs, size on disk, memory in a process each."""
    from qcompiler.verify import footprint, timing

    models = tuple(dict.fromkeys(models))
    with opened({model: model for model in models}, given, quiet) as (sessions, samples, _):
        feeds = list(islice(samples, FEW))
        times = timing.interleaved(sessions, feeds, seconds=given["seconds"])
    rows: list[dict[str, Any]] = [
        {
            "model": model,
            "median_ms": times[model].median * 1e3,
            "quartiles_ms": [times[model].low * 1e3, times[model].high * 1e3],
            "speedup": times[model].speedup,
            "bytes": stored_bytes(model),
            "peak_bytes": footprint.measured(model, feeds, given["threads"]),
        }
        for model in models
    ]
    if as_json:
        rounds = times[models[0]].rounds
        click.echo(json.dumps({"threads": given["threads"], "rounds": rounds, "models": rows}, indent=1))
    elif not quiet:
        from rich.text import Text

        from qcompiler.report.text import megabytes, table, titled

        numbers = ("median", "quartiles", "speed", "size", "peak memory")
        made = table("model", *numbers, right=numbers)
        for row in rows:
            low, high = row["quartiles_ms"]
            made.add_row(
                Text(row["model"]), f"{row['median_ms']:.3g} ms", f"{low:.3g} … {high:.3g}", f"{row['speedup']:.2f}x",
                megabytes(row["bytes"]), megabytes(row["peak_bytes"]) if row["peak_bytes"] else "?",
            )  # fmt: skip
        shared.console().print(titled(f"On {samples.where}, {times[models[0]].rounds} rounds", made))


COMMANDS = (verify_command, bench_command)


@contextmanager
def opened(
    models: Mapping[str, str], given: dict[str, Any], quiet: bool
) -> Iterator[tuple[dict[str, ort.InferenceSession], Samples, Any]]:
    """A session of each model (paths by name), checked to be of one kind, and samples, made up where none are given."""
    from qcompiler import ir
    from qcompiler.data import open_samples, random_samples
    from qcompiler.runtime import session

    images = shared.image_options(given)
    first, *others = models.values()
    graph = ir.load(first)
    for model in others:
        if not Path(model).is_file():
            raise ModelError("no such file", where=model, fix="check the path")
    if given["data"]:
        samples = open_samples(
            given["data"], graph.inputs, batch_size=given["batch_size"], limit=given["limit"], image_options=images
        )
    else:
        samples = random_samples(graph.inputs, given["limit"] or FEW)
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(session(model, threads=given["threads"])) for name, model in models.items()
        }
        check_alike(list(models.values()), list(sessions.values()))
        shown = stack.enter_context(bar(shared.console(error=True), quiet=quiet or bool(given.get("as_json"))))

        def progress(stage: str, feeds: Samples) -> Iterator[Any]:
            for index, feed in enumerate(feeds):
                if shown is not None:
                    shown(stage, index, feeds.count)
                yield feed

        yield sessions, samples, progress


def check_alike(models: Sequence[str], sessions: Sequence[ort.InferenceSession]) -> None:
    """Raises ModelError unless all models have the first one's inputs and outputs."""
    first, base = models[0], sessions[0]
    for model, other in zip(models[1:], sessions[1:]):
        for kind, a, b in (
            ("input", base.get_inputs(), other.get_inputs()),
            ("output", base.get_outputs(), other.get_outputs()),
        ):
            names, found = [t.name for t in a], [t.name for t in b]
            for name in (*(n for n in names if n not in found), *(n for n in found if n not in names)):
                holder = first if name in names else model
                raise ModelError(
                    f"is not the same model as {first}", where=model, why=f"only {holder} has {kind} '{name}'",
                    fix="compare a model with what was compiled from it",
                )  # fmt: skip


def short(where: str, found: str, bound: str, option: str) -> VerificationError:
    return VerificationError(f"{found}, less than the {bound} asked for with --min-{option}", where=where)


def stored_bytes(model: str) -> int:
    """The model's size on disk, external weights included."""
    from qcompiler import ir

    files = {path.resolve() for path in (Path(model), *ir.load(model).sources)}
    return sum(path.stat().st_size for path in files)
