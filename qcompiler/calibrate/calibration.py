"""A whole calibration: samples or a shard of them, counted somewhere, with a checkpoint to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qcompiler import ir
from qcompiler.calibrate.checkpoint import Checkpoint
from qcompiler.calibrate.collect import Feed
from qcompiler.calibrate.functions import completed, split
from qcompiler.calibrate.keys import add_keys, feed_key, model_key
from qcompiler.calibrate.schedulers import HERE, Counter, Scheduler
from qcompiler.calibrate.shards import WHOLE, Shard
from qcompiler.calibrate.statistics import Function, Statistics, TensorStatistics
from qcompiler.data import Samples
from qcompiler.errors import DataError, QCompilerError, StatisticsError

CHECKPOINT_SECONDS = 3.0


@dataclass(frozen=True)
class Calibration:
    """What to observe and how.

    ``tensors`` of ``graph`` are observed over the samples of ``shard``. ``smoothing``, ``rounding`` and ``observer``
    are noted in the statistics. ``skip_bad``: leave out samples that cannot be read, do not fit or make the model fail,
    and list them; else the first of them ends the run. ``checkpoint``: a file to write the progress to every few
    seconds; with ``resume`` the run goes on from it where it exists. It is for the caller to remove once the result is
    safe.
    ``on_sample(done, total)`` is called after each sample; ``total`` is None while unknown.
    """

    graph: ir.Graph
    tensors: Sequence[str]
    smoothing: Mapping[str, np.ndarray] = field(default_factory=dict)
    rounding: Mapping[str, np.ndarray] = field(default_factory=dict)
    observer: str = ""
    shard: Shard = WHOLE
    skip_bad: bool = False
    scheduler: Scheduler = HERE
    checkpoint: Path | None = None
    resume: bool = False
    on_sample: Callable[[int, int | None], None] | None = None

    def run(self, samples: Samples) -> Statistics:
        """The statistics over the samples, the same wherever they were counted and however often the run was resumed.

        Raises:
            DataError: a sample is bad and ``skip_bad`` is off, or all are.
            StatisticsError: a tensor cannot be observed, or the checkpoint is damaged or of another run.
            WorkerError: what counts was lost, or cannot be reached.
        """
        tensors, functions = split(self.graph, self.tensors)
        start = self._start(tensors, functions)
        shard, key = self.shard, start.statistics.model_key
        unread: dict[int, str] = {}
        before = start.statistics

        def reached(counter: Counter) -> Checkpoint:
            counted, next_sample = counter.so_far()
            skipped = {index: why for index, why in unread.items() if index < next_sample}
            if counted.tensors.keys() != before.tensors.keys():  # nothing has come back yet
                return start
            counted = replace(
                counted, model_key=key, smoothing=before.smoothing, rounding=before.rounding,
                observer=before.observer, shard=before.shard, skipped={**counted.skipped, **skipped},
                functions=functions,
            )  # fmt: skip
            return Checkpoint(before.merge(counted), max(next_sample, start.next_sample))

        saved = time.monotonic()
        with self.scheduler.open(self.graph, tensors) as counter:
            try:
                for done, (sample, feed) in enumerate(self._beyond(samples, start), before.samples + 1):
                    if isinstance(feed, DataError):
                        if not self.skip_bad:
                            raise feed
                        unread[sample] = f"{feed.what} ({feed.why})" if feed.why else feed.what
                    else:
                        counter.add(sample, feed)
                        self._refuse(counter)
                    if self.on_sample is not None:
                        self.on_sample(done, None if samples.count is None else shard.size(samples.count))
                    if self.checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                        reached(counter).save(self.checkpoint)
                        saved = time.monotonic()
                counter.finish()
                self._refuse(counter)
            except QCompilerError:
                if self.checkpoint is not None:
                    reached(counter).save(self.checkpoint)
                raise
            statistics = replace(reached(counter).statistics, total=samples.count or 0)
        skipped = dict(sorted({**statistics.skipped, **unread}.items()))
        if statistics.samples == 0 and shard.count == 1:
            why = next(iter(skipped.values()), "")
            raise DataError("there are no samples that can be used", where=samples.where, why=why)
        statistics = replace(statistics, skipped=skipped)
        return completed(statistics) if shard.count == 1 else statistics

    def _start(self, counted: Sequence[str], functions: dict[str, Function]) -> Checkpoint:
        nothing = Statistics(
            {name: TensorStatistics.empty() for name in counted},
            model_key(self.graph),
            0,
            smoothing=dict(self.smoothing),
            rounding=dict(self.rounding),
            observer=self.observer,
            shard=(self.shard.number, self.shard.count),
            functions=functions,
        )
        if not self.resume or self.checkpoint is None or not self.checkpoint.exists():
            return Checkpoint(nothing, 0)
        found = Checkpoint.load(self.checkpoint)
        found.check(nothing, str(self.checkpoint))
        return found

    def _beyond(self, samples: Samples, start: Checkpoint) -> Iterator[tuple[int, Feed | DataError]]:
        """The samples that the checkpoint does not cover, once those it covers are seen to be the ones counted."""
        key = "0" * 64
        checked = start.next_sample == 0
        for sample, feed in samples.numbered(self.shard.has):
            if sample >= start.next_sample:
                if not checked:
                    self._compare(key, start)
                    checked = True
                yield sample, feed
            elif not isinstance(feed, DataError) and sample not in start.statistics.skipped:
                key = add_keys(key, feed_key(feed))
        if not checked:
            self._compare(key, start)

    def _compare(self, key: str, start: Checkpoint) -> None:
        if key != start.statistics.data_key:
            raise StatisticsError(
                "is of other samples", where=str(self.checkpoint),
                why=f"what the data holds before sample {start.next_sample} is not what was counted",
                fix="give the same data and options, or calibrate without --resume",
            )  # fmt: skip

    def _refuse(self, counter: Counter) -> None:
        if counter.skipped and not self.skip_bad:
            sample, why = min(dict(counter.skipped).items())  # threads may still add to it
            raise DataError(f"sample {sample} fails", why=why, fix="repair it or leave it out with --skip-bad")
