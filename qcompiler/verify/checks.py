"""What is held against a graph after each pass and at the end: ONNX's own rules, and the numbers of the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from qcompiler import ir
from qcompiler.errors import ModelError, VerificationError
from qcompiler.pipeline import Pass, Semantics
from qcompiler.runtime import Feed, run, session

LEAST = {Semantics.EXACT: 100.0, Semantics.ALGEBRAIC: 60.0}
"""Decibels that must remain. An exact pass does not keep all bits: for a weight that is known beforehand the runtime
may take another kernel. An algebraic one rounds at each layer of a deep model; a wrong one is far below."""


class Checks:
    """An ``after`` hook of the pipeline. Raises VerificationError that names the pass and what no longer holds.

    ``level``: ``none``; ``end``, ONNX's checker and shape inference on the result; ``each``, after each pass too;
    ``numeric``, also the numbers, computed with the runtime's own rewrites off, after each pass that claims not to
    change them. ``source`` is what the passes start from; ``feeds`` are only used by ``numeric``.
    """

    def __init__(self, level: str, source: ir.Graph, feeds: Sequence[Feed] = ()) -> None:
        self.level, self.source, self.feeds = level, source, feeds
        self.quantized: ir.Graph | None = None
        self.found = outputs(source, feeds) if level == "numeric" else []

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
        """Compares with what the float graph computed before the pass. Behind a quantizing pass there is nothing to
        compare: a rounding that moves a value to the next code is no fault."""
        if one.semantics is Semantics.QUANTIZING:
            self.quantized = graph
        if graph is self.quantized:
            return
        found = outputs(graph, self.feeds)
        difference = compare(self.found, found, [t.name for t in graph.outputs], one.semantics)
        if difference:
            raise VerificationError(
                f"claims to be {one.semantics.value}, but {difference}",
                where=f"pass {one.name}",
                fix=f"leave it out with --passes -{one.name} and report it",
            )
        self.found = found


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


def compare(
    wanted: list[list[np.ndarray]], found: list[list[np.ndarray]], names: Sequence[str], semantics: Semantics
) -> str:
    """What differs by more than such a pass may change, in words; empty when nothing does."""
    for before, after in zip(wanted, found):
        for name, a, b in zip(names, before, after):
            if not isinstance(a, np.ndarray):
                continue
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"output '{name}' is {b.dtype}{list(b.shape)} and was {a.dtype}{list(a.shape)}"
            if a.dtype.kind != "f":
                if not np.array_equal(a, b):
                    return f"it changes output '{name}'"
            elif (sqnr := _sqnr(a, b)) < LEAST[semantics]:
                return f"it changes output '{name}': {sqnr:.0f} dB are left of {LEAST[semantics]:.0f}"
    return ""


def agrees(source: ir.Graph, feeds: Sequence[Feed]) -> Callable[[ir.Graph], bool]:
    """Whether a graph still computes what ``source`` does, up to rounding: the question that bisecting asks."""
    wanted, names = outputs(source, feeds), [t.name for t in source.outputs]

    def holds(graph: ir.Graph) -> bool:
        try:
            found = outputs(graph, feeds)
        except (ModelError, VerificationError):  # the runtime refuses what the passes made
            return False
        return not compare(wanted, found, names, Semantics.ALGEBRAIC)

    return holds


def _sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    """Decibels; infinities and NaN must stand in the same places."""
    known = np.isfinite(wanted)
    if not np.array_equal(known, np.isfinite(found)):
        return -np.inf
    if not np.array_equal(wanted[~known], found[~known], equal_nan=True):
        return -np.inf
    signal, noise = wanted[known].astype(np.float64), (wanted[known] - found[known]).astype(np.float64)
    if not noise.any():
        return np.inf
    return 10.0 * float(np.log10(max(np.sum(signal**2), 1e-30) / np.sum(noise**2)))
