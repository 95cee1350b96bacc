"""compile with something to keep or to stay below, as users ask for it and as they get it wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke, samples, snapshot
from onnx import TensorProto, helper, numpy_helper

ASKED = ("compile", "wide.onnx", "-o", "old.onnx", "--data", "wide.npz")
OWN = '''
import numpy as np
FEED = {"x": np.ones((32, 256), np.float32)}
def mean(model):
    return float(model(FEED)["y"].argmax(-1).mean())
def broken(model):
    return model({"z": FEED["x"]})["y"].mean()
def endless(model):
    return model(FEED)["y"].mean() * float("nan")
'''


@pytest.fixture(autouse=True)
def wide(folder: Path) -> None:
    """x [32, 256] through two products, large enough that 8 bits pay, to y [32, 256]."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], "first"),
        helper.make_node("Tanh", ["m"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "w2"], ["y"], "second"),
    ]
    weights = [
        numpy_helper.from_array((0.05 * random.normal(size=(256, 256))).astype(np.float32), name)
        for name in ("w1", "w2")
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 256]) for name in "xy")
    graph = helper.make_graph(nodes, "wide", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "wide.onnx")
    np.savez("wide.npz", x=samples((6, 32, 256)))
    np.savez("labels.npz", right=np.zeros(192, np.int64), few=np.zeros(7, np.int64))
    Path("own.py").write_text(OWN)


@pytest.mark.parametrize(
    "wanted",
    [
        ("--max-drop", "60%", "--metric", "top-1"),
        ("--max-drop", "300", "--metric", "own.py:mean"),
        ("--max-drop", "1", "--metric", "top-1:y", "--labels", "labels.npz:right"),
        ("--min-sqnr", "10"),
        ("--budget", "size=0.26x"),
    ],
)
def test_what_is_asked_for_is_met(folder: Path, wanted: tuple[str, ...]) -> None:
    done = invoke(*ASKED, *wanted, "--report", "r.json")
    assert done.code == 0, done.err
    report = json.loads((folder / "r.json").read_text())
    assert {node["precision"] for node in report["nodes"] if node["op"] == "MatMul"} == {"int8"}
    assert report["front"][-1]["sqnr_measured"] > 10.0


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (("--max-drop", "1%", "--metric", "own.py:broken"), 1, ("own.py:broken", "raised an error", "z")),
        (("--max-drop", "1%", "--metric", "own.py:endless"), 1, ("own.py:endless", "returned nan", "finite")),
        (("--max-drop", "1%", "--metric", "own.py:nothing"), 1, ("has no function 'nothing'", "mean")),
        (("--max-drop", "1%", "--metric", "best"), 1, ("no metric 'best'", "top-1", "FILE.py:FUNCTION")),
        (("--max-drop", "1%", "--metric", "cer"), 1, ("cer", "does not suit", "[steps, classes]")),
        (("--max-drop", "1%", "--metric", "top-1", "--labels", "labels.npz:few"), 1, ("7 labels for 192 samples",)),
        (("--max-drop", "1%", "--metric", "top-1", "--labels", "labels.npz"), 1, ("several arrays", "right, few")),
        (("--max-drop", "1%"), 2, ("--max-drop goes with --metric",)),
        (("--metric", "top-1"), 2, ("--metric goes with --max-drop",)),
        (("--max-drop", "some", "--metric", "top-1"), 2, ("some",)),
        (("--budget", "speed=2x"), 2, ("'speed=2x' is no budget", "latency=0.5x")),
        (("--min-sqnr", "20", "--no-timing"), 2, ("--no-timing",)),
        (("--min-sqnr", "20", "--precision", "float"), 1, ("nothing to choose from", "int8")),
        (("--min-sqnr", "150"), 1, ("no mixture", "--min-sqnr 150", "the best that is no slower has", "or take")),
        (("--budget", "latency=0.001x"), 1, ("no mixture", "the fastest takes", "allow as much")),
        (("--budget", "size=0.1x"), 1, ("no mixture", "the smallest 0.1", "allow as much")),
        (("--plan", "p.json", "--min-sqnr", "20"), 2, ("--plan decides everything",)),
    ],
)  # fmt: skip
def test_what_cannot_be_done(folder: Path, wanted: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    before = snapshot(folder)
    invoke(*ASKED, *wanted).fails(code, *words)
    after = {name: data for name, data in snapshot(folder).items() if "__pycache__" not in name}
    assert after == before


def test_where_8_bits_do_not_pay_the_model_stays_in_float(folder: Path) -> None:
    done = invoke("compile", "matmul.onnx", "-o", "out.onnx", "--data", "matmul.npz", "--min-sqnr", "10")
    assert done.code == 0, done.err
    assert "stays in float" in done.out or "int8" in done.out
