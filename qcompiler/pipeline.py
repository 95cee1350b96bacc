"""What a pass is, and how passes are run, timed, checked and bisected."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from qcompiler import ir
from qcompiler.errors import ModelError, PassError, QCompilerError

if TYPE_CHECKING:
    from qcompiler.plan import Plan, Site
    from qcompiler.target import Target


class Semantics(Enum):
    """What a pass may do to the numbers that the model computes."""

    EXACT = "exact"
    """Bit for bit the same outputs."""
    ALGEBRAIC = "algebraic"
    """The same function, computed in another order: equal up to float rounding."""
    QUANTIZING = "quantizing"
    """Fewer bits."""


@dataclass(frozen=True)
class Diagnostic:
    """One remark of a pass about one place: what it saw there and why it acted or refused.

    ``severity`` is ``note`` (worth knowing), ``refused`` (a case that looked right and was left alone) or ``warning``
    (the user should look). ``source`` is the pass's name; the pipeline fills it in.
    """

    where: str
    message: str
    severity: str = "note"
    source: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.where}: {self.message}" if self.source else f"{self.where}: {self.message}"


@dataclass(frozen=True)
class PassContext:
    """What a pass may look at beside the graph. ``shifts``: by how much what biases by name are added to is off in the
    mean, float32 ``[samples, C]``. ``plan`` is the newest one; None before placement. ``observers``: the
    user's choice for single tensors. ``rows``: some rows ``[rows, K]`` of tensors by name, from samples.
    ``moments``: what weights by name are multiplied with, see ``calibrate.moments``. ``scratch``: where codes of four
    bits are kept that memory has no room for."""

    target: Target | None = None
    plan: Plan | None = None
    statistics: Any = None
    observers: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, Any] | None = None
    rows: Any = None
    moments: Any = None
    scratch: Any = None


@dataclass(frozen=True)
class PassResult:
    """``rewrites``: how many places were changed; ``plan``: the new plan of a pass that decides, else None."""

    rewrites: int = 0
    diagnostics: tuple[Diagnostic, ...] = ()
    plan: Plan | None = None


class Pass:
    """Base of every pass: subclass it as a frozen dataclass whose typed fields are the options, and define ``run``.

    ``run`` edits the graph in place. The graph is the pipeline's own; weights in it are read-only arrays.
    """

    name: ClassVar[str] = ""
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        raise NotImplementedError


class RowsPass(Pass):
    """A pass that decides on some rows of activations, which ``ctx.rows`` holds: it runs after the first placement and
    leaves what it decided in ``plan.smoothing``, or on a solved plan, where it corrects biases, in ``plan.shifts``.
    Given a plan that has it and no rows, it repeats it. ``rows``: of each tensor, at most, from so many ``samples``."""

    rows: ClassVar[int] = 128
    samples: ClassVar[int] = 16

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        """Names of the tensors it wants rows of, each with the axis that a row runs along."""
        raise NotImplementedError


class MomentsPass(Pass):
    """A pass that rounds the weights of a solved plan with what they are multiplied with in mind, which ``ctx.moments``
    holds, and leaves what it decided in ``plan.rounding``."""

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, list[str]]:
        """Names of the weights it wants moments for, each with the nodes of the outermost graph that read it."""
        raise NotImplementedError


class GradualPass(MomentsPass):
    """A ``MomentsPass`` that may be given a plan with some of the weights alone: those behind them are then rounded for
    what these make of the samples."""

    def groups(self, graph: ir.Graph, plan: Plan) -> list[list[Site]]:
        """The uses of each weight that it rounds."""
        raise NotImplementedError


class ShiftsPass(Pass):
    """A pass that corrects the biases of a solved plan by what rounding does to means, which ``ctx.shifts`` holds, and
    leaves what it decided in ``plan.shifts``."""

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, tuple[str, int]]:
        """Names of the biases it may correct, each with the sum it is part of and how many axes that has."""
        raise NotImplementedError


@dataclass(frozen=True)
class PassRun:
    """One pass as it was run: its result and what it took, in seconds."""

    name: str
    seconds: float
    result: PassResult


@dataclass
class Pipeline:
    """Runs passes in order over one graph.

    ``after`` is called as ``after(pass, graph)`` when a pass has ended and the structure has been found sound:
    printing, ONNX's checker and numeric comparison hook in here.
    """

    passes: Sequence[Pass]
    after: Callable[[Pass, ir.Graph], None] | None = None
    runs: list[PassRun] = field(default_factory=list)

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassContext:
        """Edits ``graph``; returns the context with the newest plan. Raises PassError naming the pass that failed."""
        interface = _interface(graph)
        for one in self.passes:
            start = time.perf_counter()
            try:
                result = one.run(graph, ctx)
                if not isinstance(result, PassResult):
                    raise TypeError(f"run returned {type(result).__name__}, not PassResult")
                ir.adopt(graph)
                if _interface(graph) != interface:
                    raise ModelError(
                        "the model's inputs and outputs have changed", why=f"{interface} became {_interface(graph)}"
                    )
                ir.check_structure(graph)
                ir.sort(graph)
            except QCompilerError as error:
                raise PassError(error.what, where=_place(one, error), why=error.why, fix=error.fix) from error
            except MemoryError:  # no fault of the pass
                raise
            except Exception as error:  # a pass is anybody's code
                raise PassError(
                    f"failed with {type(error).__name__}: {error}",
                    where=f"pass {one.name}",
                    fix=f"this is a fault of the pass: leave it out with --passes -{one.name}, and report it",
                ) from error
            named = tuple(replace(d, source=one.name) for d in result.diagnostics)
            result = replace(result, diagnostics=named)
            self.runs.append(PassRun(one.name, time.perf_counter() - start, result))
            if result.plan is not None:
                ctx = replace(ctx, plan=result.plan)
            if self.after is not None:
                self.after(one, graph)
        return ctx

    @property
    def diagnostics(self) -> list[Diagnostic]:
        return [d for run in self.runs for d in run.result.diagnostics]


def bisect(passes: Sequence[Pass], graph: ir.Graph, ctx: PassContext, good: Callable[[ir.Graph], bool]) -> Pass | None:
    """The first pass after which ``good`` no longer holds, found by halving; None when the whole pipeline is good.

    Every probe starts from a fresh clone of ``graph``. Assumes that once broken it stays broken.
    """

    def holds(count: int) -> bool:
        trial = ir.clone(graph)
        Pipeline(passes[:count]).run(trial, ctx)
        return good(trial)

    if holds(len(passes)):
        return None
    low, high = 0, len(passes)  # good after ``low`` passes, wrong after ``high``
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return passes[high - 1]


def _interface(graph: ir.Graph) -> str:
    inputs, outputs = (", ".join(tensor.name for tensor in tensors) for tensors in (graph.inputs, graph.outputs))
    return f"{inputs} => {outputs}"


def _place(one: Pass, error: QCompilerError) -> str:
    return f"pass {one.name}: {error.where}" if error.where else f"pass {one.name}"
