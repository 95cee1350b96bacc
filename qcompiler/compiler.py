"""The flow from a float model to a verified one: load, clean, place, calibrate, solve, lower, verify."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from qcompiler import calibrate, ir, native, registry, rounding, smoothing
from qcompiler.data import Samples, open_samples
from qcompiler.errors import DataError, PlanError, RecipeError, TargetError
from qcompiler.inspect import blocked
from qcompiler.job_samples import JobSamples
from qcompiler.memory import available_bytes
from qcompiler.options import Options
from qcompiler.outcome import report_of
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassRun, Pipeline
from qcompiler.plan import Plan
from qcompiler.reach import computed_floats, without_range
from qcompiler.recipe import Recipe, load_recipe
from qcompiler.report import FrontRecord, Report
from qcompiler.runtime_shapes import learn_shapes
from qcompiler.scheme import OLDEST_OPSET, OLDEST_WITH_BLOCKS
from qcompiler.search import ahead
from qcompiler.search.improve import EFFORTS
from qcompiler.search.meet import Meeting
from qcompiler.search.observing import BEST, USUAL, best_observer
from qcompiler.search.refine import Candidate, Refiner
from qcompiler.search.settle import UNCHANGED, Measured, measured, settled, unchanged, unfaithful
from qcompiler.stages import Stages
from qcompiler.target import OPS, Target
from qcompiler.target_files import load_target
from qcompiler.verify.checks import Checks

OBSERVED = "ranges by the observer"
"""The action of a decision for an observer."""
COPIES = 2
"""Of its weights a session holds: as they are, and as its kernels want them."""
REWRITING = ("fold-scale-shift", "fold-batchnorm", "merge-duplicates")
"""Passes that make new weights, or read all of them."""


@dataclass
class Result:
    """A compiled model. ``graph``: in our own form; ``plan``: what was quantized and how, None for float."""

    graph: ir.Graph
    plan: Plan | None
    statistics: calibrate.Statistics | None
    report: Report

    @property
    def model(self) -> onnx.ModelProto:
        """The model as a protobuf message. Raises ModelError above 2 GiB: save it instead."""
        return ir.to_proto(self.graph)

    def save(self, path: str | os.PathLike[str], *, external: bool | None = None) -> Path:
        """Writes the model; it appears at ``path`` only when it is complete."""
        return ir.save(self.graph, path, external=external)


def compile(
    model: object,
    data: object = None,
    *,
    target: str | Target = "ort-cpu",
    precision: str = "int8",
    plan: Plan | None = None,
    statistics: calibrate.Statistics | None = None,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None = None,
    options: Options | None = None,
) -> Result:
    """Compiles a model for a target.

    ``model``: a path, ``onnx.ModelProto``, what ``torch.onnx.export(..., dynamo=True)`` returns, an ``onnx_ir.Model``
    or a graphsurgeon graph; it is not changed. ``data``: samples, see ``qcompiler.data.open_samples``; needed for
    ``int8`` unless ``statistics`` or a solved ``plan`` is given. ``precision``: one of the target's, ``int8``,
    ``int8-dynamic`` or ``float`` for a CPU. For a target that is this machine the result is never slower than the
    source here, unless ``options.timing`` is off.

    Raises:
        QCompilerError: one of its subclasses, whose message says what, where, why and what to do.
    """
    job = Compilation(model, data, target, precision, recipe, options or Options())
    result = job.run(plan, statistics)
    with job.stages("check"):
        Checks("end", job.source).end(result.graph)
    return result


def operators_for(target: Target, precision: str, wanted: str) -> str:
    """The operators to use: those asked for, or the precision's own where the library is there for them.

    Raises:
        DependencyError: native operators are asked for, and this installation has no library of them.
    """
    if wanted == "native":
        native.library_path()
    if wanted or precision not in target.precisions:
        return wanted or OPS[0]
    usual = target.precisions[precision].ops
    return usual if usual == OPS[0] or native.available() else OPS[0]


class Compilation:
    """One model on its way through the stages; ``run`` goes through all of them, the command line calls some alone."""

    def __init__(
        self,
        model: object,
        data: object,
        target: str | Target,
        precision: str,
        recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None,
        options: Options,
    ) -> None:
        if isinstance(target, str):
            target = load_target(target, options.cpu)
        self.target = target.at(precision, operators_for(target, precision, options.ops))
        self.kind = self.target.precisions[precision]
        way = options.rounding or rounding.usual(samples=data is not None)
        zero_points = self.target.weight.four_bits and rounding.moves_zero_points(way, self.target)
        self.target = self.target.with_weights(options.block, zero_points=zero_points)
        if options.rounding and not self.target.weight.four_bits:
            fix = "use --precision int4, or leave --rounding out"
            raise TargetError("--rounding is for weights of four bits", where=precision, fix=fix)
        self.gpu = options.gpu or self.target.gpu
        self.precision, self.options = precision, options
        self.recipe = load_recipe(recipe)
        observer = self.recipe.observer or options.observer or self.target.observer
        if observer not in (*calibrate.OBSERVERS, BEST):
            raise TargetError(f"there is no observer '{observer}'", fix=f"use one of {', '.join(calibrate.OBSERVERS)}")
        self.observer, self.tries_observers = (USUAL, True) if observer == BEST else (observer, False)
        self.kind.check_gpu(precision, self.gpu)
        if options.improve not in EFFORTS:
            raise RecipeError(f"improve is '{options.improve}'", fix=f"use one of {', '.join(EFFORTS)}")
        self.pipeline = registry.edited(self.target.pipeline, options.passes)
        pipeline = {stage: tuple(names) for stage, names in self.pipeline.items()}
        self.target = replace(self.target, pipeline=pipeline)
        self.observers: dict[str, str] = {}
        self.stages = Stages(options.progress)
        self.runs: list[PassRun] = []
        self.front: list[FrontRecord] = []
        self.warnings: list[str] = []
        if self.target.foreign and options.timing and self.kind.quantize != "none":
            self.warnings.append(f"speed was measured here, and this CPU is not {self.target.cpu}: see --no-timing")
        with self.stages("load"):
            self.source = ir.load(model)
            self.graph = ir.clone(self.source)
        if self.kind.quantize != "none":
            self.warnings += blocked(self.source)
        if self.large:  # what makes other weights of weights would need room for them
            self.pipeline = {
                stage: [name for name in names if name.partition("{")[0] not in REWRITING]
                for stage, names in self.pipeline.items()
            }
        self.name = Path(model).name if isinstance(model, (str, os.PathLike)) else self.source.name
        self.data: Samples | None = None
        self.runtime = f"onnxruntime {ort.__version__}"
        if data is not None:
            self.data = open_samples(
                data,
                self.source.inputs,
                batch_size=options.batch_size,
                limit=options.limit,
                image_options=options.images,
            )
        self.samples = JobSamples(self)
        self.rounding = rounding.Rounding(self) if self.target.weight.four_bits else None

    def run(self, plan: Plan | None, statistics: calibrate.Statistics | None) -> Result:
        if self.options.goal is not None:
            self.refuse_goal()
        self.clean()
        if self.target.verifier != "onnxruntime":
            ahead.refuse(self)
        if self.kind.quantize == "none" and self.target.verifier == "onnxruntime":
            return self.finish(None, *settled(self, Candidate(self.lowered(Plan()), None), None))
        if self.graph.opset < OLDEST_OPSET:
            why = next((str(d) for d in self.diagnostics() if d.source == "raise-opset"), "")
            need = f"8 bits need opset {OLDEST_OPSET}, the model has {self.graph.opset}"
            warning = f"stays in float: {need} ({why})" if why else f"stays in float: {need}"
            plan = Plan(self.target.name, self.precision)
            candidate, found, warnings = settled(self, Candidate(self.lowered(plan), plan), None)
            return self.finish(None, candidate, found, [warning, *warnings])
        replayed = plan is not None
        if plan is None:
            plan, statistics = self.decide(statistics)
        else:
            smoothing.repeated(self, plan)
            plan.check(self.graph)
            if plan.target and plan.target != self.target.name:
                raise PlanError(f"the plan is for target {plan.target}, not {self.target.name}", fix="plan anew")
            if any(decision.action == UNCHANGED for decision in plan.decisions):
                candidate = unchanged(self, plan)
                return self.finish(None, candidate, measured(self, candidate.graph), [])
        ctx = PassContext(self.target, plan, statistics, self.observers)
        if self.target.verifier != "onnxruntime":
            builder = ahead.Builder(self, ctx, replayed)
            with self.stages("verify"):
                candidate = builder.refined()
            return self.finish(statistics, *ahead.finished(self, builder, candidate, statistics))
        refiner = Refiner(self, ctx, replayed)
        self.front = refiner.front
        with self.stages("verify"):
            candidate = refiner.refined()
        if not replayed and self.options.goal is not None:
            with self.stages("meet"):
                meeting = Meeting(self, refiner, self.options.goal)
                standing = meeting.met(candidate)
            warnings = meeting.warnings + unfaithful(self, standing.candidate.plan, statistics, standing.found)
            return self.finish(statistics, standing.candidate, standing.found, warnings)
        if not replayed:
            return self.finish(statistics, *settled(self, candidate, statistics))
        found = measured(self, candidate.graph)
        return self.finish(statistics, candidate, found, unfaithful(self, candidate.plan, statistics, found))

    def refuse_goal(self) -> None:
        """Raises where no mixture can be weighed."""
        fix = "leave out what is to be met, or use --target ort-cpu --precision int8"
        if self.kind.quantize != "static" or self.target.verifier != "onnxruntime":
            what = f"{self.target.name} at {self.precision} has nothing to choose from"
            raise TargetError(what, why="8 bits with ranges from samples are mixed with float by time measured here",
                              fix=fix)  # fmt: skip
        if self.data is None or not self.options.timing:
            raise DataError("what is to be met is measured", where=self.name, fix="give samples, and leave timing on")
        if self.target.foreign:
            what = f"what is to be met is measured here, and this CPU is not {self.target.cpu}"
            raise TargetError(what, where=self.name, fix="leave --cpu out, or compile there")

    def clean(self) -> None:
        with self.stages("clean"):
            ir.infer_shapes(self.graph)
            learn_shapes(self.graph)
            self.run_passes("clean", self.graph, PassContext(self.target))
            if self.graph.opset < self.kind.opset:  # types that came later
                raising = registry.make("raise-opset", {"opset": self.kind.opset})
                self.run_pass(raising, self.graph, PassContext(self.target))
            ir.infer_shapes(self.graph)
            if self.precision != "float":
                self.run_passes("prepare", self.graph, PassContext(self.target))
                ir.infer_shapes(self.graph)

    def decide(self, statistics: calibrate.Statistics | None = None) -> tuple[Plan, calibrate.Statistics | None]:
        """Placement, calibration and solving of the cleaned graph."""
        self.observers = self.recipe.observers_of(self.graph)
        ctx = PassContext(self.target, Plan(kept=self.recipe.kept(self.graph)), observers=self.observers)
        with self.stages("place"):
            ctx = self.placed(ctx)
        if self.kind.quantize == "none":
            plan = Plan(self.target.name, self.precision)
            watched = self.watched(plan) if self.data is not None else []
            with self.stages("calibrate"):
                return plan, self.calibrated(watched) if watched and statistics is None else statistics
        if self.kind.quantize == "dynamic" and self.data is not None:
            with self.stages("calibrate"):
                ctx = smoothing.smoothed(self, ctx, statistics)
        if self.kind.quantize != "static":
            with self.stages("solve"):
                samples = self.kind.quantize == "weights" and self.data is not None and not self.large
                return self.solved(smoothing.smoothed(self, ctx, None) if samples else ctx), None
        with self.stages("calibrate"):
            ctx = smoothing.smoothed(self, ctx, statistics)
            if statistics is None:
                assert ctx.plan is not None
                statistics = self.calibrated(self.watched(ctx.plan))
                plan = ctx.plan
                statistics = replace(statistics, smoothing=dict(plan.smoothing), rounding=dict(plan.rounding))
            else:
                statistics.check(self.graph)
                if self.data is not None and not statistics.of_samples(self.data, self.data.count):
                    where = statistics.where
                    self.warnings.append(f"ranges are those of {where}, which is of other samples than these")
        ctx = replace(ctx, statistics=statistics)
        with self.stages("solve"):
            return self.best_solved(ctx), statistics

    def prepared(self, earlier: calibrate.Statistics | None = None, *, skip_bad: bool = False) -> Plan:
        """Placement, smoothing and rounding of the cleaned graph's weights, which need no statistics; smoothing and
        rounding are those of earlier ones where given. The same model, samples and options make the same graph,
        whichever of the samples are then observed. ``skip_bad``: nothing is decided on samples that do not fit, or that
        the model fails on."""
        with self.stages("place"):
            ctx = self.placed(PassContext(self.target, Plan()))
        with self.stages("smooth"):
            plan = smoothing.smoothed(self, ctx, earlier, skip_bad=skip_bad).plan
        assert plan is not None
        return plan

    def placed(self, ctx: PassContext) -> PassContext:
        return self.run_pass(self.placing(), self.graph, ctx)

    def placing(self) -> Pass:
        if self.kind.quantize == "dynamic":
            return registry.make("place-dynamic")
        return registry.make("place", {"precision": self.precision})

    def best_solved(self, ctx: PassContext) -> Plan:
        """Solved with the observer that is wanted, from then on the one that measures best where that is wanted."""
        if not self.tries_observers or self.options.improve == "none":
            return self.solved(ctx)
        if self.data is None:
            reason = "untried: with samples beside the statistics, others are tried and biases are corrected"
            return self.solved(ctx).deciding([self.observer], OBSERVED, reason)
        plans: dict[str, Plan] = {}
        for self.observer in calibrate.OBSERVERS:
            plans[self.observer] = self.solved(ctx)
        self.observer = best_observer(self.graph, plans, self.samples.feeds())
        reason = f"of {', '.join(calibrate.OBSERVERS)}, tried on samples"
        return plans[self.observer].deciding([self.observer], OBSERVED, reason)

    def solved(self, ctx: PassContext) -> Plan:
        assert ctx.plan is not None
        if isinstance(ctx.statistics, calibrate.Statistics):
            missing = [name for name in self.observed(ctx.plan) if name not in ctx.statistics.tensors]
            if missing:
                more = self.calibrated(missing)
                tensors = {**ctx.statistics.tensors, **more.tensors}
                ctx = replace(ctx, statistics=replace(ctx.statistics, tensors=tensors))
        if self.rounding is not None:
            plan = self.rounding.done(ctx).plan
            assert plan is not None
            return plan
        ctx = self.reached(ctx)
        ctx = self.run_pass(registry.make("solve", {"observer": self.observer}), self.graph, ctx)
        assert ctx.plan is not None
        return ctx.plan

    def reached(self, ctx: PassContext) -> PassContext:
        """The context with those nodes left in float whose tensors held no value in any sample: the branch of an If
        that was never taken, say."""
        while isinstance(ctx.statistics, calibrate.Statistics) and ctx.plan is not None:
            kept = without_range(self.graph, ctx.plan, self.observed(ctx.plan), ctx.statistics)
            if not kept:
                break
            ctx = self.placed(replace(ctx, plan=ctx.plan.without_nodes(kept)))
        return ctx

    def lowered(self, plan: Plan, statistics: calibrate.Statistics | None = None) -> ir.Graph:
        """The plan written into a copy of the cleaned graph. ``statistics``: where 16 bits would overflow, and which
        codes occur."""
        graph = self.rounded(plan)
        self.run_passes("spell", graph, PassContext(self.target, plan))
        options = {"to": self.kind.floats, "interface": self.options.interface}
        if self.kind.floats == "float32":
            half = [name for decision in plan.decisions if decision.action == ahead.HALF for name in decision.where]
            options = {"to": "float16", "only": "\n".join(half)} if half else {}
        if options:
            narrow = registry.make("narrow-floats", options)
            self.run_pass(narrow, graph, PassContext(self.target, plan, statistics))
        ctx = PassContext(self.target, plan, statistics)
        if self.large and self.target.ops == OPS[0]:  # nobody will look at what the runtime makes of it
            self.run_pass(registry.make("fuse-nbits", {"everything": True}), graph, ctx)
        self.run_passes(self.target.ops, graph, ctx)
        self.run_passes("emit", graph, PassContext(self.target, plan))
        return graph

    def rounded(self, plan: Plan) -> ir.Graph:
        """A copy of the cleaned graph with the plan's codes, all else as it was."""
        graph = ir.clone(self.graph)
        scratch = None if self.rounding is None else self.rounding.scratch
        self.run_passes("lower", graph, PassContext(self.target, plan, scratch=scratch))
        if graph.opset < OLDEST_WITH_BLOCKS and any(
            node.op == "DequantizeLinear" and "block_size" in node.attrs for _, node in ir.all_nodes(graph)
        ):
            raising = registry.make("raise-opset", {"opset": OLDEST_WITH_BLOCKS})
            self.run_pass(raising, graph, PassContext(self.target, plan))
        return graph

    def observed(self, plan: Plan) -> list[str]:
        """The tensors whose ranges the plan needs."""
        tensors = ir.all_tensors(self.graph)
        return [
            name
            for name, sites in plan.tensors().items()
            if not ir.is_constant(tensors[name]) and any(quant.origin == "unsolved" for quant in sites.values())
        ]

    def watched(self, plan: Plan) -> list[str]:
        """Those and the tensors that 16 bits may be too few for."""
        names = dict.fromkeys(self.observed(plan))
        attends = self.target.verifier != "onnxruntime" and any(node.op == "Softmax" for node in self.graph.nodes)
        if self.kind.floats == "float16" or (attends and self.kind.quantize == "static"):
            names.update(dict.fromkeys(computed_floats(self.graph)))
        return list(names)

    def calibrated(self, tensors: list[str]) -> calibrate.Statistics:
        counted = calibrate.Calibration(self.graph, tensors, scheduler=calibrate.Threads(), on_sample=self.counted)
        return counted.run(self.samples.all())

    def counted(self, done: int, total: int | None) -> None:
        """Says how many samples are counted."""
        if self.options.progress is not None:
            self.options.progress("calibrate", done, total)

    @property
    def optimize(self) -> str:
        """How far ONNX Runtime may rewrite a graph in codes whose outputs are judged: its kernels here are the
        target's, or no one's are to be."""
        return "all" if self.target.verifier == "onnxruntime" and not self.target.foreign else "none"

    @cached_property
    def large(self) -> bool:
        """Whether memory has no room to run the source, and weights go from file to file."""
        available = available_bytes()
        small = self.kind.quantize != "weights" or self.target.verifier != "onnxruntime"
        return not small and 0 < available < COPIES * ir.weight_bytes(self.source)

    def run_passes(self, stage: str, graph: ir.Graph, ctx: PassContext) -> PassContext:
        return self._run(self.passes(stage), graph, ctx)

    def run_pass(self, one: Pass, graph: ir.Graph, ctx: PassContext) -> PassContext:
        return self._run([one], graph, ctx)

    def passes(self, stage: str) -> list[Pass]:
        return [registry.parse(text) for text in self.pipeline.get(stage, ())]

    def _run(self, passes: list[Pass], graph: ir.Graph, ctx: PassContext) -> PassContext:
        pipeline = Pipeline(passes, self.options.after)
        ctx = pipeline.run(graph, ctx)
        self.runs += pipeline.runs
        return ctx

    def finish(
        self, statistics: calibrate.Statistics | None, candidate: Candidate, found: Measured, warnings: list[str]
    ) -> Result:
        report = report_of(self, candidate, found, [*self.warnings, *warnings], statistics)
        return Result(candidate.graph, candidate.plan, statistics, report)

    def diagnostics(self) -> list[Diagnostic]:
        return [d for run in self.runs for d in run.result.diagnostics]
