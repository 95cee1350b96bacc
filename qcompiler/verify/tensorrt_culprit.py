"""Finds the node because of which TensorRT does not build a model: its builder seldom names one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qcompiler import ir
from qcompiler.errors import QCompilerError, VerificationError
from qcompiler.runtime import Feed
from qcompiler.verify import tensorrt

SECONDS = 300.0
"""What looking for it may take."""


def named(
    error: tensorrt.BuildError, graph: ir.Graph, gpu: str, feeds: Sequence[Feed], where: str
) -> VerificationError:
    """The error with the node that the model is built up to, in the order of computation, and not with; the error as it
    is where that is not found in time.

    Halves the stretch in which that node lies: some ten builds of parts of the model."""
    until = time.monotonic() + SECONDS
    graph = ir.clone(graph)
    ir.infer_shapes(graph)  # an output without a type does not parse
    built, failed = 0, len(graph.nodes)
    why = error.why
    while failed - built > 1:
        left = until - time.monotonic()
        if left <= 0.0:
            return error
        count = (built + failed) // 2
        part = ir.opening(graph, count)
        try:
            tensorrt.build(part, gpu, part.inputs, feeds, seconds=left)
            built = count
        except QCompilerError as found:
            failed, why = count, found.why or why
    node = ir.opening(graph, failed).nodes[-1]
    return VerificationError(
        f"TensorRT does not build node '{node.name}' ({node.op}) for {gpu}", where=where, why=why,
        fix="take it out, or write it in another form",
    )  # fmt: skip
