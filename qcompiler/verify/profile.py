"""Where the time of a run goes, by ONNX Runtime's own profiler, told by node and by region."""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcompiler import ir
from qcompiler.runtime import Feed, run, session
from qcompiler.verify import fused

RUNS = 12
_HELPERS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Pad", "SpaceToDepth"))
"""Operators that are put before others for their sake, the last two by ``align-channels``."""


@dataclass(frozen=True)
class Profile:
    """Seconds a run of each node of the runtime's optimized graph of ``graph``: medians over runs.

    ``seconds``: by the optimized node's name; ``total``: of a whole run; ``optimized``: the graph these names are of.
    """

    graph: ir.Graph
    optimized: fused.Optimized
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @functools.cached_property
    def names(self) -> set[str]:
        """The nodes of the graph that was handed in."""
        return {node.name for _, node in ir.all_nodes(self.graph)}

    def by_node(self) -> dict[str, float]:
        """Seconds of each node of the graph that was handed in, as far as the runtime's nodes can be traced to one.

        The runtime's blocked convolutions are called after the tensor that they end with, which a Relu, Clip or Add
        behind the convolution computes where it was absorbed. Other operators that it makes out of several compute what
        the last of those computed.
        """
        makers = {t.name: node for _, node in ir.all_nodes(self.graph) for t in node.outputs}
        results = {node.name: node.output for node in self.optimized.nodes}
        seconds: dict[str, float] = defaultdict(float)
        for name, value in self.seconds.items():
            base = fused.original_name(name)
            if base.endswith("_nchwc"):
                node = _convolution(makers.get(base.removesuffix("_nchwc")))
                base = node.name if node is not None else base
            elif base not in self.names:
                base = next((makers[t].name for t in results.get(name, ()) if t in makers), base)
            seconds[base] += value
        return dict(seconds)

    def by_region(self, regions: Sequence[set[str]]) -> dict[int, float]:
        """Seconds of each region: its own nodes, and what the runtime put between nodes (Q, DQ, layout changes), which
        counts for the region it serves."""
        region_of = {name: index for index, names in enumerate(regions) for name in names}
        originals = {t.name: node for _, node in ir.all_nodes(self.graph) for t in node.outputs}
        labels: dict[str, int] = {}
        for node in self.optimized.nodes:
            base = fused.original_name(node.name)
            if base.endswith("_nchwc"):
                convolution = _convolution(originals.get(base.removesuffix("_nchwc")))
                base = convolution.name if convolution is not None else base
            if base in region_of:
                labels[node.name] = region_of[base]
            elif base in self.names and node.op_type not in _HELPERS:
                labels[node.name] = -1
        makers = {output: node for node in self.optimized.nodes for output in node.output if output}
        readers: dict[str, list[str]] = defaultdict(list)
        for node in self.optimized.nodes:
            for tensor in node.input:
                readers[tensor].append(node.name)
        for _ in range(3):  # at most a few helpers stand in a row
            for node in self.optimized.nodes:
                if node.name in labels:
                    continue
                near = [labels.get(name, -1) for tensor in node.output for name in readers[tensor]]
                near += [labels.get(makers[tensor].name, -1) for tensor in node.input if tensor in makers]
                inside = [label for label in near if label >= 0]
                if inside:
                    labels[node.name] = inside[0]
        seconds: dict[int, float] = defaultdict(float)
        for name, value in self.seconds.items():
            seconds[labels.get(name, -1)] += value
        return dict(seconds)


def measure(graph: ir.Graph, feeds: Sequence[Feed], runs: int = RUNS) -> Profile:
    """Runs the graph over the feeds with the profiler on."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        optimized, prefix = Path(folder) / "optimized.onnx", Path(folder) / "profile"
        with session(graph, optimized_path=optimized, profile_prefix=prefix) as model:
            for index in range(runs + 1):
                run(model, feeds[index % len(feeds)])
            taken = _read(Path(model.end_profiling()))
        # A node inside a loop runs several times a run.
        seconds = {
            name: statistics.median(values) * max(1, round(len(values) / (runs + 1))) for name, values in taken.items()
        }
        return Profile(graph, fused.read(optimized), seconds)


def _read(path: Path) -> dict[str, list[float]]:
    """Seconds of each time that each node ran. The profiler writes an event a line, gigabytes of them for a loop."""
    taken: dict[str, list[float]] = defaultdict(list)
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if "_kernel_time" not in line:
                continue
            event = json.loads(line.rstrip().rstrip(","))
            name, suffix, _ = event["name"].rpartition("_kernel_time")
            # What holds a body takes the time that the nodes in there take once more.
            if suffix and event["args"].get("op_name") not in ("If", "Loop", "Scan"):
                taken[name].append(event["dur"] * 1e-6)
    return taken


def _convolution(node: ir.Node | None) -> ir.Node | None:
    """The node itself or the convolution that it was absorbed into."""
    for _ in range(4):
        if node is None or node.op not in ("Relu", "Clip", "Add", "Sigmoid", "HardSigmoid", "LeakyRelu", "Tanh"):
            break
        sources = [source for tensor in node.inputs if (source := ir.producer(tensor)) is not None]
        node = next((source for source in sources if source.op == "Conv"), sources[0] if sources else None)
    return node


def losses(regions: Sequence[set[str]], plain: Profile, coded: Profile) -> dict[int, float]:
    """Seconds a run that each region takes longer in 8 bits than in float; negative where it is faster."""
    before, after = plain.by_region(regions), coded.by_region(regions)
    return {index: after.get(index, 0.0) - before.get(index, 0.0) for index in range(len(regions))}
