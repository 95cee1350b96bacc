"""Runs a model over samples and counts what its tensors hold, in memory that the number of samples does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import numpy as np

from qcompiler import ir, native, runtime
from qcompiler.calibrate.instrument import Place, fetch_probe, instrument, observe_probe
from qcompiler.calibrate.keys import add_keys, feed_key, model_key
from qcompiler.calibrate.statistics import Statistics, TensorStatistics
from qcompiler.errors import DataError, DependencyError, ModelError

Feed = dict[str, np.ndarray]

FETCHED_AT_ONCE = 16
"""Tensors that one run returns where the native library is missing. Each run computes the whole model."""


class Collector:
    """Observes tensors of one model feed by feed; use it in a ``with`` statement.

    ``observe(feed)`` runs the model once, ``statistics()`` says at any time what was seen so far. Tensors are
    float32, float16, or float64 and bfloat16 seen as float32; they may be inside the bodies of If, Loop and Scan.
    ``threads``: for ONNX Runtime, all processors when None.

    Raises:
        StatisticsError: a tensor is not in the model or cannot be observed.
    """

    def __init__(self, graph: ir.Graph, tensors: Sequence[str], *, threads: int | None = None) -> None:
        self.tensors = tuple(dict.fromkeys(tensors))
        self.model_key = model_key(graph)
        self.samples = 0
        self.data_key = "0" * 64
        self._open = ExitStack()
        self._counter: _Counter
        threads = threads or runtime.processors()
        try:
            if not self.tensors:
                self._counter = _Counter()
            elif native.available():
                self._counter = _InsideCounter(self._open, graph, self.tensors, threads)
            else:
                self._counter = _OutsideCounter(self._open, graph, self.tensors, threads)
        except BaseException:
            self._open.close()
            raise

    def observe(self, feed: Feed, sample: int | None = None) -> None:
        """Runs the model on one feed, the sample of this number; by default they are numbered as they come.

        Raises DataError naming the sample when the model fails on it; nothing of it is counted then.
        """
        sample = self.samples if sample is None else sample
        try:
            self._counter.add(feed, sample)
        except ModelError as error:
            fix = error.fix or "repair it or leave it out"
            raise DataError(f"sample {sample} fails", why=error.why or error.what, fix=fix) from error
        self.data_key = add_keys(self.data_key, feed_key(feed))
        self.samples += 1

    def statistics(self) -> Statistics:
        """What all tensors held so far."""
        return Statistics(
            {name: self._counter.read(index) for index, name in enumerate(self.tensors)},
            self.model_key,
            self.samples,
            self.data_key,
        )

    def forget(self) -> None:
        """Starts anew, as if nothing had been seen."""
        self._counter.forget()
        self.samples, self.data_key = 0, "0" * 64

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def collect(
    graph: ir.Graph,
    tensors: Sequence[str],
    samples: Iterable[Feed],
    *,
    threads: int | None = None,
    on_sample: Callable[[int, int | None], None] | None = None,
) -> Statistics:
    """Statistics of the named tensors over all samples, which are run through once.

    ``on_sample(done, total)`` is called after each one; ``total`` is None while unknown.

    Raises:
        DataError: a sample does not fit, or the model fails on it; it is named.
        StatisticsError: a tensor is not in the model or cannot be observed.
    """
    with Collector(graph, tensors, threads=threads) as collector:
        for feed in samples:
            collector.observe(feed)
            if on_sample is not None:
                on_sample(collector.samples, _count(samples))
        if collector.samples == 0:
            raise DataError("there are no samples to calibrate on", fix="give at least one")
        return collector.statistics()


class _Counter:
    """Where the counting happens; this one counts nothing, as nothing is to be observed."""

    def add(self, feed: Feed, sample: int) -> None:
        """Runs the model on one feed. When that raises, nothing of it counts."""

    def forget(self) -> None:
        """Starts anew."""

    def read(self, index: int) -> TensorStatistics:
        """What the tensor of this index held so far."""
        raise IndexError(index)


class _InsideCounter(_Counter):
    """Observe nodes count inside ONNX Runtime: no activation is kept or returned."""

    def __init__(self, stack: ExitStack, graph: ir.Graph, tensors: Sequence[str], threads: int) -> None:
        self.table = stack.enter_context(native.ObservationTable(len(tensors)))
        instrumented = instrument(graph, tensors, observe_probe(self.table.id))
        self.session = stack.enter_context(runtime.session(instrumented.graph, threads=threads, prompt=True))
        self.earlier: list[TensorStatistics] | None = None

    def add(self, feed: Feed, sample: int) -> None:
        self.table.begin(sample)
        try:
            runtime.run(self.session, feed)
        except ModelError:
            self._take_back(feed, sample)
            raise

    def _take_back(self, feed: Feed, sample: int) -> None:
        """Nodes before the one that failed have counted already. Failing once more, alone, shows what they counted."""
        together: list[TensorStatistics] = []
        before: list[tuple[float, float, int]] = []
        for slot in range(self.table.slots):
            seen = self.table.read(slot)
            together.append(_statistics(seen))
            before.append((seen.smallest_before, seen.largest_before, seen.first_bad_before))
        self._empty(sample)
        try:
            runtime.run(self.session, feed)
        except ModelError:
            failed = [_statistics(self.table.read(slot)) for slot in range(self.table.slots)]
        else:
            raise DataError(f"sample {sample} fails at one time and not at another", fix="make the model deterministic")
        self._empty(sample)
        good = [
            replace(_without(one, part), smallest=low, largest=high, first_bad_sample=None if bad < 0 else bad)
            for one, part, (low, high, bad) in zip(together, failed, before)
        ]
        self.earlier = good if self.earlier is None else [a.merge(b) for a, b in zip(self.earlier, good)]

    def _empty(self, sample: int) -> None:
        self.table.reset()
        self.table.begin(sample)

    def forget(self) -> None:
        self.table.reset()
        self.earlier = None

    def read(self, index: int) -> TensorStatistics:
        now = _statistics(self.table.read(index))
        return now if self.earlier is None else self.earlier[index].merge(now)


def _statistics(seen: native.Observed) -> TensorStatistics:
    bins = np.flatnonzero(seen.counts)
    return TensorStatistics(
        bins.astype(np.uint16),
        seen.counts[bins],
        seen.smallest,
        seen.largest,
        seen.nan,
        seen.positive_infinity,
        seen.negative_infinity,
        None if seen.first_bad < 0 else seen.first_bad,
    )


def _without(all_of_it: TensorStatistics, part: TensorStatistics) -> TensorStatistics:
    """Counts without those of a part of them; extremes and the first bad sample are not known from that."""
    counts = all_of_it.counts.copy()
    counts[np.searchsorted(all_of_it.bins, part.bins)] -= part.counts
    kept = counts > 0
    return replace(
        all_of_it,
        bins=all_of_it.bins[kept],
        counts=counts[kept],
        nan=all_of_it.nan - part.nan,
        positive_infinity=all_of_it.positive_infinity - part.positive_infinity,
        negative_infinity=all_of_it.negative_infinity - part.negative_infinity,
    )


class _OutsideCounter(_Counter):
    """The same counts without the native library: the model runs once for every few tensors, which are returned."""

    def __init__(self, stack: ExitStack, graph: ir.Graph, tensors: Sequence[str], threads: int) -> None:
        instrumented = instrument(graph, tensors, fetch_probe)
        self.places: tuple[Place, ...] = instrumented.places
        self.outputs = instrumented.outputs
        self.session = stack.enter_context(runtime.session(instrumented.graph, threads=threads, prompt=True))
        self.seen = [TensorStatistics.empty() for _ in tensors]

    def add(self, feed: Feed, sample: int) -> None:
        new: list[TensorStatistics] = []
        for start in range(0, len(self.outputs), FETCHED_AT_ONCE):
            arrays = self._fetched(feed, self.outputs[start : start + FETCHED_AT_ONCE])
            new += [TensorStatistics.of(array, sample=sample) for array in arrays]
        self.seen = [old.merge(more) for old, more in zip(self.seen, new)]

    def _fetched(self, feed: Feed, outputs: Sequence[str]) -> list[np.ndarray]:
        try:
            return runtime.run(self.session, feed, outputs)
        except ModelError as error:
            looped = [place.tensor.name for place in self.places if place.in_loop]
            if not looped:
                raise
            raise DependencyError(
                "tensors in loops that change their size can be observed only by the native library",
                where=f"tensor '{looped[0]}'" + (f" and {len(looped) - 1} more" if looped[1:] else ""),
                why=error.why,
                fix="install g++ or clang++ and then qcompiler again",
            ) from error

    def forget(self) -> None:
        self.seen = [TensorStatistics.empty() for _ in self.seen]

    def read(self, index: int) -> TensorStatistics:
        return self.seen[index]


def _count(samples: object) -> int | None:
    count = getattr(samples, "count", None)
    if isinstance(count, int):
        return count
    return len(samples) if hasattr(samples, "__len__") else None
