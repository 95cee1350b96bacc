"""Feeds cut from arrays: an ``.npz`` file or a dict."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler import ir
from qcompiler.data.samples import Feed, Samples, _check_names, shape_text
from qcompiler.errors import DataError


@dataclass(frozen=True)
class Array:
    """An array that is read a few rows at a time: ``rows(n)`` yields it in runs of ``n`` along axis 0."""

    shape: tuple[int, ...]
    whole: Callable[[], np.ndarray]
    rows: Callable[[int], Iterator[np.ndarray]]

    @staticmethod
    def of(value: object) -> Array:
        array = np.asarray(value)

        def rows(step: int) -> Iterator[np.ndarray]:
            return (array[start : start + step] for start in range(0, len(array), step))

        return Array(array.shape, lambda: array, rows)


def open_arrays(
    arrays: Mapping[str, Array], inputs: Sequence[ir.Variable], batch_size: int | None, limit: int | None, where: str
) -> Samples:
    _check_names(arrays, inputs, where)
    if not inputs:
        return Samples(inputs, lambda: [{}], where=where, count=1, limit=limit)
    cuts: dict[str, Callable[[], Iterator[np.ndarray]]] = {}
    counts: dict[str, int] = {}
    batch_used = batch_size is None
    for tensor in inputs:
        array, shape, at = arrays[tensor.name], tensor.shape, f"{where}: input '{tensor.name}'"
        rank = len(array.shape)
        if shape is not None and rank not in (len(shape), len(shape) + 1):
            raise DataError(
                f"has {rank} axes {list(array.shape)}, the model wants {len(shape)}: {shape_text(tensor)}",
                where=at,
                fix="one more axis makes a stack of feeds",
            )
        if rank and array.shape[0] == 0:
            raise DataError("there are no samples", where=at, why=f"its shape is {list(array.shape)}")
        if rank == 0:
            cuts[tensor.name], counts[tensor.name] = _once(array), 1
        elif shape is not None and rank == len(shape) + 1:
            cuts[tensor.name], counts[tensor.name] = _stacked(array), array.shape[0]
        else:
            fixed = shape[0] if shape is not None and isinstance(shape[0], int) else None
            batch_used = batch_used or fixed is None or fixed == batch_size
            step = fixed or batch_size or 1
            count = -(-array.shape[0] // step)
            whole_only = array.shape[0] // step
            if fixed is not None and count != whole_only and not (limit is not None and limit <= whole_only):
                raise DataError(
                    f"{array.shape[0]} rows do not fill feeds of {fixed}",
                    where=at,
                    why="the model fixes its batch size",
                    fix=f"leave out {array.shape[0] % fixed} or add {fixed - array.shape[0] % fixed}",
                )
            cuts[tensor.name], counts[tensor.name] = _batches(array, step), count
    if not batch_used:
        raise DataError(
            f"a batch size of {batch_size} is not possible", where=where, why="the model, or a stack of feeds, fixes it"
        )
    count = max(counts.values())
    for name, other in counts.items():
        if other not in (1, count):
            longest = max(counts, key=counts.__getitem__)
            raise DataError(
                f"input '{name}' makes {other} feeds and input '{longest}' makes {count}",
                where=where,
                fix="give each input the same number of rows",
            )

    def feeds() -> Iterator[Feed]:
        constant = {name: next(iter(cut())) for name, cut in cuts.items() if counts[name] == 1}
        streams = {name: cut() for name, cut in cuts.items() if counts[name] > 1}
        for _ in range(count):
            yield {**constant, **{name: next(stream) for name, stream in streams.items()}}

    return Samples(inputs, feeds, where=where, count=count, limit=limit)


def _once(array: Array) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter([array.whole()])


def _stacked(array: Array) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (rows[0] for rows in array.rows(1))


def _batches(array: Array, step: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: array.rows(step)


def npz_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name. Only their headers are read here."""
    with reading_npz(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        if not members:
            raise DataError("holds no arrays", where=str(path), fix="write it with numpy.savez(path, INPUT=array)")
        return {member[: -len(".npy")]: _npz_array(path, archive, member) for member in members}


def _npz_array(path: Path, archive: zipfile.ZipFile, member: str) -> Array:
    with archive.open(member) as file:
        shape, fortran, dtype = _npy_header(file)
    if dtype.hasobject:
        raise DataError(f"array '{member[:-4]}' holds Python objects", where=str(path), fix="store numbers or strings")

    def whole() -> np.ndarray:
        with reading_npz(path), np.load(path, allow_pickle=False) as arrays:
            return arrays[member[: -len(".npy")]]

    def rows(step: int) -> Iterator[np.ndarray]:
        if fortran:  # its rows do not lie together
            yield from Array.of(whole()).rows(step)
            return
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _npy_header(file)
            for start in range(0, shape[0], step):
                size = min(step, shape[0] - start)
                data = file.read(size * row_bytes)
                if len(data) != size * row_bytes:
                    raise EOFError("the array is cut short")
                yield np.frombuffer(data, dtype).reshape(size, *shape[1:])

    def guarded(step: int) -> Iterator[np.ndarray]:
        with reading_npz(path):
            yield from rows(step)

    return Array(shape, whole, guarded)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


class reading_npz:
    """Turns what zipfile and numpy raise on a bad file into one DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        where = str(self.path)
        if isinstance(error, FileNotFoundError):
            raise DataError("no such file", where=where, fix="check the path") from None
        if isinstance(error, (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError)):
            raise DataError(
                "is no .npz file, or damaged", where=where, why=str(error), fix="write it again with numpy.savez"
            ) from None
