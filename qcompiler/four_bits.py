"""Codes of four bits: made from weights a part at a time, and packed as the kernels read them.

The layout is that of ONNX Runtime's MatMulNBits and of our MatMulInt4: a row for each output, in it the blocks of the
inputs it sums over, in a block two codes to a byte, the even one in the low half; codes count from 0 to 15.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Hashable, Iterator

import numpy as np

from qcompiler import ir
from qcompiler.plan import TensorQuant
from qcompiler.scheme import PerAxis, PerBlock, Scheme

BYTES = 1 << 19
"""About what is worked on at a time: it stays in the processor's cache."""
_LEAST = 64
"""Columns at a time, at least: a cache line is read whole."""


def reduced_axis(scheme: Scheme) -> int:
    """The axis of a matrix that the product sums over: blocks run along it, and scales of channels go across."""
    granularity = scheme.granularity
    assert isinstance(granularity, (PerAxis, PerBlock))
    return granularity.axis if isinstance(granularity, PerBlock) else 1 - granularity.axis


class Codes(ir.Computed):
    """The codes of a weight ``[rows, columns]`` under a solved representation, of blocks or channels.

    ``change``: by how much they differ from rounding to nearest, of the weight's shape, or None; ``scratch``: where
    they may have been kept.
    """

    def __init__(
        self, values: np.ndarray, quant: TensorQuant, change: np.ndarray | None = None, scratch: Scratch | None = None
    ) -> None:
        super().__init__(values.shape, quant.scheme.dtype, self._whole)
        assert quant.scale is not None and quant.zero_point is not None
        self.source, self.quant, self.change, self.scratch = values, quant, change, scratch
        self.axis = reduced_axis(quant.scheme)
        granularity, length = quant.scheme.granularity, values.shape[self.axis]
        self.block = granularity.size if isinstance(granularity, PerBlock) else length
        self.blocks = length // self.block
        shape = list(values.shape)
        shape[self.axis] = self.blocks
        self.scale, self.zero_point = quant.scale.reshape(shape), quant.zero_point.reshape(shape)

    @property
    def outputs(self) -> int:
        return self.shape[1 - self.axis]

    @property
    def identity(self) -> Hashable:
        """Equal for the same weight in the same representation, be one the other's transpose."""
        strides = self.source.strides if self.axis == 1 else self.source.strides[::-1]
        place = self.source.__array_interface__["data"][0]
        return place, self.outputs, strides, self.block, _digest(self.by_row(self.scale)), self.quant.scheme.symmetric

    def by_row(self, array: np.ndarray) -> np.ndarray:
        """One with the axes ``[outputs, inputs]``."""
        return array if self.axis == 1 else array.T

    def parts(self) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Places ``(rows, columns)`` of the weight and the codes there as float32, counting from the type's lowest."""
        low, high = self.quant.scheme.storage_range
        for place in self.places():
            part = self._split(np.asarray(self.source[place], np.float32))
            ours = self.of_blocks(place)
            codes = part / np.expand_dims(self.scale[ours], self.axis + 1)
            np.rint(codes, out=codes)
            codes += np.expand_dims(self.zero_point[ours].astype(np.float32) - low, self.axis + 1)
            if self.change is not None:
                np.clip(codes, 0, high - low, out=codes)
                codes += self._split(self.change[place])
            np.clip(codes, 0, high - low, out=codes)
            yield place, codes.reshape(self.source[place].shape)

    def dequantized(self) -> np.ndarray:
        """float32, what the codes stand for, of the weight's shape."""
        values = np.empty(self.shape, np.float32)
        low = self.quant.scheme.storage_range[0]
        for place, codes in self.parts():
            ours = self.of_blocks(place)
            steps = self._split(codes)
            steps -= np.expand_dims(self.zero_point[ours].astype(np.float32) - low, self.axis + 1)
            steps *= np.expand_dims(self.scale[ours], self.axis + 1)
            values[place] = steps.reshape(codes.shape)
        return values

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Parts of the weight that hold whole blocks and fit the cache."""
        rows, columns = self.shape
        most = max(1, BYTES // 4)
        if self.axis == 1:
            tall, wide = max(1, most // columns), columns
        else:
            wide = min(columns, max(_LEAST, most // self.block))
            tall = self.block * max(1, most // (self.block * wide))
        for top in range(0, rows, tall):
            for left in range(0, columns, wide):
                yield slice(top, min(top + tall, rows)), slice(left, min(left + wide, columns))

    def of_blocks(self, place: tuple[slice, slice]) -> tuple[slice, slice]:
        """The part of the scales that is for a part of the weight."""
        one = place[self.axis]
        found = list(place)
        found[self.axis] = slice(one.start // self.block, one.stop // self.block)
        return found[0], found[1]

    def packed(self, pieces: int = 1) -> ir.Computed:
        """uint8 ``[outputs, blocks, ceil(block / 2)]``; each block cut into equal pieces where there are several."""
        shape = (self.outputs, self.blocks * pieces, -(-self.block // pieces // 2))
        return ir.Computed(shape, np.uint8, lambda: self._packed().reshape(shape))

    def _split(self, part: np.ndarray) -> np.ndarray:
        """The axis that is summed over as blocks and what is in them."""
        shape = list(part.shape)
        shape[self.axis : self.axis + 1] = [shape[self.axis] // self.block, self.block]
        return part.reshape(shape)

    def _packed(self) -> np.ndarray:
        kept = None if self.scratch is None else self.scratch.find(self)
        if kept is not None:
            return kept
        packed = np.empty((self.outputs, self.blocks, -(-self.block // 2)), np.uint8)
        for place, codes in self.parts():
            found = pairs(self._split(codes.astype(np.uint8)), self.axis + 1)
            blocks = self.of_blocks(place)
            if self.axis == 0:
                packed[blocks[1], blocks[0]] = found.transpose(2, 0, 1)
            else:
                packed[blocks] = found
        return packed

    def _whole(self) -> np.ndarray:
        codes = np.empty(self.shape, self.dtype)
        low = self.quant.scheme.storage_range[0]
        for place, part in self.parts():
            part += low
            codes[place] = part.astype(np.int8).astype(self.dtype)
        return codes


class Scratch:
    """Arrays in a file without a name: the memory is the file's. Packed codes are found again by what they are of."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="qcompiler-")
        self._places: dict[Hashable, tuple[int, tuple[int, ...]]] = {}

    def keep(self, codes: Codes, packed: np.ndarray) -> None:
        """``packed``: what ``codes.packed()`` computes."""
        self._places[codes.identity] = self._write(packed), packed.shape

    def put(self, array: np.ndarray) -> np.ndarray:
        """The same array, in the file."""
        place = self._write(array)
        self._file.flush()
        return np.memmap(self._file, array.dtype, "r", place, array.shape)

    def _write(self, array: np.ndarray) -> int:
        place = self._file.seek(-(-self._file.tell() // _LEAST) * _LEAST)
        self._file.write(np.ascontiguousarray(array).data)
        return place

    def find(self, codes: Codes) -> np.ndarray | None:
        place = self._places.get(codes.identity)
        if place is None:
            return None
        self._file.flush()
        offset, shape = place
        return np.memmap(self._file, np.uint8, "r", offset, shape)


def pairs(codes: np.ndarray, axis: int = -1) -> np.ndarray:
    """uint8 codes of four bits, two neighbours along the axis to a byte, the even one in the low half."""
    codes = np.moveaxis(codes, axis, -1)
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return np.moveaxis(codes[..., ::2] | codes[..., 1::2] << np.uint8(4), -1, axis)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
