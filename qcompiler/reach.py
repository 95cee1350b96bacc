"""What is computed in a graph, and what no sample ever reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler import calibrate, ir
from qcompiler.plan import Plan


def computed_floats(graph: ir.Graph) -> list[str]:
    """The float32 tensors that nodes of the outermost graph compute, and its inputs."""
    made = [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    return [t.name for t in made if t.name and t.dtype is not None and np.dtype(t.dtype) == np.float32]


def without_range(
    graph: ir.Graph, plan: Plan, names: Sequence[str], statistics: calibrate.Statistics
) -> dict[str, str]:
    """The plan's nodes that read or make one of the named tensors of which no value is known, nor of one that is tied
    to it, with the reason."""
    tensors = ir.all_tensors(graph)
    found: dict[str, str] = {}
    for name in names:
        seen = [statistics.tensors[n] for n in plan.group(name) if n in statistics.tensors]
        if not seen or any(one.finite for one in seen):
            continue
        reason = "all its values are NaN or infinite" if any(one.bad for one in seen) else "no sample reaches it"
        maker = ir.producer(tensors[name])
        while maker is not None and maker.name not in plan.intended:  # a Relu that the maker absorbed
            maker = ir.producer(maker.inputs[0]) if maker.inputs else None
        readers = (site.node for site in plan.sites if site.tensor == name and site.node in plan.intended)
        found.update(dict.fromkeys((*readers, *([maker.name] if maker is not None else ())), reason))
    return found
