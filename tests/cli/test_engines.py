"""lint, verify and compile for a target that is not this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke
from pass_helpers import program
from planned import feeds, weights

from qcompiler import Options, ir
from qcompiler.cli.engines import precision_of
from qcompiler.compiler import compile
from qcompiler.target_files import load_target
from qcompiler.verify import tensorrt
from qcompiler.verify.tensorrt_log import Layer

COMPILE = ("compile", "conv.onnx", "--data", "conv.npz", "--no-timing")
ENGINE = tensorrt.Engine(
    "sm89", "1.7",
    (
        Layer("c", "correlation", ("Int8",), ("Int8", "Float"), ("Float",), ("conv1",)),
        Layer("__myl_Tanh", "kgen", ("Float",), (), ("Float",), ("tanh",)),
        Layer("d", "correlation", ("Float",), ("Float", "Float"), ("Float",), ("conv2",)),
    ),
    12_000, 0.5, 10**8,
)  # fmt: skip


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where TensorRT-RTX is not installed."""
    monkeypatch.setattr(tensorrt, "installed", lambda: False)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the builder had made ``ENGINE`` of any model."""
    monkeypatch.setattr(tensorrt, "build", lambda *_, **__: ENGINE)


def types(path: Path) -> set[str]:
    """Element types that the model's Q and DQ name by their zero points."""
    model = onnx.load(path)
    constants = {one.name: one.data_type for one in model.graph.initializer}
    kinds = {constants[node.input[2]] for node in model.graph.node if node.op_type.endswith("eLinear")}
    return {onnx.TensorProto.DataType.Name(kind) for kind in kinds}


def test_compiling_for_tensorrt_is_symmetric_and_says_that_nobody_was_asked(folder: Path, alone: None) -> None:
    done = invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt")
    assert done.code == 0, done
    assert "TensorRT-RTX is not installed" in done.out
    assert types(folder / "out.onnx") == {"INT8"}


def test_fp8(folder: Path, alone: None) -> None:
    done = invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt", "--precision", "fp8")
    assert done.code == 0, done
    assert types(folder / "out.onnx") == {"FLOAT8E4M3FN"}


def test_several_targets_share_one_calibration(folder: Path, alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompiler.calibrate import Calibration

    runs: list[int] = []
    run = Calibration.run
    monkeypatch.setattr(Calibration, "run", lambda *given: (runs.append(1), run(*given))[1])
    done = invoke(*COMPILE, "-o", "out", "--target", "ort-cpu", "--target", "tensorrt")
    assert done.code == 0, done
    assert types(folder / "out" / "conv.tensorrt.onnx") == {"INT8"}
    assert "UINT8" in types(folder / "out" / "conv.ort-cpu.onnx")
    assert len(runs) == 1


def test_several_targets_need_a_folder_and_samples(folder: Path) -> None:
    both = ("--target", "ort-cpu", "--target", "tensorrt")
    invoke(*COMPILE, *both).fails(2, "-o FOLDER")
    invoke("compile", "conv.onnx", "-o", "out", *both).fails(1, "several targets share a calibration", "--data")
    invoke(*COMPILE, "-o", "out", *both, "--plan", "p.json").fails(2, "--plan is for one target")


def test_lint_finds_nothing_in_what_we_compile(folder: Path, alone: None) -> None:
    assert invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt").code == 0
    done = invoke("lint", "out.onnx")
    assert done.code == 0 and "nothing found" in done.out


def test_lint_says_what_keeps_a_model_from_parsing(folder: Path) -> None:
    assert invoke(*COMPILE, "-o", "out.onnx").code == 0  # for the CPU: asymmetric, and int32 biases
    found = json.loads(invoke("lint", "out.onnx", "--json").out)
    assert {"T003", "T005"} <= {finding["rule"] for finding in found}
    invoke("lint", "out.onnx").fails(1, "breaks", "rules of target tensorrt")


def test_the_rules_can_be_read() -> None:
    lines = invoke("lint", "any.onnx", "--rules").out.splitlines()
    assert len(lines) >= 25 and lines[0].startswith("T001 error")


def test_verify_shows_every_kind_of_layer_and_what_stayed_in_float(folder: Path, alone: None, built: None) -> None:
    assert invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt").code == 0
    done = invoke("verify", "conv.onnx", "out.onnx", "--target", "tensorrt", "--gpu", "sm89", "--data", "conv.npz")
    assert done.code == 0, done
    assert "3 layers, 0 attentions in one kernel" in done.out
    assert "conv2 runs as correlation Float: its layer reads Float, Float, Float" in done.out
    assert "Agreement with conv.onnx on 12 samples" in done.out


def test_verify_as_json_with_a_bound(folder: Path, alone: None, built: None) -> None:
    assert invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt").code == 0
    command = ("verify", "conv.onnx", "out.onnx", "--target", "tensorrt", "--data", "conv.npz")
    found = json.loads(invoke(*command, "--json").out)
    assert found["outputs"][0]["sqnr"] > 15
    assert found["engines"][0]["kinds"] == {"correlation Float": 1, "correlation Int8": 1, "kgen Float": 1}
    assert list(found["engines"][0]["in_float"]) == ["conv2"]
    invoke(*command, "--quiet", "--min-sqnr", "200").fails(1, "less than the 200 dB asked for")


def test_verify_without_the_package_says_how_to_get_it(folder: Path, alone: None) -> None:
    done = invoke("verify", "conv.onnx", "conv.onnx", "--target", "tensorrt", "--data", "conv.npz")
    done.fails(1, "TensorRT-RTX is needed", "qcompiler-onnx[tensorrt]")


def test_an_operator_that_cannot_be_taken_is_named_before_anything_is_done(folder: Path, alone: None) -> None:
    model = onnx.load("conv.onnx")
    first = model.graph.node[0]
    model.graph.node.append(onnx.helper.make_node("NonZero", [first.output[0]], ["found"], "finder"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("found", onnx.TensorProto.INT64, [4, None]))
    onnx.save(model, "odd.onnx")
    done = invoke("compile", "odd.onnx", "-o", "out.onnx", "--target", "tensorrt", "--data", "conv.npz")
    done.fails(1, "cannot take node 'finder'", "depends on data")


@pytest.mark.parametrize("precision", ["int8", "int8+fp16"])
def test_verify_says_why_what_reads_no_codes_does_not(
    folder: Path, alone: None, built: None, precision: str
) -> None:
    command = (*COMPILE, "-o", "out.onnx", "--target", "tensorrt", "--precision", precision)
    assert invoke(*command).code == 0
    verify = ("verify", "conv.onnx", "out.onnx", "--target", "tensorrt", "--data", "conv.npz")
    (engine,) = json.loads(invoke(*verify, "--json").out)["engines"]
    assert engine["without_codes"] == {"classify": "with 8 x 4 channels it does not fill a kernel"}
    assert "1 in float: classify: with 8 x 4 channels it does not fill a kernel" in invoke(*verify).out


def test_what_another_tool_left_in_float_has_a_reason_too(folder: Path, alone: None, built: None) -> None:
    assert invoke(*COMPILE, "-o", "out.onnx", "--target", "tensorrt").code == 0
    model = onnx.load("out.onnx")
    second = next(node for node in model.graph.node if node.name == "conv2")
    rounding = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    codes = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    second.input[0] = codes[rounding[second.input[0]].input[0]].input[0]
    weight = onnx.helper.make_tensor("w", 1, [8, 8, 3, 3], np.ones(8 * 8 * 9, np.float32))
    model.graph.initializer.append(weight)
    second.input[1] = "w"
    onnx.save(model, "other.onnx")
    verify = ("verify", "conv.onnx", "other.onnx", "--target", "tensorrt", "--data", "conv.npz")
    (engine,) = json.loads(invoke(*verify, "--json").out)["engines"]
    assert engine["without_codes"]["conv2"] == "the model does not hand it codes on both sides"


def test_verify_names_the_node_that_is_not_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(model: ir.Graph | str, *_: object, **__: object) -> tensorrt.Engine:
        graph = model if isinstance(model, ir.Graph) else ir.load(model)
        if any(node.op == "Tanh" for node in graph.nodes):
            raise tensorrt.BuildError("TensorRT does not build it for sm89", why="it has no runners")
        return ENGINE

    monkeypatch.setattr(tensorrt, "build", build)
    done = invoke("verify", "conv.onnx", "conv.onnx", "--target", "tensorrt", "--data", "conv.npz")
    done.fails(1, "conv.onnx: TensorRT does not build node 'tanh' (Tanh) for sm89 (it has no runners)")


@pytest.mark.parametrize("precision", ["int8", "fp8", "int4", "nvfp4"])
def test_the_precision_of_a_model_is_told_by_its_weights(folder: Path, alone: None, precision: str) -> None:
    text = "(float[1,32,64] x) => (float[1,32,64] y) { h = MatMul(x, w) y = MatMul(h, w) }"
    graph = program(text, weights(w=(64, 64)))
    made = compile(graph, feeds(graph), target="tensorrt", precision=precision, options=Options(timing=False)).graph
    assert precision_of(made, load_target("tensorrt")) == precision
