"""One library file loads in every ONNX Runtime from 1.18 on, and in a process that has nothing of ours in Python."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from native_models import (
    QuantizedProduct,
    gather_int4_model,
    lookups_model,
    matmul_int4_model,
    observing_model,
    random_int4_weights,
    table_lookup_model,
)
from onnx import TensorProto

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

OPERATORS_USER = """
import sys
import numpy as np, onnxruntime as ort
path, version, folder = sys.argv[1:4]
assert ort.__version__ == version
options = ort.SessionOptions()
options.register_custom_ops_library(path)
for name in sys.argv[4:]:
    session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    there = np.load(f"{folder}/{name}.npz")
    y = session.run(None, {given.name: there[given.name] for given in session.get_inputs()})[0]
    assert y.dtype == there["Y"].dtype and np.array_equal(y, there["Y"]), name
try:
    ort.InferenceSession(f"{folder}/bad.onnx", options, providers=["CPUExecutionProvider"])
except Exception as error:
    print(error)
print("computed with", version)
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


def operator_models() -> dict[str, tuple[bytes, dict[str, np.ndarray]]]:
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    weights = random_int4_weights(64, 40, 32, zero_points=True)
    half_scales = random_int4_weights(64, 40, 32, zero_points=True, scales=np.float16)
    a = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    bias = np.ones(40, np.float32)
    table, entries = np.arange(256, dtype=np.float32), np.arange(255, -1, -1).astype(np.uint8).view(np.int8)
    codes = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    product = QuantizedProduct((0.02, 3), (0.1, 1), (0.03, 5))
    return {
        "float32": (matmul_int4_model(random_int4_weights(64, 40, 0)), {"A": a}),
        "float16": (matmul_int4_model(half_scales, element=half), {"A": a.astype(np.float16)}),
        "float16-scales": (matmul_int4_model(half_scales, element=single), {"A": a}),
        "float32-and-bias": (matmul_int4_model(weights, bias), {"A": a}),
        "gather": (gather_int4_model(half_scales), {"A": np.array([3, -1])}),
        "lookup": (table_lookup_model(table), {"X": codes}),
        "lookup-by-channel": (table_lookup_model(np.stack([table, -table]), axis=-2), {"X": codes}),
        "lookups": (lookups_model({"A": ("X", entries), "Y": ("A", table)}, ["Y"], ["n", 2, 3]), {"X": codes}),
        "product": (product.model("TableLookup2"), {"X": codes, "S": codes[:, :, :1]}),
    }


@pytest.mark.parametrize("version", ["1.18.0", "1.20.1", "1.22.1"])
def test_the_others_run_in_older_runtimes(version: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    native.register_custom_ops(options)
    models = operator_models()
    for name, (model, feeds) in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(model)
        y = ort.InferenceSession(model, options).run(None, feeds)[0]
        np.savez(tmp_path / f"{name}.npz", Y=y, **feeds)
    (tmp_path / "bad.onnx").write_bytes(matmul_int4_model(random_int4_weights(64, 40, 32), K=65))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", "numpy<2"], check=True)
    ran = subprocess.run(
        [python, "-c", OPERATORS_USER, native.library_path(), version, tmp_path, *models],
        capture_output=True, text=True, check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"computed with {version}" in ran.stdout
    assert "qcompiler::MatMulInt4, node 'product': K = 65 is not a multiple of block_size = 32" in ran.stdout


def test_a_runtime_that_is_too_old_says_so(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime==1.17.3", "numpy<2"], check=True)
    user = "import sys, onnxruntime as ort\nort.SessionOptions().register_custom_ops_library(sys.argv[1])"
    ran = subprocess.run([python, "-c", user, native.library_path()], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "qcompiler's operators need ONNX Runtime 1.18 or newer" in ran.stderr, ran
