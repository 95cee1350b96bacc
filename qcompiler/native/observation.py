"""Histograms that ``qcompiler::Observe`` nodes fill while ONNX Runtime runs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from qcompiler.errors import DependencyError
from qcompiler.native.library import load

BINS = 65536

_NO_SUCH_TABLE, _NO_SUCH_SLOT, _OUT_OF_MEMORY = 1, 2, 3


@dataclass(frozen=True)
class Observed:
    """What one slot saw.

    ``counts``: uint64 [65536]; the bin of a finite float32 x is the upper 16 bits of its representation (x truncated
    to bfloat16), −0.0 counting as +0.0. ``smallest`` and ``largest`` are the exact finite extremes, +inf and −inf
    while nothing finite was seen. What is not finite is counted aside and not in ``counts``; ``first_bad`` is the
    number of the sample that first held some, −1 while none did. ``…_before``: the same when the latest sample began.
    """

    counts: np.ndarray
    smallest: float
    largest: float
    finite: int
    nan: int
    positive_infinity: int
    negative_infinity: int
    first_bad: int
    smallest_before: float
    largest_before: float
    first_bad_before: int


class ObservationTable:
    """``slots`` empty histograms; ``id`` is what the attribute ``table`` of an Observe node says.

    Create it before the session that uses it. Several sessions and threads may fill one table. Memory: up to 512 KiB a
    slot that is used, less where the values lie in few octaves. Close it, or use it in a ``with`` statement.
    """

    def __init__(self, slots: int) -> None:
        if slots < 0:
            raise ValueError(f"a table cannot have {slots} slots")
        self._library = load()
        number = ctypes.c_int64()
        self._check(self._library.qcompiler_table_create(slots, ctypes.byref(number)), None)
        self.id = number.value
        self.slots = slots

    def read(self, slot: int) -> Observed:
        """What the slot has seen so far. Raises IndexError for a slot that the table does not have."""
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} is outside of the table, which has {self.slots} slots")
        counts = np.empty(BINS, np.uint64)
        rest = _Rest()
        self._check(
            self._library.qcompiler_table_read(self.id, slot, counts.ctypes.data, ctypes.byref(rest)), slot
        )
        return Observed(counts, **{name: getattr(rest, name) for name, _ in _Rest._fields_})

    def begin(self, sample: int) -> None:
        """Say that what is counted from now on comes with the sample of this number."""
        self._check(self._library.qcompiler_table_begin(self.id, sample), None)

    def reset(self) -> None:
        """Empty every slot."""
        self._check(self._library.qcompiler_table_reset(self.id), None)

    def close(self) -> None:
        """Forget the table. A session that still uses it goes on counting, where nobody can read it."""
        if self.id:
            self._check(self._library.qcompiler_table_destroy(self.id), None)
            self.id = 0

    def __enter__(self) -> ObservationTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, result: int, slot: int | None) -> None:
        if result == _NO_SUCH_TABLE:
            raise ValueError("the observation table is closed")
        if result == _NO_SUCH_SLOT:
            raise IndexError(f"the observation table has no slot {slot}")
        if result == _OUT_OF_MEMORY:
            raise MemoryError("no memory for the observation table")
        if result != 0:
            raise DependencyError(
                f"the native library answered {result}", why="it is of another version", fix="install qcompiler again"
            )


class _Rest(ctypes.Structure):
    """The C struct ``qcompiler::Observed``."""

    _fields_ = (
        ("smallest", ctypes.c_float),
        ("largest", ctypes.c_float),
        ("finite", ctypes.c_uint64),
        ("nan", ctypes.c_uint64),
        ("positive_infinity", ctypes.c_uint64),
        ("negative_infinity", ctypes.c_uint64),
        ("first_bad", ctypes.c_int64),
        ("smallest_before", ctypes.c_float),
        ("largest_before", ctypes.c_float),
        ("first_bad_before", ctypes.c_int64),
    )
