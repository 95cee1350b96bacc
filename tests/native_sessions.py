"""Sessions that know our operators, and the instruction sets that tests of them can ask for."""

from __future__ import annotations

import os
from unittest import mock

import onnxruntime as ort

from qcompiler import native
from qcompiler.errors import DependencyError


def session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    native.register_custom_ops(options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def isas_here() -> list[str]:
    """Those that this processor has, the scalar one at least; the others are run in an emulator, in test_build.py."""
    found = []
    for name in native.ISAS if native.available() else ():
        with mock.patch.dict(os.environ, QCOMPILER_ISA=name):
            try:
                native.register_custom_ops(ort.SessionOptions())
            except DependencyError:
                continue
            found.append(name)
    return found
