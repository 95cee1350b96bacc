"""Models that ONNX Runtime has optimized and saved: their own operators are quantized like those they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli.programs import invoke
from pass_helpers import program
from planned import weights

import qcompiler
from qcompiler import ir
from qcompiler.compiler import Compilation
from qcompiler.runtime import Feed

UNTIMED = qcompiler.Options(timing=False)
CONV = """(float[1,3,16,16] x) => (float[1,16,16,16] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Relu(a) y = Conv(b, u) }"""
CONV_WEIGHTS = weights(w=(16, 3, 3, 3), u=(16, 16, 1, 1))
ATTENTION = """(float[1,6,32] x, int32[1,6] mask) => (float[1,6,32] y) {
    a = com.microsoft.Attention<num_heads = 4>(x, w, b, mask)
    s = com.microsoft.SkipLayerNormalization(a, x, scale, shift)
    h = MatMul(s, up) g = com.microsoft.BiasGelu(h, bias) d = MatMul(g, down)
    y = com.microsoft.SkipLayerNormalization(d, s, scale, shift) }"""
ATTENTION_WEIGHTS = {
    **weights(w=(32, 96), up=(32, 64), down=(64, 32), b=(96,), bias=(64,), shift=(32,)),
    "scale": np.ones(32, np.float32),
}


def saved(text: str, constants: dict[str, np.ndarray], level: str, path: Path) -> Path:
    """The program as ONNX Runtime saves it at that level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    model = ir.to_proto(program(text, constants)).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return path


def samples(count: int = 4) -> list[Feed]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def test_convolutions_that_are_fused(tmp_path: Path) -> None:
    path = saved(CONV, CONV_WEIGHTS, "ORT_ENABLE_EXTENDED", tmp_path / "m.onnx")
    assert "FusedConv" in {node.op for node in ir.load(path).nodes}
    result = qcompiler.compile(path, samples(), options=UNTIMED)
    assert result.report.operators["QLinearConv"] == 2 and result.report.sqnr > 25


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_a_transformer_that_is_fused(precision: str) -> None:
    random = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1, 0, 0]], np.int32)
    feeds = [{"x": random.normal(size=(1, 6, 32)).astype(np.float32), "mask": mask} for _ in range(6)]
    source = program(ATTENTION, ATTENTION_WEIGHTS)
    result = qcompiler.compile(source, feeds, precision=precision, options=UNTIMED)
    operators = result.report.operators
    quantized = sum(count for name, count in operators.items() if "MatMul" in name and name != "MatMul")
    assert quantized == 5 and "Attention" not in operators, operators
    assert result.report.sqnr > 25


def test_without_anything_to_quantize_they_stay() -> None:
    result = qcompiler.compile(program(ATTENTION, ATTENTION_WEIGHTS), precision="float", options=UNTIMED)
    assert "Attention" in {node.op for node in result.graph.nodes}


def test_weights_that_are_laid_out_for_one_cpu_are_named(tmp_path: Path) -> None:
    model = ir.to_proto(program(CONV, CONV_WEIGHTS))
    model.graph.node[0].domain = "com.microsoft.nchwc"
    model.opset_import.add(domain="com.microsoft.nchwc", version=1)
    onnx.save(model, tmp_path / "m.onnx")
    done = invoke("inspect", str(tmp_path / "m.onnx"))
    assert "1 operators of domain 'com.microsoft.nchwc' stay in float: ONNX Runtime laid their weights out" in done.out
    assert "passed through as they are" not in done.out
    (warning,) = Compilation(model, None, "ort-cpu", "int8", None, UNTIMED).warnings
    assert "compile the model that it was made from" in warning


def test_another_runtime_gets_them_taken_apart() -> None:
    source = program(ATTENTION, ATTENTION_WEIGHTS)
    result = qcompiler.compile(source, target="tensorrt", precision="fp16", options=UNTIMED)
    assert not any(node.domain for node in result.graph.nodes)
    assert sum(node.op == "MatMul" for node in result.graph.nodes) == 7
