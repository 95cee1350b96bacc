"""inspect, passes, targets and the help texts; how quickly the command starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke, run
from onnx import numpy_helper

from qcompiler import registry

COMMANDS = (
    "bench", "calibrate", "compile", "inspect", "merge", "passes", "plan", "report", "stats", "targets", "verify"
)  # fmt: skip


def test_inspect(folder: Path) -> None:
    done = invoke("inspect", "conv.onnx")
    assert done.code == 0 and done.err == ""
    for expected in (
        "opset 17", "x: float32[n, 3, 16, 16]", "y: float32[n, 4]", "Conv ×2", "not fused", "No problems found",
    ):  # fmt: skip
        assert expected in done.out, done.out
    assert re.search(r"float32 +8 ", done.out)


def test_inspect_looks_into_bodies(folder: Path) -> None:
    done = invoke("inspect", "if.onnx")
    assert "MatMul ×2" in done.out and "2 of 3 nodes can be quantized" in done.out


def test_inspect_names_problems(folder: Path) -> None:
    model = onnx.load("matmul.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    model.graph.node[1].domain = "mine"
    model.opset_import.add(domain="mine", version=1)
    onnx.save(model, "m.onnx")
    done = invoke("inspect", "m.onnx", "--verbose")
    assert "weight 'w1' has values that are not finite" in done.out
    assert "domain 'mine'" in done.out and "first" in done.out


def test_inspect_knows_our_own_operators(folder: Path) -> None:
    model = onnx.load("matmul.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0])
    codes = numpy_helper.from_array(np.ones(weight.shape, np.int8), "w1")
    model.graph.initializer[0].CopyFrom(codes)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(weight.shape[1], np.float32), "scales"))
    product = model.graph.node[0]
    read, made = [*product.input, "scales"], product.output
    product.CopyFrom(onnx.helper.make_node("MatMulInt8", read, made, domain="qcompiler"))
    model.opset_import.add(domain="qcompiler", version=1)
    onnx.save(model, "m.onnx")
    done = invoke("inspect", "m.onnx")
    assert "an operator of ours, which is quantized already" in done.out
    assert "the model is quantized already" in done.out and "passed through" not in done.out


def test_inspect_knows_what_tables_stand_for(folder: Path) -> None:
    model = onnx.load("conv.onnx")
    model.graph.node.append(onnx.helper.make_node("TableLookup", ["y", "entries"], ["z"], "gate", domain="qcompiler"))
    model.opset_import.add(domain="qcompiler", version=1)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(256, np.float32), "entries"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    model.metadata_props.add(key="qcompiler.tables", value='{"gate": ["sigmoid", "mul"]}')
    onnx.save(model, "m.onnx")
    done = invoke("inspect", "m.onnx", "--verbose")
    assert "1 table stands for 2 nodes" in done.out and "gate: sigmoid, mul" in done.out


def test_inspect_graph(folder: Path) -> None:
    done = invoke("inspect", "if.onnx", "--graph")
    assert done.out.startswith("graph small (") and "      then_y" in done.out
    assert "MatMul(x, then_w:float32[16, 8])" in done.out


def test_passes() -> None:
    done = invoke("passes")
    for name, one in registry.available().items():
        assert name in done.out and one.semantics.value in done.out
    one = invoke("passes", "raise-opset")
    assert "raise-opset (exact)" in one.out or "raise-opset (algebraic)" in one.out
    assert "opset: int = " in one.out and "1. Attributes that became inputs" in one.out


def test_targets() -> None:
    assert "ort-cpu" in invoke("targets").out
    one = invoke("targets", "ort-cpu", "--cpu", "avx2").out
    assert "ONNX Runtime on a CPU" in one and "* avx2" in one and "Conv" in one and "Softmax" in one


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    for flag in ("--help", "-h"):
        done = invoke(command, flag)
        assert done.code == 0 and f"Usage: qcompiler {command}" in done.out and "--debug" in done.out


def test_every_command_is_in_the_help() -> None:
    text = invoke("--help").out
    assert all(re.search(rf"^  {command} ", text, re.M) for command in COMMANDS)
    assert invoke("--version").out.startswith("qcompiler, version ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from qcompiler.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'onnx_graphsurgeon', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    import qcompiler

    assert all(getattr(qcompiler, name) is not None for name in qcompiler.__all__)
    assert set(qcompiler.__all__) <= set(dir(qcompiler))
    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        _ = qcompiler.compiel


def test_as_a_process(folder: Path) -> None:
    done = run("inspect", "conv.onnx", cwd=folder)
    assert done.code == 0 and done.err == "" and "\x1b" not in done.out
