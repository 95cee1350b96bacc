"""Feeds that are known to fit the model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from qcompiler import ir
from qcompiler.errors import DataError

Feed = dict[str, np.ndarray]

FEWEST_HELD = 4
MOST_HELD = 64_000_000
"""Bytes of samples that are held in memory for measuring, but for the fewest."""


class Samples:
    """Feeds that fit the model; iterate as often as needed, each time from the start.

    ``count`` is how many feeds there are, None while unknown. ``where`` says where they come from. ``at`` reads one
    feed by its place, where the source allows that and the count is known.

    Iterating raises DataError at the first feed that does not fit, naming it, and when there is none at all.
    """

    def __init__(
        self,
        inputs: Sequence[ir.Variable],
        feeds: Callable[[], Iterable[Any]],
        *,
        where: str,
        count: int | None = None,
        limit: int | None = None,
        at: Callable[[int], Any] | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise DataError(f"a limit of {limit} leaves no sample", where=where, fix="give a limit of 1 or more")
        self.inputs = tuple(inputs)
        self.where = where
        self.limit = limit
        self.count = count if limit is None or count is None else min(count, limit)
        self._feeds = feeds
        self._at = at

    def __iter__(self) -> Iterator[Feed]:
        index = -1
        for index, feed in enumerate(islice(self._feeds(), self.limit)):
            yield check_feed(feed, self.inputs, f"{self.where}: sample {index}")
        if index < 0:
            raise DataError("there are no samples", where=self.where, fix="give at least one")
        self.count = index + 1

    def numbered(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Feed | DataError]]:
        """The feeds at the wanted places, each with its place from 0; an error in place of one that does not fit.

        Where feeds can be read one by one, so does an unreadable one become an error in its place, and others than the
        wanted are not read. A source that breaks off raises DataError.
        """
        total = 0
        if self._at is not None and self.count is not None:
            total = self.count
            for index in filter(wanted, range(total)):
                try:
                    yield index, check_feed(self._at(index), self.inputs, f"{self.where}: sample {index}")
                except DataError as error:
                    yield index, error
        else:
            for index, feed in enumerate(islice(self._feeds(), self.limit)):
                total = index + 1
                if not wanted(index):
                    continue
                try:
                    yield index, check_feed(feed, self.inputs, f"{self.where}: sample {index}")
                except DataError as error:
                    yield index, error
        if total == 0:
            raise DataError("there are no samples", where=self.where, fix="give at least one")
        self.count = total

    def good(self) -> Iterator[Feed]:
        """The feeds that can be read and fit."""
        return (feed for _, feed in self.numbered(lambda index: True) if not isinstance(feed, DataError))


def spread(samples: Samples, most: int) -> list[Feed]:
    """Up to ``most`` of the samples, as far as they may be held in memory, evenly spaced where it is known how many
    there are: neighbours tend to be alike."""
    first = next(iter(samples))
    size = sum(array.nbytes for array in first.values())
    most = min(most, max(FEWEST_HELD, MOST_HELD // max(size, 1)))
    step = max(1, (samples.count or 0) // most)
    found: list[Feed] = []
    for _, feed in samples.numbered(lambda index: index % step == 0):
        if isinstance(feed, DataError):
            raise feed
        found.append(feed)
        if len(found) == most:
            break
    return found


def check_feed(feed: object, inputs: Sequence[ir.Variable], where: str) -> Feed:
    """The feed with every array in the input's own dtype. Raises DataError saying what does not fit.

    Converted are floats to floats of another width, and integers to wider integers. Infinities are let through
    (attention masks have them), NaN is not. An axis of length 0 is let through where the model leaves the axis free
    and it is not the first (an empty cache of a decoder).
    """
    if not isinstance(feed, Mapping):
        raise DataError(f"is a {type(feed).__name__}", where=where, fix="make each sample a dict {input name: array}")
    _check_names(feed, inputs, where)
    return {t.name: _check_array(feed[t.name], t, f"{where}: input '{t.name}'") for t in inputs}


def _check_names(names: Iterable[object], inputs: Sequence[ir.Variable], where: str) -> None:
    known = [str(tensor.name) for tensor in inputs]
    given = [str(name) for name in names]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'" if close else "rename it"
            raise DataError(
                f"the model has no input '{name}'", where=where, why=f"its inputs are {listed(known)}", fix=hint
            )
    for name in known:
        if name not in given:
            raise DataError(
                f"input '{name}' is missing", where=where, why=f"there are {listed(given)}", fix=f"add '{name}'"
            )


def _check_array(value: object, tensor: ir.Variable, where: str) -> np.ndarray:
    if tensor.type_proto is not None:
        raise DataError("is no tensor but a sequence or an optional", where=where, fix="such models cannot be fed yet")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError("is no array", where=where, why=str(error)) from None
    array = _converted(array, tensor.dtype, where)
    if tensor.shape is not None:
        if array.ndim != len(tensor.shape):
            raise DataError(
                f"has {array.ndim} axes {list(array.shape)}, the model wants {len(tensor.shape)}: {shape_text(tensor)}",
                where=where,
            )
        for axis, (size, wanted) in enumerate(zip(array.shape, tensor.shape)):
            if isinstance(wanted, int) and size != wanted:
                raise DataError(
                    f"axis {axis} has length {size}, the model wants {wanted}",
                    where=where,
                    why=f"given {list(array.shape)}, wanted {shape_text(tensor)}",
                )
            if size == 0 and wanted != 0 and axis == 0:
                raise DataError("is empty", where=where, why=f"its shape is {list(array.shape)}")
    elif array.size == 0:
        raise DataError("is empty", where=where, why=f"its shape is {list(array.shape)}")
    if is_float(array.dtype) and np.isnan(array).any():
        bad = int(np.isnan(array).sum())
        raise DataError(f"holds {bad} NaN", where=where, fix="repair this sample or leave it out")
    return array


def _converted(array: np.ndarray, wanted: Any, where: str) -> np.ndarray:
    if wanted is None or array.dtype == wanted:
        return array
    wanted = np.dtype(wanted)
    if wanted.kind == "O" and array.dtype.kind in "USO":
        return array.astype(object)
    if is_float(array.dtype) and is_float(wanted):
        with np.errstate(over="ignore"):
            narrowed = array.astype(wanted)
        if np.isinf(narrowed).sum() != np.isinf(array).sum():
            raise DataError(f"holds values that {wanted} cannot", where=where, why=f"it is {array.dtype}")
        return narrowed
    if array.dtype.kind in "iu" and wanted.kind in "iu" and np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    raise DataError(f"is {array.dtype}, the model wants {wanted}", where=where, fix=f"convert it to {wanted}")


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or "float" in dtype.name  # numpy does not count bfloat16 and the 8-bit floats


def shape_text(tensor: ir.Variable) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in tensor.shape or []) + "]"


def listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(f"'{name}'" for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
