"""How much each quantized part of a model disturbs its outputs, measured without building a model for each.

One float graph holds every quantized tensor twice, plain and rounded, and a switch for each group of them. With one
switch on, the error at the outputs is that group's own; to first order errors of different groups add up in power.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from qcompiler import ir, numerics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed, processors, run, session

SWITCH = "qcompiler_switch"


class Switchboard:
    """One session of the float graph with a switch for each of ``trials``, mappings of tensors to representations.

    ``graph`` is the cleaned float graph of ``plan``, whose sites say where a tensor is read in codes. A tensor may
    occur in several trials, represented differently in each; the last one that is on counts. ``points`` are float
    tensors of the outermost graph. Use it in a ``with`` statement.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        trials: Sequence[Mapping[str, TensorQuant]],
        points: Sequence[str],
        feeds: Sequence[Feed],
    ) -> None:
        self.count, self.points, self.feeds = len(trials), list(points), list(feeds)
        self._stack = ExitStack()
        switchable = _switched(with_outputs(graph, self.points), plan, trials)
        self._model = self._stack.enter_context(session(switchable, threads=processors()))
        off = np.zeros(self.count, bool)
        self._plain = [run(self._model, {**feed, SWITCH: off}, self.points) for feed in self.feeds]

    def __enter__(self) -> Switchboard:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def noise(self, switched: Iterable[int], feeds: int | None = None) -> dict[str, float]:
        """The noise-to-signal power ratio at each point with these trials on, over the first ``feeds`` feeds."""
        on = np.zeros(self.count, bool)
        on[list(switched)] = True
        signal, noise = dict.fromkeys(self.points, 0.0), dict.fromkeys(self.points, 0.0)
        for feed, plain in list(zip(self.feeds, self._plain))[:feeds]:
            for name, value, reference in zip(self.points, run(self._model, {**feed, SWITCH: on}, self.points), plain):
                signal[name] += _power(reference)
                noise[name] += _power(value.astype(np.float64) - reference)
        return {name: noise[name] / signal[name] if signal[name] else 0.0 for name in self.points}


def contributions(
    graph: ir.Graph,
    plan: Plan,
    trials: Sequence[Mapping[str, TensorQuant]],
    points: Sequence[str],
    feeds: Sequence[Feed],
    runs: int | None = None,
) -> list[dict[str, float]]:
    """For each trial, the noise-to-signal power ratio that rounding its tensors alone causes at each point.

    See ``Switchboard`` for the arguments. ``runs``: how often the model may run, about. Where that is too few, fewer
    feeds are taken; where it is too few even for one run a trial, no tensor may occur twice, and neighbouring trials
    are measured together: see ``_halved``.
    """
    if runs is not None:
        feeds = feeds[: max(1, runs // max(1, len(trials)))]
    with Switchboard(graph, plan, trials, points, feeds) as board:
        if runs is not None and runs < len(trials):
            return _halved(lambda first, last: board.noise(range(first, last)), len(trials), runs)
        return [board.noise([index]) for index in range(len(trials))]


def _halved(measure: Callable[[int, int], dict[str, float]], count: int, runs: int) -> list[dict[str, float]]:
    """``measure(i, i + 1)`` for each i below ``count``, as well as can be told from about ``runs`` measurements.

    Starting with all at once, the range that makes the most noise is halved and both halves are measured, until the
    runs are spent: what is loud is found exactly, what is quiet is told as its range's average.
    """
    if count == 0:
        return []
    found: list[dict[str, float]] = [{} for _ in range(count)]

    def note(first: int, last: int) -> tuple[float, int, int]:
        noise = measure(first, last)
        found[first:last] = [{name: value / (last - first) for name, value in noise.items()}] * (last - first)
        return (-sum(noise.values()) if last - first > 1 else 0.0, first, last)

    ranges = [note(0, count)]
    for _ in range(runs // 2):
        most, first, last = heapq.heappop(ranges)
        if most == 0.0:
            break
        middle = (first + last) // 2
        heapq.heappush(ranges, note(first, middle))
        heapq.heappush(ranges, note(middle, last))
    return found


def with_outputs(graph: ir.Graph, names: Sequence[str]) -> ir.Graph:
    """A copy that returns the named tensors as well."""
    graph = ir.clone(graph)
    tensors = ir.all_tensors(graph)
    returned = {tensor.name for tensor in graph.outputs}
    graph.outputs += [tensors[name] for name in names if name not in returned]
    return graph


def _power(values: np.ndarray) -> float:
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    return float(np.sum(finite * finite))


def _switched(graph: ir.Graph, plan: Plan, trials: Sequence[Mapping[str, TensorQuant]]) -> ir.Graph:
    namer = ir.Namer(graph)
    nodes = {node.name: node for _, node in ir.all_nodes(graph)}
    tensors = ir.all_tensors(graph)
    sites = plan.tensors()
    switches = ir.Variable(SWITCH, np.dtype(bool), [len(trials)])
    graph.inputs.append(switches)
    chosen: dict[str, ir.Tensor] = {}
    for index, trial in enumerate(trials):
        flag = ir.Variable(namer(f"{SWITCH}_{index}"), np.dtype(bool), [])
        position = ir.Constant(namer(f"{SWITCH}_{index}_position"), np.array(index, np.int64))
        graph.nodes.append(ir.Node("Gather", namer("switch"), {"axis": 0}, inputs=[switches, position], outputs=[flag]))
        for name, quant in trial.items():
            tensor = tensors[name]
            where = graph if ir.is_constant(tensor) else ir.home_of(tensor, graph)
            result = ir.Variable(namer(f"{name}_switched"), np.dtype(np.float32), tensor.shape)
            inputs = [flag, _rounded(tensor, quant, where, namer), chosen.get(name, tensor)]
            where.nodes.append(ir.Node("Where", namer("choose"), inputs=inputs, outputs=[result]))
            chosen[name] = result
    for name, result in chosen.items():
        tensor = tensors[name]
        for site in sites[name]:
            if site.node:
                nodes[site.node].inputs[site.index] = result
                continue
            for inner in ir.all_graphs(graph):
                for index, output in enumerate(inner.outputs):
                    if output is tensor:
                        tensor.name, result.name = namer(f"{name}_plain"), name
                        inner.outputs[index] = result
    ir.sort(graph)
    return graph


def _rounded(tensor: ir.Tensor, quant: TensorQuant, where: ir.Graph, namer: ir.Namer) -> ir.Tensor:
    assert quant.scale is not None and quant.zero_point is not None
    if ir.is_constant(tensor):
        codes = numerics.quantize(tensor.values, quant.scale, quant.zero_point, quant.scheme)
        return ir.Constant(
            namer(f"{tensor.name}_rounded"), numerics.dequantize(codes, quant.scale, quant.zero_point, quant.scheme)
        )
    scale = ir.Constant(namer(f"{tensor.name}_scale"), quant.scale)
    zero_point = ir.Constant(namer(f"{tensor.name}_zero_point"), quant.zero_point.astype(quant.scheme.dtype))
    codes = ir.Variable(namer(f"{tensor.name}_codes"), np.dtype(quant.scheme.dtype), tensor.shape)
    value = ir.Variable(namer(f"{tensor.name}_rounded"), np.dtype(np.float32), tensor.shape)
    where.nodes.append(
        ir.Node("QuantizeLinear", namer("round"), inputs=[tensor, scale, zero_point], outputs=[codes])
    )
    where.nodes.append(
        ir.Node("DequantizeLinear", namer("unround"), inputs=[codes, scale, zero_point], outputs=[value])
    )
    return value
