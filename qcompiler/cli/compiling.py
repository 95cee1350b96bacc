"""compile and plan: the commands that go through the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompiler.cli import options as shared
from qcompiler.errors import DataError, PlanError
from qcompiler.progress import bar

if TYPE_CHECKING:
    from qcompiler import ir
    from qcompiler.calibrate import Statistics
    from qcompiler.compiler import Compilation
    from qcompiler.pipeline import Pass
    from qcompiler.recipe import Recipe
    from qcompiler.search.goal import Goal

VERIFY = ("none", "end", "each", "numeric")

pipeline_options = shared.together(
    shared.load_option,
    click.option(
        "--passes", multiple=True, metavar="CHANGE",
        help="-NAME leaves a pass out, +NAME@AFTER puts one in, NAME{OPTION=VALUE} sets options; show: print and stop.",
    ),
    click.option(
        "--verify", type=click.Choice(VERIFY), default="end", show_default=True,
        help="ONNX's rules at the end or after each pass; numeric: each pass's numbers too.",
    ),
    click.option("--print-after", multiple=True, metavar="NAME|all", help="Print the graph after a pass."),
    click.option("--time-passes", is_flag=True, help="Say how long each pass took and how much it rewrote."),
)  # fmt: skip

decision_options = shared.together(
    shared.data_options,
    shared.gpu_option,
    click.option("--precision", metavar="NAME", help="One of the target's [int8, or the plan's]."),
    click.option("--interface", type=click.Choice(["kept", "converted"]), default="kept", show_default=True,
                 help="Types of inputs and outputs where all else is in 16 bits."),
    click.option("--observer", type=click.Choice(shared.OBSERVERS),
                 help="How ranges are taken from what was seen [the target's, or the statistics' own]."),
    click.option("--ops", type=click.Choice(shared.OPS),
                 help="Operators of our library too, or the runtime's alone [the precision's own way]."),
    click.option("--block", type=click.Choice(shared.BLOCKS),
                 help="Weights of four bits that share a scale [the target's]."),
    click.option("--rounding", type=click.Choice(shared.ROUNDINGS),
                 help="How weights of four bits are rounded [gptq with --data, else mse]."),
    click.option("--recipe", metavar="FILE.toml", help="Choices of your own: keep_float, observer, observers."),
    click.option("--keep-float", multiple=True, metavar="NODE",
                 help="Leave a node in float: its name, a pattern, or op:TYPE."),
    click.option("--no-timing", is_flag=True, help="Decide nothing by measuring time."),
    shared.threads_option,
)  # fmt: skip

goal_options = shared.together(
    click.option("--min-sqnr", type=float, metavar="DB", help="Keep so many dB at each output, at the most speed."),
    shared.metric_options,
    click.option("--budget", multiple=True, metavar="latency=SHARE|size=SHARE",
                 help="Take at most such a share of the source's time or weights: latency=0.5x, size=0.2x. "
                 "Within a size, weights of products and embeddings may have four bits."),
    click.option("--improve", type=click.Choice(("none", "fast", "full")), default="fast", show_default=True,
                 help="How much to spend on fidelity."),
)  # fmt: skip

reporting_options = shared.together(
    click.option("--quiet", is_flag=True, help="Print errors only."),
    shared.debug_option,
)


@click.command("compile")
@click.argument("model")
@click.option("-o", "--output", metavar="FILE.onnx", help="Where the compiled model goes.")
@shared.targets_options
@decision_options
@goal_options
@click.option("--plan", metavar="FILE.json", help="Apply this plan and decide nothing anew.")
@click.option("--stats", metavar="FILE.npz", help="Take ranges from these statistics instead of samples.")
@click.option("--external/--embed", default=None, help="Weights in a file beside the model, or in it [by size].")
@pipeline_options
@click.option("--bisect", is_flag=True, help="Find the first pass after which the outputs leave the source.")
@click.option("--report", metavar="FILE.json|FILE.html", help="Write the whole report there, as data or as a page.")
@click.option("--verbose", is_flag=True, help="Report each node and pass.")
@reporting_options
def compile_command(model: str, output: str | None, **given: Any) -> None:
    """Compile MODEL for a target, or for several with one calibration."""
    targets = dict.fromkeys(given.pop("targets"))
    if len(targets) > 1:
        return compile_for_several(model, output, list(targets), given)
    given["target"] = next(iter(targets))
    if "show" in given["passes"]:
        return show_pipeline(given)
    if given["bisect"]:
        return bisect(model, given)
    if output is None:
        raise click.UsageError("say where the compiled model goes: -o FILE.onnx", click.get_current_context())
    files = (model, given["data"], given["plan"], given["stats"], given["recipe"])
    shared.check_outputs((output, given["report"]), files)

    from qcompiler.calibrate import Statistics
    from qcompiler.cli.report import write
    from qcompiler.plan import Plan
    from qcompiler.report.text import passes, render

    given["goal"] = goal_of(given)
    plan = None
    if given["plan"]:
        if given["goal"] is not None:
            context = click.get_current_context()
            raise click.UsageError("--plan decides everything: leave out what is to be met", context)
        for name in ("stats", "recipe", "keep_float"):
            if given[name]:
                raise click.UsageError(
                    f"--plan decides everything: --{name.replace('_', '-')} would change nothing",
                    click.get_current_context(),
                )
        plan = Plan.load(given["plan"])
        if given["precision"] not in (None, plan.precision):
            raise PlanError(
                f"is a plan for {plan.precision}, not {given['precision']}", where=given["plan"], fix="plan anew"
            )
        given["precision"] = plan.precision
    statistics = Statistics.load(given["stats"]) if given["stats"] else None
    settle_observer(given, statistics)
    with compilation(model, given, needs_data=plan is None and statistics is None) as (job, checks):
        shared.check_outputs((output, given["report"]), job.source.sources)
        result = job.run(plan, statistics)
        with job.stages("check"):
            checks.end(result.graph)
        with job.stages("save"):
            result.save(output, external=given["external"])
    if given["report"]:
        write(result.report, given["report"])
    if not given["quiet"]:
        console = shared.console()
        console.print(render(result.report, verbose=given["verbose"]))
        if given["time_passes"] and not given["verbose"]:
            console.print(passes(result.report.passes))
        console.print(f"wrote {output}", markup=False)


def compile_for_several(model: str, folder: str | None, targets: list[str], given: dict[str, Any]) -> None:
    """``FOLDER/NAME.TARGET.onnx`` for each target, from one run over the samples."""
    context = click.get_current_context()
    for name in ("plan", "stats", "report", "bisect", "min_sqnr", "max_drop", "budget"):
        if given[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for one target at a time", context)
    if folder is None:
        raise click.UsageError("say where the compiled models go: -o FOLDER", context)
    if not given["data"]:
        raise DataError("several targets share a calibration", where=model, fix="give samples (--data)")

    from qcompiler.report.text import render
    from qcompiler.several import statistics_for

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    outputs = {target: place / f"{Path(model).stem}.{Path(target).stem}.onnx" for target in targets}
    shared.check_outputs(map(str, outputs.values()), (model, given["data"], given["recipe"]))
    with ExitStack() as stack:
        opened = [
            stack.enter_context(compilation(model, {**given, "target": target, "quiet": given["quiet"] or index > 0}))
            for index, target in enumerate(targets)
        ]
        statistics = statistics_for([job for job, _ in opened])
        for (job, checks), output in zip(opened, outputs.values()):
            result = job.run(None, statistics)
            with job.stages("check"):
                checks.end(result.graph)
            with job.stages("save"):
                result.save(output, external=given["external"])
            if not given["quiet"]:
                console = shared.console()
                console.print(render(result.report, verbose=given["verbose"]))
                console.print(f"wrote {output}", markup=False)


@click.command("plan")
@click.argument("models", nargs=-1, required=True, metavar="MODEL")
@click.option("-o", "--output", metavar="FILE.json", help="Where the plan goes.")
@click.option("--diff", is_flag=True, help="Compare two plan files instead: plan --diff OLD.json NEW.json")
@shared.target_options
@decision_options
@click.option("--stats", metavar="FILE.npz", help="Take ranges from these statistics instead of samples.")
@pipeline_options
@reporting_options
def plan_command(models: tuple[str, ...], output: str | None, diff: bool, **given: Any) -> None:
    """Decide how MODEL would be quantized and write that down: to read, edit, compare and replay.

    Without --no-timing what measures slower in 8 bits is already given back to float.
    """
    if diff:
        return diff_plans(models)
    if len(models) != 1:
        raise click.UsageError("give one model", click.get_current_context())
    if output is None:
        raise click.UsageError("say where the plan goes: -o FILE.json", click.get_current_context())
    if given["precision"] == "float":
        raise click.UsageError("float needs no plan: nothing is quantized", click.get_current_context())
    shared.check_outputs([output], (models[0], given["data"], given["stats"], given["recipe"]))

    from qcompiler.calibrate import Statistics
    from qcompiler.plan import Plan

    statistics = Statistics.load(given["stats"]) if given["stats"] else None
    settle_observer(given, statistics)
    with compilation(models[0], given, needs_data=statistics is None) as (job, _):
        shared.check_outputs([output], job.source.sources)
        plan = job.run(None, statistics).plan or Plan()
        plan.save(output)
    finish(job, given)
    if not given["quiet"]:
        shared.console().print(
            f"wrote {output}: {len(plan.tensors())} tensors in 8 bits at {len(plan.sites)} places, "
            f"{len(plan.kept)} nodes kept in float, {len(plan.decisions)} decisions", markup=False
        )  # fmt: skip


COMMANDS = (compile_command, plan_command)


def goal_of(given: dict[str, Any]) -> Goal | None:
    """What the model is to keep or may take; None where nothing is said of that."""
    from qcompiler.metrics import labels_from
    from qcompiler.search.goal import Goal, budgets

    context = click.get_current_context()
    try:
        shares = budgets(given["budget"])
    except ValueError as error:
        raise click.UsageError(str(error), context) from None
    drop = given["max_drop"]
    for name, needed in (("max_drop", "metric"), ("metric", "max_drop"), ("labels", "metric")):
        if given[name] and not given[needed]:
            names = [f"--{one.replace('_', '-')}" for one in (name, needed)]
            raise click.UsageError(f"{names[0]} goes with {names[1]}", context)
    if drop is None and given["min_sqnr"] is None and not shares:
        return None
    if given["no_timing"]:
        raise click.UsageError("what is to be met is weighed against time: leave out --no-timing", context)
    labels = labels_from(given["labels"]) if given["labels"] else None
    return Goal(given["min_sqnr"], drop, given["metric"] or "", labels, given["lower_is_better"], **shares)


@contextmanager
def compilation(model: str, given: dict[str, Any], *, needs_data: bool = False) -> Iterator[tuple[Compilation, Any]]:
    """The compilation that the arguments describe, with progress shown and hooks in place, and its checks."""
    precision = given.get("precision") or "int8"
    from qcompiler.target_files import load_target

    target = load_target(given["target"], given["cpu"])
    if precision not in target.precisions:
        names = ", ".join(f"'{name}'" for name in target.precisions)
        raise click.UsageError(
            f"target {target.name} has no precision '{precision}'; use one of {names}", click.get_current_context()
        )
    if needs_data and target.precisions[precision].quantize == "static" and not given["data"]:
        raise DataError(
            f"{precision} needs samples to take ranges from", where=model,
            fix=f"give --data{target.without_samples}",
        )  # fmt: skip
    from qcompiler.compiler import Compilation
    from qcompiler.options import Options

    with bar(shared.console(error=True), quiet=given.get("quiet", False)) as progress:
        hooks: list[Callable[[Pass, ir.Graph], None]] = [printer(given["print_after"])] if given["print_after"] else []

        def after(one: Pass, graph: ir.Graph) -> None:
            for hook in hooks:
                hook(one, graph)

        chosen = Options(
            cpu=given["cpu"],
            gpu=given.get("gpu", ""),
            interface=given.get("interface", "kept"),
            observer=given.get("observer") or "",
            block=given.get("block") or "",
            rounding=given.get("rounding") or "",
            ops=given.get("ops") or "",
            batch_size=given["batch_size"],
            limit=given["limit"],
            images=shared.image_options(given),
            timing=not given.get("no_timing", False),
            details=bool(given.get("report")),
            passes=given["passes"],
            improve=given.get("improve", "fast"),
            goal=given.get("goal"),
            threads=given.get("threads", 1),
            after=after,
            progress=progress,
        )
        job = Compilation(model, given["data"], target, precision, recipe_of(given), chosen)

        from qcompiler.verify.checks import Checks

        checks = Checks(given["verify"], job.source, job.samples.feeds()[:2] if given["verify"] == "numeric" else ())
        hooks.append(checks)
        yield job, checks


def settle_observer(given: dict[str, Any], statistics: Statistics | None) -> None:
    """Takes the observer that the statistics were taken for; refuses another one that the arguments name."""
    if statistics is not None:
        wanted = recipe_of(given).observer or given["observer"]
        given["observer"] = statistics.chosen_observer(wanted)


def recipe_of(given: dict[str, Any]) -> Recipe:
    """The recipe file with the command line's own choices added."""
    from qcompiler.recipe import load_recipe

    recipe = load_recipe(given.get("recipe"))
    return replace(recipe, keep_float=(*recipe.keep_float, *given.get("keep_float", ())))


def printer(names: tuple[str, ...]) -> Callable[[Pass, ir.Graph], None]:
    from qcompiler import registry
    from qcompiler.inspect import text

    for name in names:
        if name != "all":
            registry.find(name)

    def show(one: Pass, graph: ir.Graph) -> None:
        if "all" in names or one.name in names:
            click.echo(f"# after {one.name}\n{text(graph)}\n")

    return show


def finish(job: Compilation, given: dict[str, Any]) -> None:
    if given["time_passes"] and not given["quiet"]:
        from qcompiler.report import PassRecord
        from qcompiler.report.text import passes

        records = [PassRecord(run.name, run.seconds, run.result.rewrites) for run in job.runs]
        shared.console().print(passes(records))


def show_pipeline(given: dict[str, Any]) -> None:
    from qcompiler import registry
    from qcompiler.target_files import load_target

    changes = [change for change in given["passes"] if change != "show"]
    for stage, names in registry.edited(load_target(given["target"], given["cpu"]).pipeline, changes).items():
        click.echo(f"{stage}:")
        for name in names:
            click.echo(f"    {name}")


def bisect(model: str, given: dict[str, Any]) -> None:
    """Prints the first pass that changes the numbers; quantizing ones are meant to and are not looked at."""
    from qcompiler import ir, registry
    from qcompiler.pipeline import PassContext
    from qcompiler.pipeline import bisect as search
    from qcompiler.verify.checks import agrees

    with compilation(model, {**given, "verify": "none"}) as (job, _):
        passes = [registry.parse(text) for stage in ("clean", "prepare") for text in job.pipeline.get(stage, ())]
        start = ir.clone(job.source)
        ir.infer_shapes(start)
        guilty = search(passes, start, PassContext(job.target), agrees(job.source, job.samples.feeds()[:2]))
    if guilty is None:
        click.echo(f"after all {len(passes)} passes the outputs are still the source's: what is lost, quantizing loses")
    else:
        click.echo(f"the outputs leave the source after pass {guilty.name}")


def diff_plans(paths: tuple[str, ...]) -> None:
    if len(paths) != 2:
        raise click.UsageError("--diff compares two plans: plan --diff OLD.json NEW.json", click.get_current_context())
    from qcompiler.plan import Plan, diff

    lines = diff(Plan.load(paths[0]), Plan.load(paths[1]))
    click.echo("\n".join(lines) if lines else "the plans are the same")
