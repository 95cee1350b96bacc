"""Each place where a plan rounds: what that does to the outputs when nothing else is rounded, and what it costs.

The switchboard of ``sensitivity`` holds a switch for each tensor. Every switch is measured on some of the samples,
other ones for other tensors, in rounds over all switches, until as much time is spent as some runs of the float model
over all the samples would have taken.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import ir
from qcompiler.errors import ModelError
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.report.record import finite
from qcompiler.runtime import Feed, run, session, side_by_side
from qcompiler.search.points import measuring_points
from qcompiler.search.refine import Refiner
from qcompiler.search.sensitivity import Switchboard, with_outputs

if TYPE_CHECKING:
    from qcompiler.calibrate import Statistics
    from qcompiler.compiler import Compilation

FORMAT = "qcompiler-sensitivity/1"
PASSES = 11.0
"""Runs of the float model over all samples that measuring errors may take, about."""
MOST_SAMPLES = 32


@dataclass(frozen=True)
class Way:
    """A tensor, or a node with its weights, in one precision. ``nanoseconds`` of a run, with the steps into and out of
    codes around the node; None where time was not measured. ``bytes`` of the tensor, or of the node's weights."""

    bytes: int
    nanoseconds: int | None = None


@dataclass(frozen=True)
class TensorRecord:
    """``error``: the noise-to-signal ratio of powers at the outputs when this tensor alone is rounded, on so many
    ``samples``; ``sqnr``: the same in dB, as all that follows."""

    name: str
    weight: bool
    error: float
    sqnr: float
    samples: int
    plain: Way
    coded: Way


@dataclass(frozen=True)
class SiteRecord:
    """A node that works on codes. ``error``: of all that is rounded for it: what it reads, as far as nobody else reads
    it so, its weights, and what it must return in codes; ``share``: of the errors of all nodes."""

    node: str
    op: str
    error: float
    sqnr: float
    share: float
    plain: Way
    coded: Way
    tensors: list[TensorRecord] = field(default_factory=list)


@dataclass
class Sensitivity:
    """``passes``: what it cost, in runs of the float model over the same ``samples``; ``sites``: the worst first."""

    model: str
    target: str
    precision: str
    runtime: str
    samples: int
    passes: float
    seconds: float
    points: list[str]
    sites: list[SiteRecord]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **finite(asdict(self))}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def of_model(job: Compilation, statistics: Statistics | None, samples: int = MOST_SAMPLES) -> Sensitivity:
    """Of every site of the model that the compilation is about to quantize; what the runtime does not fuse is none."""
    job.clean()
    plan, statistics = job.decide(statistics)
    refiner = Refiner(job, PassContext(job.target, plan, statistics, job.observers), replayed=False)
    with job.stages("verify"):
        fused = refiner.fused(refiner.built(plan)).plan
    assert fused is not None
    with job.stages("sensitivity"):
        return sensitivity(job, fused, refiner, samples)


def sensitivity(job: Compilation, plan: Plan, refiner: Refiner, samples: int = MOST_SAMPLES) -> Sensitivity:
    """Of every site of the solved plan, which is one that the runtime fuses in full.

    Raises:
        ModelError: no output is a tensor of floats.
    """
    graph, feeds = job.graph, job.samples.feeds()[:samples]
    points = list(measuring_points(graph))
    if not points:
        raise ModelError("no output is computed in float32", where=job.name, why="errors are told from such ones")
    start = time.perf_counter()
    errors, passes = measured(graph, plan, points, feeds)
    nanoseconds: dict[str, tuple[int, int]] = {}
    if job.options.timing:
        nanoseconds = timed(refiner, plan)
    tensors = ir.all_tensors(graph)
    owned = owners(graph, plan)
    elements = _elements(graph, list(errors), feeds[0])
    nodes = {node.name: node for _, node in ir.all_nodes(graph)}
    records = []
    total = sum(error for error, _ in errors.values()) or 1.0
    for name in sorted(plan.intended):
        own = [
            TensorRecord(
                tensor,
                ir.is_constant(tensors[tensor]),
                errors[tensor][0],
                decibels(errors[tensor][0]),
                errors[tensor][1],
                *_stored(tensors[tensor], plan, elements.get(tensor, 0)),
            )
            for tensor in owned[name]
            if tensor in errors
        ]
        weights = [_stored(tensors[t], plan, 0) for t in owned[name] if ir.is_constant(tensors[t])]
        before, after = nanoseconds.get(name, (None, None))
        error = sum(record.error for record in own)
        records.append(
            SiteRecord(
                name,
                nodes[name].op,
                error,
                decibels(error),
                error / total,
                Way(sum(plain.bytes for plain, _ in weights), before),
                Way(sum(coded.bytes for _, coded in weights), after),
                sorted(own, key=lambda record: -record.error),
            )
        )
    records.sort(key=lambda record: (-record.error, record.node))
    return Sensitivity(
        model=job.name,
        target=job.target.name,
        precision=job.precision,
        runtime=job.runtime,
        samples=len(feeds),
        passes=passes,
        seconds=time.perf_counter() - start,
        points=points,
        sites=records,
    )


def measured(
    graph: ir.Graph, plan: Plan, points: Sequence[str], feeds: Sequence[Feed], passes: float = PASSES
) -> tuple[dict[str, tuple[float, int]], float]:
    """(error, on how many samples) by tensor, the errors at the points added up; and what that took in runs of the
    float model over all feeds."""
    quants = {site.tensor: quant for site, quant in plan.sites.items() if quant.origin != "product"}
    names = list(quants)
    with session(graph) as model:
        run(model, feeds[0])
        start = time.perf_counter()
        for _ in side_by_side(lambda feed: run(model, feed), feeds):
            pass
        once = time.perf_counter() - start
    start = time.perf_counter()
    signal: dict[str, np.ndarray] = {name: np.zeros(len(points)) for name in names}
    noise: dict[str, np.ndarray] = {name: np.zeros(len(points)) for name in names}
    rounds = 0
    with Switchboard(graph, plan, [{name: quants[name]} for name in names], points, feeds) as board:
        while rounds < board.feeds:
            begun = time.perf_counter()
            # Neighbours are measured on samples that lie apart.
            wanted = [(index, (index + rounds * (board.feeds // 2 or 1) + rounds // 2) % board.feeds)
                      for index in range(len(names))]  # fmt: skip
            for (index, _), (power, wrong) in zip(wanted, board.powers(wanted)):
                signal[names[index]] += power
                noise[names[index]] += wrong
            rounds += 1
            now = time.perf_counter()
            if (now - start) + (now - begun) > passes * once:
                break
    spent = (time.perf_counter() - start) / max(once, 1e-9)
    ratios = {
        name: float(np.sum(np.divide(noise[name], signal[name], out=np.zeros(len(points)), where=signal[name] > 0.0)))
        for name in names
    }
    return {name: (ratio, rounds) for name, ratio in ratios.items()}, spent


def owners(graph: ir.Graph, plan: Plan) -> dict[str, list[str]]:
    """The plan's tensors by the node of the plan that each is rounded for: the one that returns it in codes, else the
    first that reads it so."""
    makers = {tensor.name: node.name for _, node in ir.all_nodes(graph) for tensor in node.outputs}
    absorbed = {
        tensor.name: node.inputs[0].name
        for _, node in ir.all_nodes(graph)
        if node.name not in plan.intended and node.op in ("Relu", "Clip")
        for tensor in node.outputs
    }
    found: dict[str, list[str]] = defaultdict(list)
    for tensor, sites in plan.tensors().items():
        source = tensor
        while makers.get(source) not in plan.intended and source in absorbed:
            source = absorbed[source]
        maker = makers.get(source, "")
        readers = [site.node for site in sites if site.node in plan.intended]
        if maker in plan.intended:
            found[maker].append(tensor)
        elif readers:
            found[readers[0]].append(tensor)
    return found


def timed(refiner: Refiner, plan: Plan) -> dict[str, tuple[int, int]]:
    """Nanoseconds of a run that each node of the plan takes in float and in codes, with the steps around it."""
    names = sorted(plan.intended)
    regions = [{name} for name in names]
    plain = refiner.profile(refiner.compilation.graph).by_region(regions)
    coded = refiner.profile(refiner.built(plan).graph).by_region(regions)
    return {
        name: (round(1e9 * plain.get(index, 0.0)), round(1e9 * coded.get(index, 0.0)))
        for index, name in enumerate(names)
    }


def decibels(error: float) -> float:
    return -10.0 * math.log10(error) if error > 0.0 else math.inf


def _stored(tensor: ir.Tensor, plan: Plan, elements: int) -> tuple[Way, Way]:
    """The tensor's bytes in float and in codes, scales and zero points with them."""
    quant = next(quant for site, quant in plan.sites.items() if site.tensor == tensor.name)
    if ir.is_constant(tensor):
        elements = tensor.values.size
    steps = 0 if quant.scale is None else 5 * quant.scale.size
    a_byte = 2 if quant.scheme.dtype in ("int4", "uint4") else 1
    return Way(4 * elements), Way(math.ceil(elements / a_byte) + steps)


def _elements(graph: ir.Graph, names: Sequence[str], feed: Feed) -> dict[str, int]:
    """How many elements tensors of the outermost graph have for this feed."""
    outer = {tensor.name for node in graph.nodes for tensor in node.outputs}
    wanted = [name for name in names if name in outer]
    with session(with_outputs(graph, wanted)) as model:
        found = {name: int(array.size) for name, array in zip(wanted, run(model, feed, wanted))} if wanted else {}
    return {**found, **{name: int(array.size) for name, array in feed.items()}}
