"""How a tensor is represented in few bits: integer type, symmetry and granularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcompiler.errors import PlanError

OLDEST_OPSET = 13
"""QuantizeLinear and DequantizeLinear know axes since opset 13."""
OLDEST_WITH_BLOCKS = 21
"""And blocks since opset 21."""

CodeType = Literal[
    "uint8", "int8", "int32", "uint16", "int16", "uint4", "int4", "float8_e4m3fn", "float4_e2m1fn"
]  # fmt: skip

_RANGES: dict[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "int32": (-(2**31), 2**31 - 1),
    "float8_e4m3fn": (-448, 448),
    "float4_e2m1fn": (-6, 6),
}

_FIELDS = ("dtype", "symmetric", "axis", "block", "bits", "paired")

MOST_OF_A_PAIR = 128
"""255 · 128 is the largest product of a uint8 and a pair of weights that 16 bits hold."""


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerAxis:
    """One scale for each index along ``axis``."""

    axis: int

    def __str__(self) -> str:
        return f"axis {self.axis}"


@dataclass(frozen=True)
class PerBlock:
    """One scale for each run of ``size`` elements along ``axis``."""

    axis: int
    size: int

    def __str__(self) -> str:
        return f"blocks of {self.size} on axis {self.axis}"


Granularity = PerTensor | PerAxis | PerBlock


@dataclass(frozen=True)
class Scheme:
    """A representation in codes: ``real = scale * (code - zero_point)``. Codes are integers, but for ``float8_e4m3fn``
    (FP8 Formats for Deep Learning, Micikevicius et al. 2022, table 1) and ``float4_e2m1fn`` (see ``microscaling``).

    ``bits`` narrows the codes actually used below what ``dtype`` holds. ``paired``: the codes of two weights that a
    kernel multiplies and sums first are ``MOST_OF_A_PAIR`` at most together (see ``numerics.pair_sums``).
    """

    dtype: CodeType
    symmetric: bool
    granularity: Granularity = PerTensor()
    bits: int | None = None
    paired: bool = False

    @property
    def spaced_evenly(self) -> bool:
        """Whether neighbouring codes are a scale apart everywhere; not so where they are floats themselves."""
        return not self.dtype.startswith("float")

    @property
    def four_bits(self) -> bool:
        """Whether two codes share a byte. Only weights have such codes, so that all 16 of them may be used."""
        return self.dtype in ("int4", "uint4")

    @property
    def storage_range(self) -> tuple[int, int]:
        """Smallest and largest code that ``dtype`` holds; QuantizeLinear saturates to these."""
        return _RANGES[self.dtype]

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code used. Symmetric signed types leave out the lowest code, so that -x exists."""
        low, high = self.storage_range
        width = (high - low + 1).bit_length() - 1
        if self.bits is not None and self.bits < width:
            span = 2**self.bits
            low, high = (-span // 2, span // 2 - 1) if low < 0 else (0, span - 1)
        if self.symmetric and low < 0:
            low = -high
        return low, high

    @property
    def scaled_twice(self) -> bool:
        """Whether the scale of a block is a code with a scale itself."""
        return self.dtype == "float4_e2m1fn"

    def __str__(self) -> str:
        bits = f" ({self.bits} bit)" if self.bits is not None else " (in pairs)" if self.paired else ""
        return f"{self.dtype}{bits} {'symmetric' if self.symmetric else 'asymmetric'} per {self.granularity}"

    def to_json(self) -> dict[str, object]:
        data: dict[str, object] = {"dtype": self.dtype, "symmetric": self.symmetric}
        if isinstance(self.granularity, (PerAxis, PerBlock)):
            data["axis"] = self.granularity.axis
        if isinstance(self.granularity, PerBlock):
            data["block"] = self.granularity.size
        if self.bits is not None:
            data["bits"] = self.bits
        if self.paired:
            data["paired"] = True
        return data

    @staticmethod
    def from_json(data: dict[str, object]) -> Scheme:
        unknown = sorted(set(data) - set(_FIELDS))
        if unknown:
            raise PlanError(f"unknown scheme field '{unknown[0]}'", fix=f"use {', '.join(_FIELDS)}")
        dtype, symmetric = data.get("dtype"), data.get("symmetric")
        if not isinstance(dtype, str) or dtype not in _RANGES:
            raise PlanError(f"unknown integer type '{dtype}'", fix=f"use one of {', '.join(_RANGES)}")
        if not isinstance(symmetric, bool):
            raise PlanError(f"scheme field 'symmetric' is {symmetric!r}, not true or false")
        paired = data.get("paired", False)
        if not isinstance(paired, bool):
            raise PlanError(f"scheme field 'paired' is {paired!r}, not true or false")
        axis, block = _integer(data, "axis"), _integer(data, "block", least=1)
        granularity: Granularity = PerTensor()
        if axis is not None:
            granularity = PerAxis(axis) if block is None else PerBlock(axis, block)
        elif block is not None:
            raise PlanError("scheme field 'block' needs 'axis'", fix="say along which axis the blocks run")
        return Scheme(dtype, symmetric, granularity, _integer(data, "bits", least=2), paired)  # type: ignore[arg-type]


def _integer(data: dict[str, object], name: str, least: int | None = None) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise PlanError(f"scheme field '{name}' is {value!r}, not an integer")
    if least is not None and value < least:
        raise PlanError(f"scheme field '{name}' is {value}", fix=f"give {least} or more")
    return value
