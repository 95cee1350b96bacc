"""lint, and what verify shows of an engine: models held against a target that is not this machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from qcompiler.cli import options as shared
from qcompiler.errors import QCompilerError, VerificationError

if TYPE_CHECKING:
    from qcompiler import ir
    from qcompiler.runtime import Feed
    from qcompiler.target import Target
    from qcompiler.verify.numbers import OutputError
    from qcompiler.verify.tensorrt import Engine, Fate

PROFILE_FEEDS = 64
MOST_NAMED = 4
NO_CODES = "the model does not hand it codes on both sides"
KINDS = {"correlation": "convolution", "gemm": "matrix product", "kgen": "generated kernel", "avgpool": "pooling",
         "runtime_fusion": "fused at run time", "attention": "whole attention"}  # fmt: skip


@click.command("lint")
@click.argument("model")
@click.option("--target", default="tensorrt", show_default=True, help="A target's name, or the path of its .toml.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--rules", "listing", is_flag=True, help="Print the rules and stop.")
@shared.debug_option
def lint_command(model: str, target: str, as_json: bool, listing: bool, debug: bool) -> None:
    """Hold MODEL, by whatever tool it was made, against the rules of a target. Needs nothing installed.

    Exits with 1 when an error is found, that is when the target would not take the model.
    """
    from qcompiler import ir
    from qcompiler.lint import RULES, lint
    from qcompiler.target_files import load_target

    if listing:
        for rule in RULES.values():
            click.echo(f"{rule.id} {rule.severity:8}{rule.reason}; {rule.fix}")
        return
    found = lint(ir.load(model), load_target(target))
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in found], indent=1))
    else:
        from rich.text import Text

        from qcompiler.report.text import table

        console = shared.console()
        if not found:
            console.print(f"{model}: nothing found", markup=False)
        else:
            made = table("rule", "", "where", "what", "why", "fix")
            for one in found:
                made.add_row(one.rule, one.severity, *map(Text, (one.where, one.detail, one.reason, one.fix)))
            console.print(made)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise VerificationError(
            f"breaks {len({finding.rule for finding in errors})} rules of target {target} at {len(errors)} places",
            where=model, fix=f"see above: {errors[0].rule} first",
        )  # fmt: skip


def verify_engine(
    source: str, compiled: str, target: Target, as_json: bool, quiet: bool, given: dict[str, Any]
) -> None:
    """Builds the compiled model for each of the GPUs and shows what became of its nodes; agreement is the CPU's."""
    from itertools import islice

    from qcompiler import ir
    from qcompiler.data import open_samples, random_samples
    from qcompiler.verify import stand_in, tensorrt, tensorrt_culprit

    graph, made = ir.load(source), ir.load(compiled)
    images = shared.image_options(given)
    if given["data"]:
        samples = open_samples(
            given["data"], graph.inputs, batch_size=given["batch_size"], limit=given["limit"], image_options=images
        )
    else:
        samples = random_samples(graph.inputs, given["limit"] or 4)
    feeds = list(islice(samples, PROFILE_FEEDS))
    plain = without_codes(made, target)
    errors, unmeasured = agreement(source, stand_in.runnable(made), feeds)
    meant, attention = products(made)
    shown: list[dict[str, Any]] = []
    for gpu in given["gpu"] or (target.gpu,):
        try:
            engine = tensorrt.build(compiled, gpu, made.inputs, feeds)
        except tensorrt.BuildError as failure:
            raise tensorrt_culprit.named(failure, made, gpu, feeds, compiled) from None
        fates = engine.fates(meant, attention)
        shown.append(described(engine, fates, plain))
        if not quiet and not as_json:
            show(engine, fates, plain, compiled, given["verbose"])
    tried = on_gpu(compiled, made, feeds) if given["run"] else None
    if as_json:
        outputs = [{**vars(error), "sqnr": min(error.sqnr, 1e3)} for error in errors]
        result = {"source": source, "compiled": compiled, "outputs": outputs, "unmeasured": unmeasured}
        click.echo(json.dumps({**result, "engines": shown, "run": tried}, indent=1))
    elif not quiet:
        from qcompiler.report import OutputRecord
        from qcompiler.report.text import agreement as table_of
        from qcompiler.report.text import titled

        console = shared.console()
        if errors:
            title = f"Agreement with {source} on {len(feeds)} samples, both run on a CPU as they are written"
            console.print(titled(title, table_of([OutputRecord(**vars(error)) for error in errors])))
        if unmeasured:
            console.print(unmeasured, markup=False)
        if tried:
            console.print(tried, markup=False)
    for error in errors:
        if given["min_sqnr"] is not None and error.sqnr < given["min_sqnr"]:
            found = f"output '{error.name}' has {error.sqnr:.2f} dB"
            raise VerificationError(f"{found}, less than the {given['min_sqnr']:g} dB asked for", where=compiled)


def agreement(source: str, compiled: ir.Graph, feeds: Sequence[Feed]) -> tuple[list[OutputError], str]:
    """How the outputs agree when ONNX Runtime computes what the files say, or why that is not known."""
    from qcompiler.runtime import session
    from qcompiler.verify import numbers

    try:
        with session(source) as before, session(compiled, optimize="none") as after:
            return numbers.compare(before, after, feeds), ""
    except QCompilerError as error:
        return [], f"agreement is not measured: ONNX Runtime does not run it on a CPU ({error})"


def products(graph: ir.Graph) -> tuple[list[str], set[str]]:
    """Names of the products and convolutions that read codes, and those of them that are part of an attention."""
    from qcompiler import ir
    from qcompiler.lint.rule import HEAVY, coded_constant, dequantizer, quantized

    meant, attention = [], set()
    for _, node in ir.all_nodes(graph):
        if node.op not in HEAVY or len(node.inputs) < 2:
            continue
        weight = dequantizer(node.inputs[1])
        alone = weight is not None and coded_constant(weight) is not None
        if quantized(node) or alone:
            meant.append(node.name)
        if node.op == "MatMul" and not alone and not ir.is_constant(node.inputs[1]) and quantized(node):
            attention.add(node.name)
    return meant, attention


def without_codes(graph: ir.Graph, target: Target) -> dict[str, str]:
    """The products and convolutions of a quantized model that read no codes, and why they do not: by the target's
    rules, where one says so."""
    from qcompiler import ir, registry
    from qcompiler.inspect import REFUSAL, float_reasons
    from qcompiler.lint.rule import HEAVY
    from qcompiler.pipeline import PassContext, Pipeline

    meant = set(products(graph)[0])
    plain = [node.name for _, node in ir.all_nodes(graph) if node.op in HEAVY and node.name not in meant]
    if not meant or not plain:
        return {}
    precision = precision_of(graph, target)
    copy, target = ir.clone(graph), target.at(precision)
    widened = registry.make("widen-float16")  # the rules are for models that are not in 16 bits yet
    pipeline = Pipeline([widened, registry.make("place", {"precision": precision})])
    pipeline.run(copy, PassContext(target))
    said = {one.where: one.message.removeprefix(REFUSAL) for one in pipeline.diagnostics if one.severity == "refused"}
    other = float_reasons(copy, target, ())
    fits = {node.name for _, node in ir.all_nodes(copy) if target.operator(node) and not target.weights_alone}
    return {name: said.get(name) or (NO_CODES if name in fits else other[name]) for name in plain}


def precision_of(graph: ir.Graph, target: Target) -> str:
    """The precision whose weights have the codes that most weights of the model have."""
    import numpy as np

    from qcompiler import ir
    from qcompiler.lint.rule import HEAVY, code_type, coded_constant, dequantizer

    rounded = [dequantizer(node.inputs[1]) for _, node in ir.all_nodes(graph) if node.op in HEAVY]
    kinds = [code_type(node) for node in rounded if node is not None and coded_constant(node) is not None]
    names = Counter(np.dtype(kind).name for kind in kinds if kind is not None)
    usual = next(iter(target.precisions))
    found = (name for name, kind in target.precisions.items() if kind.quantize != "none")
    most = names.most_common(1)[0][0] if names else ""
    return next((name for name in found if target.at(name).weight.dtype == most), usual)


def described(engine: Engine, fates: dict[str, Fate], plain: dict[str, str]) -> dict[str, Any]:
    """As JSON."""
    return {
        "gpu": engine.gpu,
        "version": engine.version,
        "bytes": engine.bytes,
        "seconds": engine.seconds,
        "attentions": engine.attentions,
        "kinds": engine.histogram(),
        "layers": [vars(layer) for layer in engine.layers],
        "meant": len(fates),
        "in_float": {name: fate.why for name, fate in fates.items() if not fate.fused},
        "without_codes": plain,
    }


def show(engine: Engine, fates: dict[str, Fate], plain: dict[str, str], compiled: str, verbose: bool) -> None:
    from rich.text import Text

    from qcompiler.report.text import megabytes, table, titled

    console = shared.console()
    made = table("layers", "kind", "what", "computes with", right=("layers",))
    for name, count in engine.histogram().items():
        kind, _, form = name.partition(" ")
        made.add_row(str(count), kind, KINDS.get(kind, ""), form)
    title = f"{compiled} for {engine.gpu}, by tensorrt-rtx {engine.version}: {len(engine.layers)} layers"
    title += f", {engine.attentions} attentions in one kernel"
    title += f", {megabytes(engine.bytes)}, built in {engine.seconds:.1f} s"
    console.print(titled(title, made))
    left = [fate for fate in fates.values() if not fate.fused]
    console.print(f"{len(fates) - len(left)} of {len(fates)} products and convolutions that read codes run on codes")
    for fate in left:
        console.print(f"  {fate.node} runs as {fate.form}: {fate.why}", markup=False)
    show_plain(engine, plain, verbose)
    glue = Counter(layer.type for layer in engine.glue())
    console.print("between them: " + ", ".join(f"{count} layers {kind}" for kind, count in glue.most_common()))
    if glue.get("Float", 0) > 1 and fates:
        console.print("  what is left in float32 runs faster in 16 bits: --precision int8+fp16")
    console.print()
    if verbose:
        every = table("layer", "kind", "inputs", "constants", "outputs", "nodes")
        for layer in engine.layers:
            types = (", ".join(Counter(part)) for part in (layer.inputs, layer.constants, layer.outputs))
            every.add_row(Text(layer.name[:60]), layer.kind, *types, Text(", ".join(layer.nodes)[:100]))
        console.print(every)


def show_plain(engine: Engine, plain: dict[str, str], verbose: bool) -> None:
    """What reads no codes: by reason, with what became of it."""
    layers = engine.layers_of()
    groups: dict[str, list[str]] = {}
    for name, why in plain.items():
        if any(layer.attention for layer in layers.get(name, ())):
            why = "part of an attention that is one kernel"
        groups.setdefault(why, []).append(name)
    for why, names in groups.items():
        most = len(names) if verbose else MOST_NAMED
        more = f" and {len(names) - most} more" if len(names) > most else ""
        text = f"{len(names)} in float: {', '.join(names[:most])}{more}: {why}"
        shared.console().print(f"  {text}", markup=False)


def on_gpu(compiled: str, graph: ir.Graph, feeds: Sequence[Feed]) -> str:
    """What running it on this machine's GPU came to, in a line; why not, where it could not be tried."""
    from qcompiler.errors import DependencyError
    from qcompiler.runtime import run, session
    from qcompiler.verify import stand_in, tensorrt
    from qcompiler.verify.numbers import Comparison

    try:
        outputs, seconds = tensorrt.run(compiled, graph.inputs, feeds)
    except DependencyError as error:
        return f"not run: {error}"
    names = [tensor.name for tensor in graph.outputs]
    found = Comparison(names)
    with session(stand_in.runnable(graph), optimize="none") as plain:
        for feed, made in zip(feeds, outputs):
            found.add(run(plain, feed, names), [made[name] for name in names])
    worst = min((error.sqnr for error in found.errors()), default=float("inf"))
    return f"on this machine's GPU: {seconds * 1e3:.3g} ms a run, {worst:.1f} dB beside the same model on the CPU"


COMMANDS = (lint_command,)
