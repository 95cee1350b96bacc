"""From a float model to one with weights of four bits, through all stages."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from four_bit_models import language_model, texts
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler import Options, Result, compiler, ir, native
from qcompiler.errors import DataError, DependencyError, TargetError
from qcompiler.target import BLOCKS
from qcompiler.verify import fused
from tools import bench_large

NATIVE = pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="no native library"))
FORMS = {"native": ("GatherInt4", "MatMulInt4"), "standard": ("GatherBlockQuantized", "MatMulNBits")}


def compiled(model: onnx.ModelProto, data: object = None, precision: str = "int4", **options: object) -> Result:
    return qcompiler.compile(model, data, precision=precision, options=Options(**{"timing": False, **options}))


def forms(result: Result) -> dict[str, str]:
    """What runs in place of the nodes in four bits."""
    return {node.name: node.form for node in result.report.nodes if node.precision == "int4"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ops", [NATIVE, "standard"])
@pytest.mark.parametrize("rounding", ["rtn", "mse", "hqq", "gptq"])
def test_all_weights_become_four_bits(ops: str, rounding: str, tied: bool) -> None:
    result = compiled(language_model(tied), texts(), ops=ops, rounding=rounding)
    gather, product = FORMS[ops]
    assert forms(result) == {"embed": gather, "up": product, "down": product, "head": product}
    assert result.report.sqnr > 14.0
    reasons = {node.reason for node in result.report.nodes if node.precision == "float"}
    assert reasons == {"only weights are quantized, and it has none or not in this form"}


@pytest.mark.parametrize("ops", [NATIVE, "standard"])
def test_a_tied_weight_is_stored_once(ops: str) -> None:
    tied, apart = (compiled(language_model(tied), ops=ops).report.compiled_bytes for tied in (True, False))
    assert apart - tied >= 96 * 64 // 2


@pytest.mark.parametrize("ops", [NATIVE, "standard"])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks(ops: str, block: str) -> None:
    result = compiled(language_model(words=512, width=256, hidden=512), texts(), ops=ops, block=block)
    assert len(forms(result)) == 4 and result.report.sqnr > 12.0
    assert result.report.compiled_bytes < result.report.source_bytes / 4


def test_a_gemm_that_reads_its_weight_transposed_is_not_dequantized_at_every_call() -> None:
    weight = np.random.default_rng(0).normal(size=(96, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["E", "ids"], ["x"], "embed"),
        helper.make_node("Gemm", ["x", "E"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [numpy_helper.from_array(weight, "E")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for ops in ("standard", "native") if native.available() else ("standard",):
        result = compiled(model, ops=ops)
        assert forms(result) == dict(zip(("embed", "head"), FORMS[ops]))
        assert "DequantizeLinear" not in fused.optimize(result.graph).histogram()


@pytest.mark.parametrize("ops", [NATIVE, "standard"])
@pytest.mark.parametrize("turned", [0, 1])
def test_the_bias_of_a_gemm_stays_in_float(turned: int, ops: str) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(256, 128)).astype(np.float32), random.normal(size=128).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W", "b"], ["y"], "product", transB=turned)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 128])],
        [numpy_helper.from_array(weight.T if turned else weight, "W"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = compiled(model, ops=ops)
    assert forms(result) == {"product": FORMS[ops][1]} and result.report.sqnr > 15.0


@pytest.mark.skipif(not native.available(), reason="no native library")
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_weight_takes_what_it_takes_with_float16_scales(kind: int) -> None:
    weight = np.random.default_rng(0).normal(size=(512, 1024)).astype(helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", kind, ["n", 512])],
        [helper.make_tensor_value_info("y", kind, ["n", 1024])],
        [numpy_helper.from_array(weight, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = compiled(model, ops="native", block="32", rounding="rtn")
    assert result.report.compiled_bytes < weight.size * (0.5 + 2 / 32) + 2000
    assert result.model.graph.output[0].type.tensor_type.elem_type == kind


def test_nothing_that_the_runtime_would_dequantize_at_every_call_stays_in_four_bits() -> None:
    result = compiled(language_model(), ops="standard", passes=("-fuse-nbits",))  # the trap is open
    assert "DequantizeLinear" not in fused.optimize(result.graph).histogram()
    assert "embed" not in forms(result)
    assert any("the runtime does not fuse it" in decision for decision in result.report.decisions)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("A", np.ones((64, 100), np.float32), ""),
        ("A", np.full((64, 128), np.nan, np.float32), "weight 'A' has values that are not finite"),
        ("B", np.ones((16, 32), np.float32), "its weight of 512 numbers is too small for four bits to pay"),
        ("B", np.ones((40, 64), np.float32), "its 40 terms are no multiple of 32"),
    ],
)
@pytest.mark.parametrize("rounding", ["rtn", "mse", "hqq"])
def test_what_stays_in_float_is_told_why(name: str, values: np.ndarray, reason: str, rounding: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", values.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", values.shape[1]])],
        [numpy_helper.from_array(values, name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (node,) = compiled(model, rounding=rounding, ops="standard").report.nodes
    assert (node.precision, reason in node.reason) == ("float" if reason else "int4", True)


def test_a_weight_on_the_left_stays_in_float() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["W", "x"], ["y"], "product")],
        "left",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, "n"])],
        [numpy_helper.from_array(np.ones((64, 64), np.float32), "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (node,) = compiled(model).report.nodes
    assert (node.precision, "'W' is on the left" in node.reason) == ("float", True)


def test_without_the_library_the_runtimes_operators_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.library, "_find", lambda: None)
    result = compiled(language_model())
    assert set(forms(result).values()) == set(FORMS["standard"])
    assert any("native library" in warning for warning in result.report.warnings)
    with pytest.raises(DependencyError, match="the native library is missing"):
        compiled(language_model(), ops="native")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rounding": "gptq"}, DataError, r"gptq rounds weights .* give data \(--data\), or use --rounding mse"),
        ({"rounding": "up"}, TargetError, "no way to round 'up'.*rtn, mse, hqq, gptq"),
        ({"block": "48"}, TargetError, "no blocks of '48'.*16, 32, 64, 128, 256, channel"),
        ({"block": "32", "precision": "float"}, TargetError, "weights of four bits.*--precision int4"),
        ({"rounding": "rtn", "precision": "int8-dynamic"}, TargetError, "weights of four bits.*--precision int4"),
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        compiled(language_model(), **options)


def test_a_plan_is_replayed() -> None:
    result = compiled(language_model(), texts(), rounding="gptq", ops="standard")
    plan = type(result.plan).from_json(result.plan.to_json())
    again = qcompiler.compile(language_model(), plan=plan, precision="int4", options=Options(ops="standard"))
    assert again.model.SerializeToString() == result.model.SerializeToString()


@pytest.mark.parametrize("ops", [NATIVE, "standard"])
def test_a_model_that_memory_has_no_room_for(ops: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(language_model(), path, save_as_external_data=True, size_threshold=0)
    small = compiled(str(path), ops=ops, rounding="rtn", passes=("-fold-scale-shift",))
    monkeypatch.setattr(compiler, "available_bytes", lambda: 1000)
    large = compiled(str(path), ops=ops, rounding="rtn")
    assert large.report.outputs == [] and any("memory has no room" in text for text in large.report.warnings)
    assert forms(large) == forms(small)
    monkeypatch.undo()
    a, b = (fused_outputs(result) for result in (small, large))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gptq_of_a_model_that_memory_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(language_model(), path, save_as_external_data=True, size_threshold=0)
    left_out = ("-fold-scale-shift", "-scale-salient")
    small = compiled(str(path), texts(), ops="standard", rounding="gptq", passes=left_out)
    monkeypatch.setattr(compiler, "available_bytes", lambda: 1000)
    large = compiled(str(path), texts(), ops="standard", rounding="gptq")
    assert forms(large) == forms(small)
    monkeypatch.undo()
    np.testing.assert_allclose(fused_outputs(large), fused_outputs(small), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_memory_of_gptq_does_not_follow_the_number_of_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own arrays at their most, while weights are rounded; what the runtime holds is one stage's, from a file."""
    monkeypatch.setattr(compiler, "available_bytes", lambda: 1000)
    random, found = np.random.default_rng(0), []
    feeds = [{"ids": random.integers(0, 64, (1, 32))} for _ in range(4)]
    for layers in (1, 6):
        path = tmp_path / f"{layers}.onnx"
        size = bench_large.write(path, layers * 5e6, width=320, vocabulary=64)
        tracemalloc.start()
        job = compiler.Compilation(str(path), feeds, "ort-cpu", "int4", None, Options(ops="standard", rounding="gptq"))
        job.clean()
        job.decide()
        found.append((size, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    (small, few), (large, many) = found
    assert large - small > 24e6 and many - few < (large - small) / 3


@pytest.mark.slow
def test_two_and_a_half_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = tmp_path / "model.onnx", tmp_path / "compiled.onnx"
    bench_large.write(path, 2.5e9)
    monkeypatch.setattr(compiler, "available_bytes", lambda: int(4e9))
    result = compiled(str(path), ops="standard", rounding="rtn", block="32")
    result.save(output)
    assert set(forms(result).values()) == set(FORMS["standard"])
    weights = {one.name: one for one in onnx.load(path, load_external_data=False).graph.initializer}
    stored = ir.load(output)
    (product,) = (node for node in stored.nodes if node.name == "head_")
    packed, scales = product.inputs[1].values, product.inputs[2].values
    head = np.memmap(path.with_name("model.onnx.data"), np.float32, "r", int(weights["head"].external_data[1].value))
    exact = head[: 4096 * 32000].reshape(4096, 32000)[:, :3].T.reshape(3, 128, 32)
    codes = np.stack([packed[:3] & 15, packed[:3] >> 4], axis=-1).reshape(3, 128, 32).astype(np.float32) - 8
    assert np.all(np.abs(codes * scales[:3, :, None] - exact) <= np.abs(scales[:3, :, None]) * 1.0001)


def fused_outputs(result: Result) -> np.ndarray:
    from qcompiler.runtime import run, session

    with session(result.graph) as model:
        return run(model, texts(1)[0])[0]
