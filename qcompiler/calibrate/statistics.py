"""What calibration knows of each tensor: a histogram of its values that needs no range, and that merges exactly."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qcompiler import ir
from qcompiler.calibrate.keys import add_keys, compare_keys, model_key, samples_key
from qcompiler.errors import StatisticsError

FORMAT = 2

_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError, EOFError)
"""What numpy, zipfile and reading of a header raise on a file that is none of ours, or no longer."""

_TALLIES = ("nan", "positive_infinity", "negative_infinity")


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """All values that a tensor took over the samples.

    ``bins``: uint16 [n], ascending, the upper 16 bits of the float32 values seen (their bfloat16 prefix; −0.0 counts
    as +0.0). ``counts``: uint64 [n], how many finite values fell into each, none zero. ``smallest`` and ``largest``:
    the exact finite extremes, +inf and −inf when there is none. ``nan``, ``positive_infinity``,
    ``negative_infinity``: how many were not finite. ``first_bad_sample``: index of the first sample with such a value.
    """

    bins: np.ndarray
    counts: np.ndarray
    smallest: float
    largest: float
    nan: int = 0
    positive_infinity: int = 0
    negative_infinity: int = 0
    first_bad_sample: int | None = None

    @staticmethod
    def empty() -> TensorStatistics:
        return TensorStatistics(np.empty(0, np.uint16), np.empty(0, np.uint64), float("inf"), float("-inf"))

    @staticmethod
    def of(values: np.ndarray, *, sample: int | None = None) -> TensorStatistics:
        """Statistics of one float array of any shape, which came with the sample of this index."""
        x = np.asarray(values).astype(np.float32, copy=False).ravel()
        finite = x[np.isfinite(x)]
        finite = np.where(finite == 0, np.float32(0), finite)
        dense = np.bincount(finite.view(np.uint32) >> 16, minlength=1)
        bins = np.flatnonzero(dense)
        nan, positive, negative = (int(np.count_nonzero(f(x))) for f in (np.isnan, np.isposinf, np.isneginf))
        return TensorStatistics(
            bins.astype(np.uint16),
            dense[bins].astype(np.uint64),
            float(finite.min()) if finite.size else float("inf"),
            float(finite.max()) if finite.size else float("-inf"),
            nan,
            positive,
            negative,
            sample if nan + positive + negative else None,
        )

    @property
    def finite(self) -> int:
        """How many finite values were seen."""
        return int(self.counts.sum())

    @property
    def bad(self) -> int:
        """How many values were not finite."""
        return self.nan + self.positive_infinity + self.negative_infinity

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Statistics of both sets of values; exact, so order and grouping do not matter."""
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.zeros(bins.size, np.uint64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        bad = [first for first in (self.first_bad_sample, other.first_bad_sample) if first is not None]
        return TensorStatistics(
            bins.astype(np.uint16),
            counts,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
            self.nan + other.nan,
            self.positive_infinity + other.positive_infinity,
            self.negative_infinity + other.negative_infinity,
            min(bad, default=None),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorStatistics):
            return NotImplemented
        scalars = ("smallest", "largest", *_TALLIES, "first_bad_sample")
        return (
            np.array_equal(self.bins, other.bins)
            and np.array_equal(self.counts, other.counts)
            and all(getattr(self, name) == getattr(other, name) for name in scalars)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Function:
    """Makes a tensor's statistics of all values of ``sources``: ``model`` is a serialized ONNX model that computes
    float32 ``[n]`` from float32 ``[n]``, element by element; empty, the values are the sources' own. A source may be
    made by an earlier function."""

    sources: tuple[str, ...]
    model: bytes = b""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a model's tensors by name, with what they are of.

    ``model_key`` identifies the model (see ``model_key``) and ``samples`` counts the feeds. ``data_key`` identifies
    the feeds whatever their order: the sum of their digests, modulo 2^256, in hexadecimal. ``smoothing``: what the
    channels of some tensors were changed by in the model that these are statistics of, and ``rounding``: what else the
    samples said about weights; see ``Plan``.

    ``observer``: the one asked for when these were taken; empty when any will do, as all are solved from the same
    counts. ``skipped``: samples left out because they failed, by their place in the data, with the reason. ``shard``:
    these are part ``i`` of ``n`` of a data set of ``total`` samples; ``(1, 1)`` is all of it, and ``total`` is 0 where
    nobody counted. ``functions``: tensors to be made of others once all shards are merged. ``where``: what errors call
    these, their file where they have one.
    """

    tensors: dict[str, TensorStatistics]
    model_key: str
    samples: int
    data_key: str = field(default="0" * 64)
    smoothing: dict[str, np.ndarray] = field(default_factory=dict)
    observer: str = ""
    skipped: dict[int, str] = field(default_factory=dict)
    shard: tuple[int, int] = (1, 1)
    total: int = 0
    rounding: dict[str, np.ndarray] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    where: str = field(default="statistics", compare=False)

    def merge(self, other: Statistics) -> Statistics:
        """Statistics over the samples of both; bit for bit those of one run over all of them, in any order.

        Raises:
            StatisticsError: they are of different models or tensors, or were taken with different settings.
        """
        compare_keys(self.model_key, other.model_key, "statistics cannot be merged")
        if missing := sorted(set(self.tensors) ^ set(other.tensors)):
            raise StatisticsError(
                "statistics cannot be merged",
                why=f"only one of them has tensor '{missing[0]}'",
                fix="calibrate all shards with the same options",
            )
        if difference := self.difference(other):
            raise StatisticsError(
                "statistics cannot be merged", why=difference, fix="calibrate all shards with the same options"
            )
        return replace(
            self,
            tensors={name: mine.merge(other.tensors[name]) for name, mine in self.tensors.items()},
            samples=self.samples + other.samples,
            data_key=add_keys(self.data_key, other.data_key),
            skipped=dict(sorted({**self.skipped, **other.skipped}.items())),
        )

    def not_finite(self) -> list[str]:
        """A sentence about each tensor that held NaN or infinities."""
        lines = []
        for name, seen in self.tensors.items():
            if seen.bad:
                counts = {"NaN": seen.nan, "+inf": seen.positive_infinity, "-inf": seen.negative_infinity}
                found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
                where = f"first in sample {seen.first_bad_sample}"
                lines.append(f"not finite: {found} in '{name}', {where}; not in its range")
        return lines

    def difference(self, other: Statistics) -> str:
        """What was set differently when these were taken; empty when nothing was."""
        if self.observer != other.observer:
            return f"one is for observer {self.observer or 'any'}, the other for {other.observer or 'any'}"
        if self.functions != other.functions:
            return "they count different tensors"
        if self.total != other.total:
            return f"one is of a data set of {self.total} samples, the other of {other.total}"
        for done, mine, theirs in (
            ("smoothed", self.smoothing, other.smoothing),
            ("rounded", self.rounding, other.rounding),
        ):
            for name in sorted(mine.keys() | theirs.keys()):
                if name not in mine or name not in theirs or not np.array_equal(mine[name], theirs[name]):
                    return f"tensor '{name}' was {done} differently"
        return ""

    def check(self, graph: ir.Graph, tensors: Iterable[str] = ()) -> None:
        """Raises StatisticsError, naming the difference, unless these are statistics of this very model that hold
        every one of ``tensors``."""
        if self.shard != (1, 1):
            raise StatisticsError(
                f"is shard {self.shard[0]} of {self.shard[1]}", where=self.where,
                fix="put all of them together with qcompiler merge",
            )  # fmt: skip
        self.check_model(graph)
        for name in tensors:
            if name not in self.tensors:
                raise StatisticsError(f"does not hold tensor '{name}'", where=self.where, fix="calibrate again")

    def check_model(self, graph: ir.Graph) -> None:
        """Raises StatisticsError, naming the difference, unless these, or a shard of them, are of this very model."""
        compare_keys(self.model_key, model_key(graph), "is of another model", self.where)

    def of_samples(self, feeds: Iterable[dict[str, np.ndarray]], count: int | None) -> bool:
        """Whether these are of the very ``feeds``, ``count`` in number where that is known."""
        if self.skipped:  # nobody can tell
            return True
        return count in (None, self.samples) and samples_key(feeds) == self.data_key

    def chosen_observer(self, wanted: str | None) -> str | None:
        """The observer to solve with: these statistics' own unless they serve any. Raises StatisticsError when another
        one is wanted than they were taken for."""
        if self.observer and wanted not in (None, self.observer):
            raise StatisticsError(
                f"was taken for observer {self.observer}, not {wanted}", where=self.where,
                fix=f"leave out --observer, or calibrate with --observer {wanted} or with none",
            )  # fmt: skip
        return wanted or self.observer or None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes an ``.npz`` file, complete or not at all. Raises OutputError."""
        path = Path(path)
        with ir.written_beside(path) as file:
            self.write(file)
        return path

    def write(self, file: BinaryIO, *, compress: bool = True) -> None:
        """Writes the ``.npz``; equal statistics make equal bytes."""
        values = list(self.tensors.values())
        header = {
            "format": FORMAT,
            "model_key": self.model_key,
            "data_key": self.data_key,
            "samples": self.samples,
            "tensors": list(self.tensors),
            "smoothing": list(self.smoothing),
            "rounding": list(self.rounding),
            "observer": self.observer,
            "skipped": {str(index): why for index, why in sorted(self.skipped.items())},
            "shard": self.shard,
            "total": self.total,
            "functions": {name: function.sources for name, function in self.functions.items()},
        }
        arrays = {
            "header": np.array(json.dumps(header)),
            "sizes": np.array([v.bins.size for v in values], np.int64),
            "bins": np.concatenate([np.empty(0, np.uint16), *(v.bins for v in values)]),
            "counts": np.concatenate([np.empty(0, np.uint64), *(v.counts for v in values)]),
            "extremes": np.array([(v.smallest, v.largest) for v in values], np.float64).reshape(-1, 2),
            "tallies": np.array([[getattr(v, n) for n in _TALLIES] for v in values], np.uint64).reshape(-1, 3),
            "first_bad": np.array([-1 if v.first_bad_sample is None else v.first_bad_sample for v in values], np.int64),
        }
        for index, scale in enumerate(self.smoothing.values()):
            arrays[f"smoothing_{index}"] = scale
        for index, change in enumerate(self.rounding.values()):
            arrays[f"rounding_{index}"] = change
        for index, function in enumerate(self.functions.values()):
            arrays[f"function_{index}"] = np.frombuffer(function.model, np.uint8)
        (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: str | os.PathLike[str], graph: ir.Graph | None = None) -> Statistics:
        """Reads a file that ``save`` wrote, and checks that it is of ``graph`` when one is given.

        Raises:
            StatisticsError: the file is missing, damaged, of another version or of another model.
        """
        where = str(path)
        try:
            with open(path, "rb") as file:
                result = Statistics.read(file, where)
        except FileNotFoundError:
            raise StatisticsError("no such file", where=where, fix="make it with qcompiler calibrate") from None
        except OSError as error:
            raise StatisticsError("cannot be read", where=where, why=error.strerror or str(error)) from None
        if graph is not None:
            result.check(graph)
        return result

    @staticmethod
    def read(file: BinaryIO, where: str) -> Statistics:
        """Reads what ``write`` wrote; ``where`` names it in errors. Raises StatisticsError."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return _decoded(dict(arrays), where)
        except _DAMAGED as error:
            raise StatisticsError(
                "is no statistics file, or damaged", where=where, why=str(error), fix="calibrate again"
            ) from None


def _decoded(arrays: dict[str, np.ndarray], where: str) -> Statistics:
    header = json.loads(str(arrays["header"]))
    if header["format"] != FORMAT:
        raise StatisticsError(
            f"has format {header['format']}", where=where, why=f"this version reads {FORMAT}", fix="calibrate again"
        )
    names, sizes = header["tensors"], arrays["sizes"]
    bins, counts = arrays["bins"], arrays["counts"]
    ends = np.cumsum(sizes)
    lengths = {len(sizes), len(arrays["extremes"]), len(arrays["tallies"]), len(arrays["first_bad"])}
    if lengths != {len(names)} or (int(ends[-1]) if len(ends) else 0) != len(bins) or len(bins) != len(counts):
        raise ValueError("its parts do not belong together")
    if bins.dtype != np.uint16 or counts.dtype != np.uint64 or (sizes < 0).any():
        raise ValueError("its histograms are not ones")
    tensors = {}
    for index, name in enumerate(names):
        part = slice(int(ends[index] - sizes[index]), int(ends[index]))
        if (np.diff(bins[part].astype(np.int64)) <= 0).any() or (counts[part] == 0).any():
            raise ValueError(f"the histogram of '{name}' is not one")
        first = int(arrays["first_bad"][index])
        smallest, largest = map(float, arrays["extremes"][index])
        nan, positive, negative = map(int, arrays["tallies"][index])
        tensors[name] = TensorStatistics(
            bins[part],
            counts[part],
            smallest,
            largest,
            nan,
            positive,
            negative,
            None if first < 0 else first,
        )
    smoothing = {name: arrays[f"smoothing_{index}"] for index, name in enumerate(header["smoothing"])}
    rounding = {name: arrays[f"rounding_{index}"] for index, name in enumerate(header["rounding"])}
    if any(change.dtype != np.int8 for change in rounding.values()):
        raise ValueError("its rounding is none")
    number, count = (int(part) for part in header["shard"])
    return Statistics(
        tensors,
        str(header["model_key"]),
        int(header["samples"]),
        str(header["data_key"]),
        smoothing,
        str(header["observer"]),
        {int(index): str(why) for index, why in header["skipped"].items()},
        (number, count),
        int(header["total"]),
        rounding,
        {
            name: Function(tuple(map(str, sources)), arrays[f"function_{index}"].tobytes())
            for index, (name, sources) in enumerate(header["functions"].items())
        },
        where,
    )
