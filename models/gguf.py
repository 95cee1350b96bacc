"""Reads GGUF files, version 3: metadata, and tensors as float32.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Of the quantized types those are
read that the models here use: Q4_1 and Q8_0, blocks of 32 with scales in float16.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BLOCK = 32


class GgufError(Exception):
    """The file is not one that this reader knows."""


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """float16 step, float16 lowest value, 16 bytes: the low halves come first, then the high ones."""
    step, lowest = (part.astype(np.float32) for part in (blocks[:, :2].view("<f2"), blocks[:, 2:4].view("<f2")))
    numbers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return numbers * step + lowest


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """float16 step, 32 signed bytes."""
    return blocks[:, 2:].view(np.int8) * blocks[:, :2].view("<f2").astype(np.float32)


def _plain(dtype: str, content: np.ndarray) -> np.ndarray:
    return content.view(dtype).astype(np.float32)


@dataclass(frozen=True)
class Encoding:
    """How a tensor lies in the file: `values` to `bytes`, and what makes float32 of rows of that many bytes."""

    name: str
    values: int
    bytes: int
    read: Callable[[np.ndarray], np.ndarray]


ENCODINGS = {
    0: Encoding("F32", 1, 4, partial(_plain, "<f4")),
    1: Encoding("F16", 1, 2, partial(_plain, "<f2")),
    3: Encoding("Q4_1", BLOCK, 20, _q4_1),
    8: Encoding("Q8_0", BLOCK, 34, _q8_0),
}


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int


class Gguf:
    """An open file. `metadata` by key; `tensor(name)` reads one, `names` are all. Raises GgufError."""

    def __init__(self, path: Path) -> None:
        self._content = np.memmap(path, np.uint8, mode="r")
        self._place = 0
        self._path = path
        if bytes(self._take(4)) != b"GGUF" or self._number("I") != 3:
            raise GgufError(f"{path}: no GGUF file of version 3")
        tensors, entries = self._number("Q"), self._number("Q")
        self.metadata = dict((self._string(), self._value(self._number("I"))) for _ in range(entries))
        self._entries = dict(self._entry() for _ in range(tensors))
        alignment = self.metadata.get("general.alignment", 32)
        self._start = -(-self._place // alignment) * alignment

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def tensor(self, name: str) -> np.ndarray:
        """float32; the first axis is the slowest, as in numpy."""
        if name not in self._entries:
            raise GgufError(f"{self._path}: no tensor {name}")
        entry = self._entries[name]
        count = prod(entry.shape)
        if count % entry.encoding.values:
            raise GgufError(f"{self._path}: {name} has {count} values, no multiple of {entry.encoding.values}")
        self._place = self._start + entry.offset
        rows = self._take(count // entry.encoding.values * entry.encoding.bytes).reshape(-1, entry.encoding.bytes)
        return entry.encoding.read(rows).reshape(entry.shape)

    def _take(self, size: int) -> np.ndarray:
        end = self._place + size
        if end > len(self._content):
            raise GgufError(f"{self._path}: ends at byte {len(self._content)}, but {end} are announced")
        taken = self._content[self._place : end]
        self._place = end
        return taken

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._take(struct.calcsize(kind)))[0]

    def _string(self) -> str:
        return bytes(self._take(self._number("Q"))).decode()

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, count = self._number("I"), self._number("Q")
            return [self._value(inner) for _ in range(count)]
        if kind not in NUMBERS:
            raise GgufError(f"{self._path}: metadata of the unknown type {kind}")
        return self._number(NUMBERS[kind])

    def _entry(self) -> tuple[str, _Entry]:
        name = self._string()
        fastest_first = [self._number("Q") for _ in range(self._number("I"))]
        kind, offset = self._number("I"), self._number("Q")
        if kind not in ENCODINGS:
            known = ", ".join(encoding.name for encoding in ENCODINGS.values())
            raise GgufError(f"{self._path}: {name} has the type {kind}; there are {known}")
        return name, _Entry(tuple(reversed(fastest_first)), ENCODINGS[kind], offset)
