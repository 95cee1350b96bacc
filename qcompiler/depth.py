"""How the error grows through a compiled model: its inner tensors beside the float model's, from first to last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler import ir, numerics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.report import DepthRecord
from qcompiler.runtime import Feed, run, session
from qcompiler.search.sensitivity import with_outputs
from qcompiler.verify import numbers

MOST_TENSORS = 40
MOST_FEEDS = 4
CODES = ("int8", "uint8", "int16", "uint16")
"""Types of codes that the runtime hands out."""


@dataclass(frozen=True)
class _Place:
    """A tensor of the float graph, made by its node ``index``, and the tensor of the compiled one that tells its value:
    in codes of ``quant``, or as it is."""

    tensor: str
    node: ir.Node
    index: int
    found: str
    quant: TensorQuant | None

    def value(self, array: np.ndarray) -> np.ndarray:
        if self.quant is None:
            return array
        assert self.quant.scale is not None and self.quant.zero_point is not None
        return numerics.dequantize(array, self.quant.scale, self.quant.zero_point, self.quant.scheme)


def by_depth(
    graph: ir.Graph, compiled: ir.Graph, plan: Plan, feeds: Sequence[Feed], seconds: float, optimize: str = "all"
) -> list[DepthRecord]:
    """The agreement of up to ``MOST_TENSORS`` tensors, evenly chosen, over a few feeds: as many as take about
    ``seconds``, one at least.

    ``graph`` is the cleaned float graph of the plan that ``compiled`` was written from; ``optimize``: which of the
    runtime's rewrites are for ``compiled``, see ``runtime.session``.

    Raises:
        VerificationError, ModelError: the runtime does not load or run one of them.
    """
    graph = ir.clone(graph)
    ir.sort(graph)
    places = _evenly(_places(graph, compiled, plan))
    names, fetched = [place.tensor for place in places], [place.found for place in places]
    if not places or not feeds:
        return []
    comparison = numbers.Comparison(names)
    start = time.perf_counter()
    with session(with_outputs(graph, names)) as plain:
        with session(with_outputs(compiled, fetched), optimize=optimize) as own:
            for feed in feeds[:MOST_FEEDS]:
                wanted, found = run(plain, feed, names), run(own, feed, fetched)
                comparison.add(wanted, [place.value(array) for place, array in zip(places, found)])
                if time.perf_counter() - start > seconds:
                    break
    sqnr = {error.name: error.sqnr for error in comparison.errors()}
    last = max(1, len(graph.nodes) - 1)
    return [
        DepthRecord(place.tensor, place.node.name, place.node.op, place.index / last, sqnr[place.tensor])
        for place in places
    ]


def _evenly(places: Sequence[_Place]) -> list[_Place]:
    """At most ``MOST_TENSORS`` of them, with the first and the last."""
    count = min(len(places), MOST_TENSORS)
    return [places[round(index * (len(places) - 1) / max(1, count - 1))] for index in range(count)]


def _places(graph: ir.Graph, compiled: ir.Graph, plan: Plan) -> list[_Place]:
    """Where the two can be compared without keeping the runtime from fusing what it fuses in the compiled model: at
    tensors that it writes as codes, at those where codes end, and at the outputs."""
    codes = _codes(compiled, plan)
    made = {tensor.name for node in compiled.nodes for tensor in node.outputs}
    returned = {tensor.name for tensor in graph.outputs}
    found: list[_Place] = []
    for index, node in enumerate(graph.nodes):
        for tensor in node.outputs:
            if tensor.dtype is None or np.dtype(tensor.dtype) != np.float32:
                continue
            ends = node.name in plan.intended and all(reader.name not in plan.intended for reader in tensor.outputs)
            if tensor.name in codes and tensor.name not in returned:
                found.append(_Place(tensor.name, node, index, *codes[tensor.name]))
            elif tensor.name in made and (ends or tensor.name in returned):
                found.append(_Place(tensor.name, node, index, tensor.name, None))
    return found


def _codes(compiled: ir.Graph, plan: Plan) -> dict[str, tuple[str, TensorQuant]]:
    """For each tensor of the plan that is written as evenly spaced codes of one scale, the tensor of its codes."""
    quants = {site.tensor: quant for site, quant in plan.sites.items()}
    found: dict[str, tuple[str, TensorQuant]] = {}
    for node in compiled.nodes:
        if node.op != "QuantizeLinear":
            continue
        quant, scale = quants.get(node.inputs[0].name), node.inputs[1]
        if quant is None or quant.scale is None or quant.scale.ndim or quant.scheme.dtype not in CODES:
            continue
        if ir.is_constant(scale) and scale.values == quant.scale:
            found.setdefault(node.inputs[0].name, (node.outputs[0].name, quant))
    return found
