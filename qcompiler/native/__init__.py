"""The custom-operator library for ONNX Runtime: where it is, how to register it, and the tables its nodes fill.

The library is C++ and needs no Python: any ONNX Runtime from 1.18 on loads it by its path
(``SessionOptions.register_custom_ops_library``). It is optional: without it everything but these operators works.

``QCOMPILER_ISA`` (auto, amx, avx512vnni, avxvnni, avx2, neoni8mm, neondot, neon, scalar) is read each time the library
is registered.
"""

from __future__ import annotations

from qcompiler.native.library import (
    DOMAIN,
    ISAS,
    available,
    int4_runs,
    int8_runs,
    isa,
    library_path,
    register_custom_ops,
)
from qcompiler.native.observation import BINS, ObservationTable, Observed

__all__ = [
    "BINS",
    "DOMAIN",
    "ISAS",
    "ObservationTable",
    "Observed",
    "available",
    "int4_runs",
    "int8_runs",
    "isa",
    "library_path",
    "register_custom_ops",
]
