"""Rules of a target that a model can be held against with nothing installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcompiler import ir
from qcompiler.errors import ModelError, TargetError
from qcompiler.lint import parsing, placement
from qcompiler.lint.rule import RULES, Finding, Rule, Subject
from qcompiler.target import Target

OF_SOURCES = ("T001", "T002")
"""The rules that a float model must keep before it is worth calibrating."""


def lint(graph: ir.Graph, target: Target, rules: Sequence[str] = ()) -> list[Finding]:
    """What breaks the target's rules, or those of ``rules``, in the order of the rules.

    Raises:
        TargetError: there are no rules for this target.
    """
    if target.verifier != "tensorrt":
        raise TargetError(f"there are no rules for target {target.name}", fix="lint for --target tensorrt")
    known: Mapping[str, Rule] = RULES
    ir.infer_shapes(graph)
    subject = Subject(graph, target)
    return [finding for id in rules or known for finding in known[id].findings(subject)]


def refuse(graph: ir.Graph, target: Target, where: str) -> None:
    """Raises ModelError, naming the node, when the target cannot take the float model at all."""
    for finding in lint(ir.clone(graph), target, OF_SOURCES):
        raise ModelError(
            f"target {target.name} cannot take node '{finding.where}'", where=where,
            why=f"{finding.detail}; {finding.reason}", fix=finding.fix,
        )  # fmt: skip


__all__ = ["OF_SOURCES", "RULES", "Finding", "Rule", "lint", "parsing", "placement", "refuse"]
