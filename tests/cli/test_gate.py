"""verify as a gate: against an earlier run, and with a metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke

VERIFY = ("verify", "matmul.onnx", "int8.onnx", "--data", "matmul.npz", "--seconds", "0.1")
TURNED = ("verify", "matmul.onnx", "turned.onnx", "--data", "matmul.npz", "--seconds", "0.1")
ANY_SPEED = ("--speed-tolerance", "1")


@pytest.fixture
def compiled(folder: Path) -> Path:
    done = invoke(
        "compile", "matmul.onnx", "-o", "int8.onnx", "--data", "matmul.npz", "--no-timing", "--quiet",
        "--report", "report.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    model = onnx.load("matmul.onnx")
    weight = next(w for w in model.graph.initializer if w.name == "w2")
    weight.raw_data = (-np.frombuffer(weight.raw_data, np.float32)).tobytes()
    onnx.save(model, "turned.onnx")
    return folder


@pytest.fixture
def last(compiled: Path) -> Path:
    done = invoke(*VERIFY, "--json", "--metric", "top-1")
    assert done.code == 0, done.err
    (compiled / "last.json").write_text(done.out)
    return compiled / "last.json"


def changed(last: Path, **outputs: float) -> None:
    data = json.loads(last.read_text())
    for one in data["outputs"]:
        one["sqnr"] += outputs.get("sqnr", 0.0)
    data["speed"]["speedup"] *= outputs.get("speed", 1.0)
    last.write_text(json.dumps(data))


def test_the_same_model_is_no_worse_than_itself(last: Path) -> None:
    assert json.loads(last.read_text())["format"] == "qcompiler-verify/1"
    done = invoke(*VERIFY, "--baseline", "last.json", "--metric", "top-1", *ANY_SPEED)
    assert done.code == 0 and done.err == "", done.err


def test_a_report_as_baseline(compiled: Path) -> None:
    assert invoke(*VERIFY, "--baseline", "report.json", "--quiet", *ANY_SPEED).code == 0
    done = invoke(*TURNED, "--baseline", "report.json", "--quiet", *ANY_SPEED)
    done.fails(1, "turned.onnx: output 'y' has ", "dB less than the ", "in report.json", "--sqnr-tolerance")


def test_less_fidelity(last: Path) -> None:
    changed(last, sqnr=2.0)
    done = invoke(*VERIFY, "--baseline", "last.json", "--quiet", *ANY_SPEED)
    done.fails(1, "int8.onnx: output 'y' has ", "2.00 dB less than the ", "in last.json")
    assert invoke(*VERIFY, "--baseline", "last.json", "--quiet", "--sqnr-tolerance", "2.1", *ANY_SPEED).code == 0


def test_less_speed(last: Path) -> None:
    changed(last, speed=1000.0)
    done = invoke(*VERIFY, "--baseline", "last.json", "--quiet")
    done.fails(1, "int8.onnx: has ", "x the source's speed, 99.", "% less than the ", "--speed-tolerance allows 5 %")
    assert invoke(*VERIFY, "--baseline", "last.json", "--quiet", *ANY_SPEED).code == 0


def test_a_worse_metric(last: Path) -> None:
    done = invoke(
        *TURNED, "--baseline", "last.json", "--metric", "top-1", "--quiet", "--sqnr-tolerance", "1000", *ANY_SPEED
    )
    done.fails(1, "turned.onnx: top-1 is ", "worse than the ", "in last.json", "--metric-tolerance allows 0.1%")


def test_json_is_printed_whether_the_gate_holds_or_not(last: Path) -> None:
    changed(last, sqnr=2.0)
    done = invoke(*VERIFY, "--baseline", "last.json", "--json", *ANY_SPEED)
    assert done.code == 1 and json.loads(done.out)["outputs"][0]["name"] == "y"


def test_a_metric_is_shown_and_may_not_drop_too_far(compiled: Path) -> None:
    done = invoke(*VERIFY, "--metric", "cosine", "--max-drop", "5%")
    assert done.code == 0 and "cosine: 0.9" in done.out and "in float 1" in done.out
    done = invoke(*TURNED, "--metric", "top-1", "--max-drop", "0.5%", "--quiet")
    done.fails(1, "turned.onnx: top-1 is ", "in float 1:", "more than the 0.5% asked for with --max-drop")


def test_a_metric_of_one_s_own(compiled: Path) -> None:
    Path("mine.py").write_text(
        "import numpy as np\n"
        "def loss(model):\n"
        "    x = np.load('matmul.npz')['x']\n"
        "    return float(np.mean(np.concatenate([model({'x': row[None]})['y'] for row in x])[:, 0] < 0))\n"
        "def broken(model):\n    raise RuntimeError('no labels here')\n"
    )
    assert invoke(*VERIFY, "--metric", "mine.py:loss", "--max-drop", "0.5", "--quiet").code == 0
    done = invoke(*TURNED, "--metric", "mine.py:loss", "--lower-is-better", "--max-drop", "0", "--quiet")
    other = invoke(*TURNED, "--metric", "mine.py:loss", "--max-drop", "0", "--quiet")
    assert {done.code, other.code} == {0, 1}  # what is worse one way is better the other
    invoke(*VERIFY, "--metric", "mine.py:broken", "--quiet").fails(1, "mine.py:broken", "no labels here")


def test_labels(compiled: Path) -> None:
    np.save("labels.npy", np.zeros(12, np.int64))
    done = invoke(*VERIFY, "--metric", "top-1", "--labels", "labels.npy", "--json")
    assert done.code == 0 and 0.0 <= json.loads(done.out)["metric"]["source"] < 1.0
    np.save("few.npy", np.zeros(5, np.int64))
    invoke(*VERIFY, "--metric", "top-1", "--labels", "few.npy").fails(1, "5 labels for 12 samples")


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (("--max-drop", "0.5%"), 2, ("verify: ", "--max-drop", "--metric")),
        (("--labels", "matmul.npz"), 2, ("verify: ", "--labels", "--metric")),
        (("--metric", "top-1", "--max-drop", "much"), 2, ("'much' is no drop such as 0.5%",)),
        (("--metric", "top-5"), 1, ("no metric 'top-5'", "top-1")),
        (("--baseline", "gone.json"), 1, ("gone.json: no such file",)),
        (("--baseline", "matmul.onnx"), 1, ("matmul.onnx: is not JSON",)),
        (("--baseline", "other.json"), 1, ("other.json: is of another model", "no output 'z' in int8.onnx")),
        (("--baseline", "last.json", "--speed-tolerance", "2"), 2, ("--speed-tolerance",)),
        (("--baseline", "last.json", "--target", "tensorrt"), 2, ("--baseline is for targets that run",)),
    ],
)
def test_bad_input(last: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    Path("other.json").write_text(json.dumps({"outputs": [{"name": "z", "sqnr": 1.0}]}))
    invoke(*VERIFY, "--quiet", *arguments).fails(code, *words)
