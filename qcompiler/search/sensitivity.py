"""How much each quantized part of a model disturbs its outputs, measured without building a model for each.

The float graph holds every quantized tensor twice, plain and rounded, with a switch for each group of them. With one
switch on, the error at the outputs is that group's own; to first order errors of different groups add up in power.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from qcompiler import ir
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.runtime import Feed, run, session, side_by_side
from qcompiler.search.switches import SWITCH, switched

MOST_SEGMENTS = 8
NODES_A_SEGMENT = 12
MOST_KEPT = 96_000_000
"""Bytes of what segments return that are kept, but for the first feed's; further feeds are left out."""


class Switchboard:
    """The float graph with a switch for each of ``trials``, mappings of tensors to representations.

    ``graph`` is the cleaned float graph of ``plan``, whose sites say where a tensor is read in codes. A tensor may
    occur in several trials, represented differently in each; the last one that is on counts. ``points`` are float
    tensors of the outermost graph. Use it in a ``with`` statement.

    The graph is run in at most so many ``segments``. What the plain ones return is kept, so a switch costs the run of
    the segment that it is in and of those that depend on it.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        trials: Sequence[Mapping[str, TensorQuant]],
        points: Sequence[str],
        feeds: Sequence[Feed],
        segments: int = MOST_SEGMENTS,
    ) -> None:
        self.points, self.count = list(points), len(trials)
        self._stack = ExitStack()
        count = max(1, min(segments, len(graph.nodes) // NODES_A_SEGMENT))
        try:
            pieces = ir.segments(graph, count, self.points)
            self._segments = [_Segment(self._stack, piece, plan, trials, self.points) for piece in pieces]
            self._plain: list[Feed] = []
            room = MOST_KEPT
            for values in side_by_side(self._values, feeds):
                self._plain.append(values)
                room -= sum(array.nbytes for array in self._plain[-1].values())
                if room < 0:
                    break
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Switchboard:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _values(self, feed: Feed) -> Feed:
        """The feed with all that the plain segments return."""
        values = dict(feed)
        for segment in self._segments:
            values.update(segment.run(values, ()))
        return values

    def noise(self, switched: Iterable[int], feeds: int | None = None) -> dict[str, float]:
        """The noise-to-signal power ratio at each point with these trials on, over the first ``feeds`` feeds."""
        on = frozenset(switched)
        parts = list(side_by_side(lambda plain: self._powers(plain, on), self._plain[:feeds]))
        signal, noise = (np.sum([part[side] for part in parts], axis=0) for side in (0, 1))
        return {name: n / s if s else 0.0 for name, s, n in zip(self.points, signal.tolist(), noise.tolist())}

    @property
    def feeds(self) -> int:
        """How many of the feeds are kept."""
        return len(self._plain)

    def powers(self, wanted: Sequence[tuple[int, int]]) -> Iterator[tuple[list[float], list[float]]]:
        """For each (trial, place of a feed): the power of each point, and that of its error with this trial on."""
        yield from side_by_side(lambda one: self._powers(self._plain[one[1]], frozenset(one[:1])), wanted)

    def _powers(self, plain: Feed, on: frozenset[int]) -> tuple[list[float], list[float]]:
        """Of one feed, the power of each point, and that of its error with these trials on."""
        changed: Feed = {}
        for segment in self._segments:
            if on & segment.trials or segment.reads & changed.keys():
                changed.update(segment.run({**plain, **changed}, on))
        signal = [_power(plain[name]) for name in self.points]
        errors = [_error(plain[name], changed[name]) if name in changed else 0.0 for name in self.points]
        return signal, errors


class _Segment:
    """A part of the graph with the switches that are in it. With none on it is the plain one, a few percent slower; a
    session of that beside it would hold all weights twice."""

    def __init__(
        self,
        stack: ExitStack,
        graph: ir.Graph,
        plan: Plan,
        trials: Sequence[Mapping[str, TensorQuant]],
        points: Sequence[str],
    ) -> None:
        self.reads = frozenset(tensor.name for tensor in graph.inputs)
        self.outputs = [tensor.name for tensor in graph.outputs]
        sites = _sites_in(graph, plan)
        own = [(index, {n: q for n, q in trial.items() if n in sites}) for index, trial in enumerate(trials)]
        own = [(index, trial) for index, trial in own if trial]
        self.trials = frozenset(index for index, _ in own)
        self._places = {index: place for place, (index, _) in enumerate(own)}
        if own:
            graph = switched(graph, plan, sites, [trial for _, trial in own])
        self._session = stack.enter_context(session(graph))

    def run(self, values: Feed, on: Iterable[int]) -> Feed:
        """What the segment returns, with those of its trials on that are in ``on``."""
        feed = {name: values[name] for name in self.reads}
        if self._places:
            feed[SWITCH] = np.zeros(len(self._places), bool)
            feed[SWITCH][[self._places[index] for index in self.trials.intersection(on)]] = True
        return dict(zip(self.outputs, run(self._session, feed, self.outputs)))


def _sites_in(graph: ir.Graph, plan: Plan) -> dict[str, list[Site]]:
    """The plan's sites that are in this segment, by tensor."""
    nodes = {node.name for _, node in ir.all_nodes(graph)}
    made = {tensor.name for _, node in ir.all_nodes(graph) for tensor in node.outputs}
    found: dict[str, list[Site]] = {}
    for site in plan.sites:
        if site.node in nodes or (not site.node and site.tensor in made):
            found.setdefault(site.tensor, []).append(site)
    return found


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


def _error(plain: np.ndarray, changed: np.ndarray) -> float:
    """The power of the error; all that there was where rounding changed the shape, which may depend on values."""
    same = plain.shape == changed.shape
    return _power(changed.astype(np.float64) - plain) if same else _power(plain)
