"""inspect, passes and targets: what there is."""

from __future__ import annotations

import inspect as python_inspect
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import click

from qcompiler.cli import options as shared

if TYPE_CHECKING:
    from qcompiler import ir


@click.command("inspect")
@click.argument("model")
@shared.target_options
@shared.load_option
@click.option("--graph", "whole", is_flag=True, help="Print each node instead.")
@click.option("--ops", type=click.Choice(shared.OPS), help="Operators of our library too, or the runtime's alone.")
@click.option("--verbose", is_flag=True, help="Name each node that stays in float, or that a table stands for.")
@shared.debug_option
def inspect_command(
    model: str, whole: bool, verbose: bool, target: str, cpu: str, ops: str | None, debug: bool
) -> None:
    """Show what is in MODEL, what can be quantized and what not, and problems found."""
    from qcompiler import inspect, ir
    from qcompiler.report.text import megabytes, operators, table, titled
    from qcompiler.tables import tables_of

    graph = ir.load(model)
    if whole:
        click.echo(inspect.text(graph))
        return
    console = shared.console()
    console.print(f"{model}: {graph.name}, opset {graph.opset}", style="bold", markup=False)
    for title, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        for tensor in tensors:
            console.print(f"  {title[:-1]:7} {inspect.signature(tensor)}", markup=False)
    weights = table("weights", "count", "size", right=("count", "size"))
    for kind in inspect.weights(graph):
        weights.add_row(kind.dtype, str(kind.count), megabytes(kind.bytes))
    console.print(weights)
    counts = inspect.operators(graph)
    console.print(f"{sum(counts.values())} nodes: {operators(counts.elements())}", markup=False)
    lookups = tables_of(graph)
    if lookups:
        inside = sum(map(len, lookups.values()))
        stand = "1 table stands" if len(lookups) == 1 else f"{len(lookups)} tables stand"
        console.print(f"{stand} for {inside} nodes of the model that was compiled")
        for name, members in lookups.items() if verbose else ():
            console.print(f"  {name}: {', '.join(members)}", markup=False)
    console.print()

    from rich.text import Text

    rows, cleaned = quantizable(model, target, cpu, ops or "")
    inside = sum(1 for _, _, reason in rows if not reason)
    made = table("nodes", "operators", "why", right=("nodes",))
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, op, reason in rows:
        groups[reason].append((name, op))
    for reason, nodes in sorted(groups.items(), key=lambda item: (item[0] != "", -len(item[1]))):
        made.add_row(str(len(nodes)), Text(operators(op for _, op in nodes)), Text(reason or "in 8 bits"))
        if verbose and reason:
            made.add_row("", Text(", ".join(name for name, _ in nodes)), "")
    console.print(titled(f"For {target}, once cleaned, {inside} of {len(rows)} nodes can be quantized", made))
    found = list(inspect.problems(graph, cleaned))
    console.print("Problems" if found else "No problems found", style="bold")
    for line in found:
        console.print(f"  {line}", markup=False)


def quantizable(model: str, target: str, cpu: str, ops: str) -> tuple[list[tuple[str, str, str]], ir.Graph]:
    """(node, operator, why it stays in float or nothing) of the cleaned model, by the target's description; and that
    model."""
    from qcompiler import ir
    from qcompiler.compiler import Compilation
    from qcompiler.inspect import float_reasons
    from qcompiler.options import Options
    from qcompiler.pipeline import PassContext
    from qcompiler.plan import Plan

    job = Compilation(model, None, target, "int8", None, Options(cpu=cpu, ops=ops))
    job.clean()
    plan = job.placed(PassContext(job.target, Plan())).plan or Plan()
    reasons = float_reasons(job.graph, job.target, job.diagnostics())
    rows = [
        (node.name, node.op, "" if node.name in plan.intended else reasons[node.name])
        for _, node in ir.all_nodes(job.graph)
    ]
    return rows, job.graph


@click.command("passes")
@click.argument("name", required=False)
@shared.load_option
@shared.debug_option
def passes_command(name: str | None, debug: bool) -> None:
    """List the passes there are, or show one with its options."""
    from qcompiler import registry

    if name is None:
        from qcompiler.report.text import table

        made = table("pass", "semantics", "what it does")
        for known, one in sorted(registry.available().items()):
            made.add_row(known, one.semantics.value, first_sentence(one))
        shared.console().print(made)
        return
    one = registry.find(name)
    click.echo(f"{name} ({one.semantics.value}), {one.__module__}.{one.__qualname__}\n")
    click.echo(python_inspect.cleandoc(one.__doc__ or "It says nothing about itself."))
    options = registry.options_of(one)
    click.echo("\nOptions, given as " + name + "{NAME=VALUE}:" if options else "\nNo options.")
    for option, kind, default in options:
        click.echo(f"    {option}: {kind} = {default!r}")


@click.command("targets")
@click.argument("name", required=False)
@click.option("--cpu", default="auto", show_default=True, help="CPU kind of the target.")
@shared.debug_option
def targets_command(name: str | None, cpu: str, debug: bool) -> None:
    """List the targets there are, or show what one fuses with which scheme."""
    from qcompiler.report.text import table
    from qcompiler.target_files import describe, load_target, target_names

    console = shared.console()
    if name is None:
        made = table("target", "what it is", "CPU kinds")
        for known in target_names():
            target = load_target(known)
            made.add_row(known, target.summary, ", ".join(target.cpus))
        console.print(made)
        return
    target = load_target(name, cpu)
    console.print(f"{target.name}: {target.summary}, opset {target.opset}", style="bold", markup=False)
    for kind, why in target.cpus.items():
        console.print(f"  {'*' if kind == target.cpu else ' '} {kind}: {why}", markup=False)
    console.print(
        f"  activations {target.activation}, weights {target.weight}, bias {target.bias}", markup=False
    )
    made = table("operator", "how")
    for operator, how in describe(target):
        made.add_row(operator, how)
    console.print(made)


def first_sentence(one: type) -> str:
    """What the pass's file says first; what the class says where the file says nothing."""
    said = (sys.modules[one.__module__].__doc__ or one.__doc__ or "").strip()
    # A dataclass without a docstring has its signature there.
    return "" if said.startswith(f"{one.__name__}(") else " ".join(said.partition("\n\n")[0].split())


COMMANDS = (inspect_command, passes_command, targets_command)
