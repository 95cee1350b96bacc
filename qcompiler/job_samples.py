"""The samples of one compilation: all of them, and the few that stand for all."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from qcompiler import ir
from qcompiler.data import Samples, random_samples, spread
from qcompiler.errors import DataError, ModelError
from qcompiler.runtime import Feed, run, session
from qcompiler.search.improve import EFFORTS

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

MOST_MADE_UP = 16


class JobSamples:
    """What of a compilation's data is looked at. ``unmeasured``: why nothing could be made up where none was given."""

    def __init__(self, job: Compilation) -> None:
        self.job = job
        self.unmeasured = ""
        self._feeds: list[Feed] | None = None
        self.means: WeakKeyDictionary[ir.Graph, dict[str, list[np.ndarray]]] = WeakKeyDictionary()
        """What ``calibrate.mean_shifts`` told of a graph in float, on the typical ones."""

    def all(self) -> Samples:
        """All that the user gave. Raises DataError where that is nothing."""
        job = self.job
        if job.data is None:
            what = f"{job.precision} needs samples to take ranges from"
            raise DataError(what, where=job.source.name, fix=f"give data (--data){job.target.without_samples}")
        return job.data

    def typical(self, *, skip_bad: bool = False, count: int = 0) -> list[Feed]:
        """A few samples that stand for all: so many, or as many as weights are rounded for."""
        count = count or EFFORTS[self.job.options.improve].rounding_samples
        if not skip_bad:
            return spread(self.all(), count)
        found: list[Feed] = []
        with session(self.job.graph) as model:
            for feed in self.all().good():
                with suppress(ModelError):
                    run(model, feed)
                    found.append(feed)
                if len(found) == count:
                    break
        return found

    def feeds(self) -> list[Feed]:
        """The samples that speed and agreement are measured on; made up where the user gave none, and none at all
        where what can be made up is nothing that the source takes."""
        if self.job.large:
            return []
        if self._feeds is None:
            data = self.job.data
            self._feeds = self._made_up() if data is None else spread(data, self.job.options.samples)
        return self._feeds

    def _made_up(self) -> list[Feed]:
        feeds: list[Feed] = []
        with session(self.job.source, threads=self.job.options.threads) as source:
            try:
                for feed in random_samples(self.job.source.inputs, min(self.job.options.samples, MOST_MADE_UP)):
                    run(source, feed)
                    feeds.append(feed)
            except (DataError, ModelError) as error:
                self.unmeasured = str(error)
        return feeds


__all__ = ["JobSamples"]
