"""What is held against a graph after each pass and at the end: ONNX's own rules, and the numbers of the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from qcompiler import ir
from qcompiler.errors import ModelError, VerificationError
from qcompiler.pipeline import Pass, Semantics
from qcompiler.runtime import Feed, run, session

LEVELS = ("none", "end", "each", "numeric")
"""``end``: ONNX's checker and shape inference on the result; ``each``: after each pass; ``numeric``: also the numbers,
computed with the runtime's own rewrites off, after each pass that claims not to change them."""

ROUNDING = 60.0
"""Decibels that remain when a deep model is computed in another order of operations; a wrong one is far below."""


class Checks:
    """An ``after`` hook of the pipeline. Raises VerificationError that names the pass and what no longer holds.

    ``source`` is what the passes start from; ``feeds`` are only used by ``numeric``.
    """

    def __init__(self, level: str, source: ir.Graph, feeds: Sequence[Feed] = ()) -> None:
        self.level, self.source, self.feeds = level, source, feeds
        self.graph: ir.Graph | None = None
        """The graph that the last pass left, with what it computes in ``found``."""
        self.cleaned = self.found = outputs(source, feeds) if level == "numeric" else []

    def __call__(self, one: Pass, graph: ir.Graph) -> None:
        if self.level in ("each", "numeric"):
            self.rules(graph, f"pass {one.name}")
        if self.level == "numeric":
            self.numbers(one, graph)

    def end(self, graph: ir.Graph) -> None:
        """The result as a whole."""
        if self.level != "none":
            self.rules(graph, "the result")

    def rules(self, graph: ir.Graph, where: str) -> None:
        broken = broken_rule(graph)
        # Many published models break a rule that runtimes forgive; that is not held against the passes.
        if broken and not broken_rule(self.source):
            raise VerificationError("breaks ONNX's rules", where=where, why=broken, fix="report it with the model")

    def numbers(self, one: Pass, graph: ir.Graph) -> None:
        """Compares with what the graph computed before the pass; a graph not seen last is a copy of the cleaned one."""
        wanted = self.found if graph is self.graph else self.cleaned
        found = outputs(graph, self.feeds)
        if one.semantics is not Semantics.QUANTIZING:
            difference = compare(wanted, found, [t.name for t in graph.outputs], exact=one.semantics is Semantics.EXACT)
            if difference:
                raise VerificationError(
                    f"claims to be {one.semantics.value}, but {difference}",
                    where=f"pass {one.name}",
                    fix=f"leave it out with --passes -{one.name} and report it",
                )
            if wanted is self.cleaned:
                self.cleaned = found
        self.graph, self.found = graph, found


def broken_rule(graph: ir.Graph) -> str:
    """The first of ONNX's rules that the graph breaks; empty when there is none."""
    skeleton = ir.skeleton(graph)
    try:
        onnx.checker.check_model(ir.to_proto(skeleton))
        ir.infer_shapes(skeleton, strict=True)
    except onnx.checker.ValidationError as error:
        return str(error)
    except ModelError as error:
        return error.why or error.what
    return ""


def outputs(graph: ir.Graph, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    """What the graph computes for each feed, with the runtime's own rewrites off."""
    with session(graph, optimize="none") as model:
        return [run(model, feed) for feed in feeds]


def compare(wanted: list[list[np.ndarray]], found: list[list[np.ndarray]], names: Sequence[str], *, exact: bool) -> str:
    """What differs, in words; empty when nothing does (beyond rounding, unless ``exact``)."""
    for before, after in zip(wanted, found):
        for name, a, b in zip(names, before, after):
            if not isinstance(a, np.ndarray):
                continue
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"output '{name}' is {b.dtype}{list(b.shape)} and was {a.dtype}{list(a.shape)}"
            same = np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            if same or (a.dtype.kind == "f" and not exact and _sqnr(a, b) >= ROUNDING):
                continue
            amount = f"by up to {np.nanmax(np.abs(a - b)):.3g}" if a.dtype.kind == "f" else "its values"
            return f"it changes output '{name}' {amount}"
    return ""


def agrees(source: ir.Graph, feeds: Sequence[Feed]) -> Callable[[ir.Graph], bool]:
    """Whether a graph still computes what ``source`` does, up to rounding: the question that bisecting asks."""
    wanted, names = outputs(source, feeds), [t.name for t in source.outputs]

    def holds(graph: ir.Graph) -> bool:
        try:
            found = outputs(graph, feeds)
        except (ModelError, VerificationError):  # the runtime refuses what the passes made
            return False
        return not compare(wanted, found, names, exact=False)

    return holds


def _sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    """Decibels; infinities and NaN must stand in the same places."""
    known = np.isfinite(wanted)
    if not np.array_equal(known, np.isfinite(found)):
        return -np.inf
    signal, noise = wanted[known].astype(np.float64), (wanted[known] - found[known]).astype(np.float64)
    if not noise.any():
        return np.inf
    return 10.0 * float(np.log10(max(np.sum(signal**2), 1e-30) / np.sum(noise**2)))
