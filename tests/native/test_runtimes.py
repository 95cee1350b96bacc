"""One library file loads in every ONNX Runtime from 1.18 on, and in a process that has nothing of ours in Python."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from native_models import observing_model

from qcompiler import native

pytestmark = [
    pytest.mark.skipif(not native.available(), reason="installed without the native library"),
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="onnxruntime 1.18 has no wheel for this Python"),
    pytest.mark.fetched,
    pytest.mark.slow,
]

USER = """
import ctypes, sys
import numpy as np, onnxruntime as ort
path, model, version = sys.argv[1:]
assert ort.__version__ == version
library = ctypes.CDLL(path)
table = ctypes.c_int64()
assert library.qcompiler_table_create(ctypes.c_uint64(1), ctypes.byref(table)) == 0 and table.value == 1
options = ort.SessionOptions()
options.register_custom_ops_library(path)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
assert session.run(None, {"X": np.array([1, 2, 2, -3], np.float32)})[0].tolist() == [4]
counts, rest = np.zeros(65536, np.uint64), ctypes.create_string_buffer(64)
assert library.qcompiler_table_read(table, ctypes.c_uint64(0), ctypes.c_void_p(counts.ctypes.data), rest) == 0
assert {int(bin): int(counts[bin]) for bin in counts.nonzero()[0]} == {0x3F80: 1, 0x4000: 2, 0xC040: 1}
print("counted with", version)
"""


@pytest.mark.parametrize("version", ["1.18.0", "1.20.1"])
def test_observe_runs_in_older_runtimes(version: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", "numpy<2"], check=True)
    model = tmp_path / "observe.onnx"
    model.write_bytes(observing_model(table=1))
    ran = subprocess.run(
        [python, "-c", USER, native.library_path(), model, version], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert f"counted with {version}" in ran.stdout
