"""Values of the tensors in an ONNX file: in the message itself, or mapped from files beside the model.

A model file is untrusted: external data must lie inside the model's folder, and every size is checked against the
bytes that are really there before anything of that size is made.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.errors import ModelError

_LARGEST_DENSE = 1 << 31
"""Bytes that a sparse weight may take when written out: its claimed shape costs nothing and may be a lie."""


class TensorReader:
    """Reads tensors of one model. ``folder``: where its external data must be, None for a model in memory; ``where``
    names the model in errors; ``maps``: the data files mapped so far."""

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder.resolve() if folder else None
        self.where = where
        self.maps: dict[Path, np.ndarray] = {}

    def values(self, proto: TensorProto) -> np.ndarray:
        """The tensor's values, read-only."""
        if proto.data_location == TensorProto.EXTERNAL:
            values = self.external(proto)
        else:
            values = self.embedded(proto)
        values.flags.writeable = False
        return values

    def embedded(self, proto: TensorProto) -> np.ndarray:
        where = f"{self.where}: weight '{proto.name}'"
        dtype = numpy_dtype(proto.data_type, where)
        shape, count = _shape(proto, where)
        raw = proto.raw_data if proto.HasField("raw_data") else None
        if raw is not None:
            expected, present, unit = _byte_count(dtype, count), len(raw), "bytes"
        else:
            present = len(getattr(proto, helper.tensor_dtype_to_field(proto.data_type)))
            expected, unit = _field_count(dtype, count), "values"
        if expected != present:
            raise ModelError(
                f"shape {list(shape)} of {dtype} takes {expected} {unit}, {present} are there",
                where=where,
                fix="download or export it again",
            )
        try:
            if raw is not None and _bits(dtype) >= 8 and dtype.kind != "O":
                return np.frombuffer(raw, dtype=dtype).reshape(shape)
            return np.array(numpy_helper.to_array(proto))
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError("cannot be decoded", where=where, why=str(error), fix="download it again") from None

    def external(self, proto: TensorProto) -> np.ndarray:
        where = f"{self.where}: weight '{proto.name}'"
        entries = {entry.key: entry.value for entry in proto.external_data}
        if self.folder is None:
            raise ModelError(
                "its data is in another file, and a model in memory has no folder",
                where=where,
                fix="pass the path, or load with onnx.load(path) so that the data is in memory",
            )
        location = entries.get("location", "")
        data = self.mapped(location, where)
        dtype = numpy_dtype(proto.data_type, where)
        shape, count = _shape(proto, where)
        if dtype.kind == "O":
            raise ModelError("is text, which cannot be in another file", where=where, fix="export the model again")
        expected = _byte_count(dtype, count)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", expected))
        except ValueError:
            raise ModelError(
                "external data offset or length is no number", where=where, fix="export the model again"
            ) from None
        if length != expected or offset < 0 or offset + length > len(data):
            raise ModelError(
                f"external data needs bytes {offset} to {offset + expected} of '{location}', which has {len(data)}",
                where=where,
                why=f"shape {list(shape)}, stated length {length}",
                fix="download the data file again",
            )
        raw = data[offset : offset + length]
        try:
            if _bits(dtype) < 8:
                packed = TensorProto(dims=shape, data_type=proto.data_type, raw_data=raw.tobytes())
                return np.array(numpy_helper.to_array(packed))
            if offset % dtype.itemsize:  # kernels want their numbers aligned: the one case that is copied
                return np.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape)
            return raw.view(dtype).reshape(shape)
        except ValueError as error:
            raise ModelError("cannot be decoded", where=where, why=str(error), fix="export the model again") from None

    def mapped(self, location: str, where: str) -> np.ndarray:
        """The bytes of a data file in the model's folder, mapped once."""
        assert self.folder is not None
        try:
            file = (self.folder / location).resolve()
        except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a ring of links
            raise ModelError(
                f"external data '{location}' is no file name", where=where, why=str(error), fix="export the model again"
            ) from None
        if not location or not file.is_relative_to(self.folder):
            raise ModelError(
                f"external data '{location}' lies outside the model's folder",
                where=where,
                fix="put the data file itself, not a link, beside the model",
            )
        if file not in self.maps:
            try:
                found = file.stat()
                if not stat.S_ISREG(found.st_mode):
                    raise ModelError(
                        f"external data '{location}' is not a file",
                        where=where,
                        fix="put the data file beside the model",
                    )
                self.maps[file] = np.memmap(file, np.uint8, mode="r") if found.st_size else np.zeros(0, np.uint8)
            except FileNotFoundError:
                raise ModelError(
                    f"external data file '{location}' is missing", where=where, fix="put it beside the model"
                ) from None
            except OSError as error:
                raise ModelError(
                    f"external data file '{location}' cannot be read",
                    where=where,
                    why=error.strerror or str(error),
                    fix="check its name and permissions",
                ) from None
        return self.maps[file]

    def sparse(self, proto: onnx.SparseTensorProto) -> np.ndarray:
        where = f"{self.where}: sparse weight '{proto.values.name}'"
        shape, count = _shape(proto, where)
        values, indices = self.values(proto.values), self.values(proto.indices)
        if count * values.dtype.itemsize > _LARGEST_DENSE:
            raise ModelError(f"is too large to be written out: {list(shape)}", where=where, fix="export it dense")
        try:
            flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
            if flat.size and flat.min() < 0:
                raise IndexError("negative index")
            dense = np.zeros(count, dtype=values.dtype)
            dense[flat] = values
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(
                "has indices that do not fit it", where=where, why=str(error), fix="export it again"
            ) from None
        dense.flags.writeable = False
        return dense.reshape(shape)


def numpy_dtype(element_type: int, where: str = "") -> np.dtype:
    """The numpy (or ml_dtypes) dtype of an ONNX element type. Raises ModelError on an unknown one."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError:
        raise ModelError(
            f"unknown element type {element_type}", where=where, fix="export it again, or upgrade the onnx package"
        ) from None


def _shape(proto: TensorProto | onnx.SparseTensorProto, where: str) -> tuple[tuple[int, ...], int]:
    """The stated shape and its number of elements, as Python integers: they may be lies of any size."""
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"has shape {list(shape)}", where=where, fix="export the model again")
    return shape, math.prod(shape)


def _bits(dtype: np.dtype) -> int:
    name = dtype.name
    if name.endswith(("int4", "float4_e2m1fn")):
        return 4
    return 2 if name.endswith("int2") else dtype.itemsize * 8


def _byte_count(dtype: np.dtype, count: int) -> int:
    return (count * _bits(dtype) + 7) // 8


def _field_count(dtype: np.dtype, count: int) -> int:
    """How many entries the typed field holds: complex numbers take two, sub-byte types share one."""
    if dtype.kind == "c":
        return 2 * count
    return _byte_count(dtype, count) if _bits(dtype) < 8 else count
