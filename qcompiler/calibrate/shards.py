"""A data set cut into shards for several machines, and their statistics put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcompiler.calibrate.functions import completed
from qcompiler.calibrate.statistics import Statistics
from qcompiler.errors import StatisticsError


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``: of the samples of the whole data set, every ``count``-th, so that shards are alike
    where neighbouring samples are and need not know how many samples there are."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"there is no shard {self.number} of {self.count}")

    def has(self, sample: int) -> bool:
        """Whether the sample at this place, from 0, belongs to the shard."""
        return sample % self.count == self.number - 1

    def size(self, samples: int) -> int:
        """How many of so many samples belong to the shard."""
        return len(range(self.number - 1, samples, self.count))


WHOLE = Shard()


def merge_shards(named: Sequence[tuple[str, Statistics]]) -> Statistics:
    """The statistics of one run over all samples, bit for bit, out of those of its shards, in any order.

    ``named``: each with a name for errors, its file's say.

    Raises:
        StatisticsError: a shard is missing or there twice, or they are not of one model, data set and choice of
            options; the reason names it.
    """
    if not named:
        raise StatisticsError("there is nothing to merge", fix="name the shards' files")
    by_number: dict[int, tuple[str, Statistics]] = {}
    first_name, first = named[0]
    for name, shard in named:
        number, count = shard.shard
        if count == 1:
            raise StatisticsError("is no shard", where=name, why="it is of the whole data set", fix="leave it out")
        if count != first.shard[1]:
            why = f"{first_name} is one of {first.shard[1]}"
            raise StatisticsError(f"is one of {count} shards", where=name, why=why, fix="merge shards of one run")
        if number in by_number:
            why = f"{by_number[number][0]} is that too"
            raise StatisticsError(f"is shard {number} of {count}", where=name, why=why, fix="give each shard once")
        by_number[number] = (name, shard)
    count = first.shard[1]
    if missing := [str(number) for number in range(1, count + 1) if number not in by_number]:
        what = f"shard {missing[0]} is" if len(missing) == 1 else f"shards {', '.join(missing)} are"
        raise StatisticsError(f"{what} missing", why=f"a run of {count} was given {len(by_number)}", fix="add the rest")
    merged: Statistics | None = None
    for _, (name, shard) in sorted(by_number.items()):
        whole = replace(shard, shard=(1, 1))
        try:
            merged = whole if merged is None else merged.merge(whole)
        except StatisticsError as error:
            where = f"{by_number[1][0]} and {name}"
            raise StatisticsError("cannot be merged", where=where, why=error.why, fix=error.fix) from None
    assert merged is not None
    if merged.samples + len(merged.skipped) != merged.total:
        why = f"{merged.samples} and {len(merged.skipped)} skipped of {merged.total}"
        raise StatisticsError("the shards do not add up to the data set", why=why, fix="calibrate all of them again")
    return completed(merged)
