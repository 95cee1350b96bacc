"""Finding the native library, registering it with ONNX Runtime, and calling its C functions."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

from qcompiler.errors import DependencyError

DOMAIN = "qcompiler"  # of every operator in the library
# What QCOMPILER_ISA may name, besides "auto".
ISAS = ("amx", "avx512vnni", "avxvnni", "avx2", "neoni8mm", "neondot", "neon", "scalar")

_FILE_NAME = "qcompiler_ops.dll" if sys.platform == "win32" else "libqcompiler_ops.so"


def library_path() -> Path:
    """The library's file. Raises DependencyError when this installation was made without it."""
    path = _find()
    if path is None:
        raise DependencyError(
            "the native library is missing",
            where=_FILE_NAME,
            why="qcompiler was installed without a C++ compiler",
            fix="install g++ or clang++ and then qcompiler again",
        )
    return path


def available() -> bool:
    """Whether this installation has the library."""
    return _find() is not None


def register_custom_ops(session_options: Any) -> None:
    """Let sessions made with these ``onnxruntime.SessionOptions`` run the operators of the domain ``qcompiler``.

    Raises DependencyError when the library is missing, or when it refuses (an unknown ``QCOMPILER_ISA``, a processor
    without the one named, an ONNX Runtime older than 1.18).
    """
    path = library_path()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise DependencyError("the native library cannot be used", where=str(path), why=str(error)) from error


def isa() -> str:
    """The instruction set that kernels run with: the latest registration's choice, before one the automatic choice."""
    return load().qcompiler_isa().decode()


def int4_runs() -> dict[str, int]:
    """How many products with 4-bit weights this process has computed, by the instruction set that computed them."""
    return {name: int(load().qcompiler_int4_runs(name.encode())) for name in ISAS}


def int8_runs() -> dict[str, int]:
    """The same with 8-bit weights."""
    return {name: int(load().qcompiler_int8_runs(name.encode())) for name in ISAS}


@functools.cache
def load() -> ctypes.CDLL:
    """The library with the signatures of its C functions. Raises DependencyError when it is missing or unloadable."""
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DependencyError(
            "the native library cannot be loaded", where=str(path), why=str(error), fix="install qcompiler again"
        ) from error
    library.qcompiler_isa.argtypes = []
    library.qcompiler_isa.restype = ctypes.c_char_p
    library.qcompiler_int4_runs.argtypes = [ctypes.c_char_p]
    library.qcompiler_int4_runs.restype = ctypes.c_uint64
    library.qcompiler_int8_runs.argtypes = [ctypes.c_char_p]
    library.qcompiler_int8_runs.restype = ctypes.c_uint64
    table, slot = ctypes.c_int64, ctypes.c_uint64
    library.qcompiler_table_create.argtypes = [ctypes.c_uint64, ctypes.POINTER(table)]
    library.qcompiler_table_destroy.argtypes = [table]
    library.qcompiler_table_reset.argtypes = [table]
    library.qcompiler_table_begin.argtypes = [table, ctypes.c_int64]
    library.qcompiler_table_read.argtypes = [table, slot, ctypes.c_void_p, ctypes.c_void_p]
    return library


def _find() -> Path | None:
    # An editable installation has two folders for this package: the sources, and what CMake built.
    import qcompiler.native

    for folder in qcompiler.native.__path__:
        path = Path(folder) / _FILE_NAME
        if path.is_file():
            return path
    return None
