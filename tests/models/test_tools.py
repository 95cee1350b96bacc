"""The tools that compare and survey: limits on quantizers, what measuring reports, models that do not load."""

import sys
from pathlib import Path

import numpy as np
import pytest
from attempt import attempt
from compare_peers import measure, raised, write_stacks
from onnx import TensorProto, helper, save


def run(code: str, out: Path, timeout: float = 60, memory_limit: float = 8):
    return attempt([sys.executable, "-c", code], out, timeout, memory_limit)


def test_attempt_takes_time_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    found = run(f"b = bytearray(200_000_000); print('note: well'); open({str(out)!r}, 'w')", out)
    assert found.error is None and found.notes == "well"
    assert found.seconds > 0 and found.peak_megabytes > 150


def test_attempt_works_beside_what_it_makes(tmp_path: Path) -> None:
    assert run("open('out.onnx', 'w'); open('left', 'w')", tmp_path / "out.onnx").error is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left", "out.onnx"]


def test_memory_of_the_caller_is_not_counted(tmp_path: Path) -> None:
    held = bytearray(b"1") * 400_000_000
    assert run("pass", tmp_path / "out.onnx").peak_megabytes < 100
    del held


@pytest.mark.parametrize(
    ("code", "limits", "error"),
    [
        ("import time; time.sleep(60)", {"timeout": 0.5}, "stopped after 0.5 s"),
        ("b = bytearray(600_000_000); import time; time.sleep(60)", {"memory_limit": 0.3}, "stopped at 0.3 GB"),
        ("raise SystemExit('no such thing')", {}, "exit code 1: no such thing"),
        ("import os; os.abort()", {}, "killed by signal 6"),
        ("pass", {}, "exit code 0"),
    ],
)
def test_attempt_says_what_went_wrong(tmp_path: Path, code: str, limits: dict, error: str) -> None:
    found = run(code, tmp_path / "out.onnx", **limits)
    assert found.error is not None and found.error.startswith(error)


def scaled(factor: float, path: Path, opset: int = 17) -> Path:
    """A model of one multiplication and, over it, probabilities."""
    value = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("Softmax", ["y"], ["p"], axis=-1)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("y", "p")]
    graph = helper.make_graph(nodes, "scaled", inputs, outputs, [value])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_measure_compares_with_float_and_names_what_does_not_load(tmp_path: Path) -> None:
    samples = tmp_path / "samples.npz"
    write_stacks([{"x": np.full((1, 8), index, np.float32) + np.arange(8, dtype="f")} for index in range(3)], samples)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    models = {
        "float": str(scaled(1.0, tmp_path / "float.onnx")),
        "close": str(scaled(1.1, tmp_path / "close.onnx")),
        "broken": str(broken),
    }
    found = measure(models, samples=str(samples), threads=1, rounds=12, seconds=5)
    assert found["float"]["speed"] == 1 and found["close"]["speed"] > 0
    assert found["close"]["sqnr"]["0"] == pytest.approx(20, abs=0.01)  # a tenth of the signal is wrong
    assert found["close"]["top1_agreement"] == 100
    assert found["broken"]["error"].startswith("does not load")


def test_opset_is_raised_only_where_it_is_too_old(tmp_path: Path) -> None:
    assert raised(scaled(1.0, tmp_path / "new.onnx", opset=13), tmp_path) is None
    later = raised(scaled(1.0, tmp_path / "old.onnx", opset=11), tmp_path)
    assert later is not None and later.exists()
