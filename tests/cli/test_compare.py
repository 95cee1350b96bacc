"""verify and bench."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke
from pass_helpers import program
from planned import weights

from qcompiler import ir


@pytest.fixture
def compiled(folder: Path) -> Path:
    done = invoke("compile", "matmul.onnx", "-o", "int8.onnx", "--data", "matmul.npz", "--no-timing", "--quiet")
    assert done.code == 0, done.err
    return folder / "int8.onnx"


VERIFY = ("verify", "matmul.onnx", "int8.onnx", "--data", "matmul.npz", "--seconds", "0.2")


def test_verify_shows_and_passes(compiled: Path) -> None:
    done = invoke(*VERIFY, "--min-sqnr", "20", "--min-cosine", "0.9", "--min-top1", "0.5", "--min-speedup", "0.001")
    assert done.code == 0 and done.err == ""
    assert "dB" in done.out and "12 samples (matmul.npz)" in done.out and "x the source's" in done.out


@pytest.mark.parametrize(
    "bound, words",
    [
        (("--min-sqnr", "200"), ("output 'y'", "dB", "200 dB", "--min-sqnr")),
        (("--min-cosine", "1.0"), ("output 'y'", "cosine", "--min-cosine")),
        (("--min-speedup", "1000"), ("int8.onnx", "the source's speed", "1000x", "--min-speedup")),
    ],
)
def test_verify_short_of_a_bound(compiled: Path, bound: tuple[str, ...], words: tuple[str, ...]) -> None:
    invoke(*VERIFY, *bound, "--quiet").fails(1, *words)


def test_verify_top1(folder: Path, compiled: Path) -> None:
    model = onnx.load("matmul.onnx")
    weight = next(w for w in model.graph.initializer if w.name == "w2")
    weight.raw_data = (-np.frombuffer(weight.raw_data, np.float32)).tobytes()
    onnx.save(model, "turned.onnx")
    done = invoke("verify", "matmul.onnx", "turned.onnx", "--data", "matmul.npz", "--min-top1", "0.9")
    done.fails(1, "turned.onnx: output 'y' ", "top-1", "--min-top1")


def test_verify_json(compiled: Path) -> None:
    found = json.loads(invoke(*VERIFY, "--json").out)
    assert found["samples"] == 12 and found["outputs"][0]["name"] == "y" and found["outputs"][0]["sqnr"] > 20
    same = json.loads(invoke("verify", "matmul.onnx", "matmul.onnx", "--data", "matmul.npz", "--json").out)
    assert float(same["outputs"][0]["sqnr"]) == float("inf")
    assert set(found["speed"]) >= {"median", "speedup", "rounds"}


def test_verify_shows_what_a_selection_is_made_from(folder: Path) -> None:
    graph = program(
        """(float[1,3,8,8] x) => (float[1,40] y) {
            c = Conv(x, w) r = Relu(c) d = Conv(r, v) f = Flatten(d) s, i = TopK<axis = 1>(f, most)
            t = Sin(x) g = Flatten(t) y = GatherElements<axis = 1>(g, i) }""",
        {**weights(w=(8, 3, 3, 3), v=(4, 8, 3, 3)), "most": np.array([40])},
    )
    ir.save(graph, "best.onnx")
    np.savez("best.npz", x=np.random.default_rng(0).normal(size=(6, 1, 3, 8, 8)).astype(np.float32))
    files = ("best.onnx", "best8.onnx", "--data", "best.npz")
    compiling = invoke("compile", files[0], "-o", *files[1:], "--no-timing", "--quiet")
    assert compiling.code == 0, compiling.err
    (output,) = json.loads(invoke("verify", *files, "--json").out)["outputs"]
    assert output["sqnr"] < 15.0 < output["selected_from"] < 60.0
    assert "selected from" in invoke("verify", *files).out
    words = f"output 'y' has {output['sqnr']:.2f} dB, what it is selected from {output['selected_from']:.2f} dB"
    invoke("verify", *files, "--min-sqnr", "15").fails(1, words, "15 dB", "--min-sqnr")


@pytest.mark.parametrize(("here", "there"), [("vnni", False), ("avx2", True)])
def test_verify_says_where_this_cpu_cuts_products_off(folder: Path, monkeypatch: pytest.MonkeyPatch, here: str,
                                                      there: bool) -> None:  # fmt: skip
    options = ("--data", "matmul.npz", "--no-timing", "--quiet", "--cpu", "vnni")
    assert invoke("compile", "matmul.onnx", "-o", "int8.onnx", *options).code == 0
    monkeypatch.setattr("qcompiler.target_files.detect_cpu", lambda: here)
    assert ("sums of products cut off" in " ".join(invoke(*VERIFY).out.split())) == there
    assert bool(json.loads(invoke(*VERIFY, "--json").out)["cut_off"]) == there


def test_verify_of_another_model(folder: Path) -> None:
    model = onnx.load("matmul.onnx")
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"
    onnx.save(model, "other.onnx")
    invoke("verify", "matmul.onnx", "other.onnx").fails(1, "other.onnx", "only matmul.onnx has output 'y'")
    invoke("verify", "matmul.onnx", "gone.onnx").fails(1, "gone.onnx", "no such file")
    Path("letter.onnx").write_text("a letter to a friend")
    invoke("verify", "matmul.onnx", "letter.onnx").fails(1, "letter.onnx")


def test_bench(compiled: Path) -> None:
    done = invoke("bench", "matmul.onnx", "int8.onnx", "--data", "matmul.npz", "--seconds", "0.2")
    assert done.code == 0, done.err
    assert "matmul.onnx" in done.out and "1.00x" in done.out and "rounds" in done.out


def test_bench_json_without_data(compiled: Path) -> None:
    done = invoke("bench", "matmul.onnx", "int8.onnx", "--json", "--seconds", "0.2", "--threads", "2")
    found = json.loads(done.out)
    first, second = found["models"]
    assert found["threads"] == 2 and first["speedup"] == 1.0
    assert second["bytes"] == Path("int8.onnx").stat().st_size
    low, high = first["quartiles_ms"]
    assert 0 < low <= first["median_ms"] <= high
    assert 0 <= first["peak_bytes"] < 2_000_000_000


def test_external_weights_count_as_size(folder: Path) -> None:
    onnx.save(onnx.load("matmul.onnx"), "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    found = json.loads(invoke("bench", "big.onnx", "--json", "--seconds", "0.1").out)
    assert found["models"][0]["bytes"] == Path("big.onnx").stat().st_size + Path("big.data").stat().st_size


def test_peak_memory_grows_with_the_model(folder: Path) -> None:
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4096, 4096), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("x", 1, [1, 4096])],
        [helper.make_tensor_value_info("y", 1, [1, 4096])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "heavy.onnx")
    heavy = json.loads(invoke("bench", "heavy.onnx", "--json", "--seconds", "0.1").out)["models"][0]["peak_bytes"]
    light = json.loads(invoke("bench", "matmul.onnx", "--json", "--seconds", "0.1").out)["models"][0]["peak_bytes"]
    if heavy:  # 0 where the system does not tell
        assert light < 40e6 and heavy > 60e6
