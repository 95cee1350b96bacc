"""What the builder itself says; it is installed with the extra ``tensorrt``."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, weights

from qcompiler import Options, ir
from qcompiler.compiler import compile
from qcompiler.errors import DataError, DependencyError, TargetError, VerificationError
from qcompiler.verify import tensorrt, tensorrt_culprit

RELU = "(float[n,4] x) => (float[n,4] y) { y = Relu(x) }"


def test_shapes_come_from_the_samples() -> None:
    graph = program(RELU)
    shapes = tensorrt.shapes_of(graph.inputs, [{"x": np.zeros((rows, 4), np.float32)} for rows in (3, 2, 3, 9)])
    assert shapes == {"x": ([2, 4], [3, 4], [9, 4])}


def test_values_of_an_input_that_may_be_a_shape_come_from_the_samples() -> None:
    graph = program("(float[4] x, int64[2] s) => (float y) { y = Reshape(x, s) }")
    given = [{"x": np.zeros(4, np.float32), "s": np.array(s)} for s in ([4, 1], [2, 2])]
    assert tensorrt.values_of(graph.inputs, given) == {"s": ([2, 1], [4, 1], [4, 2])}


def test_a_free_shape_without_samples_is_an_error() -> None:
    graph = program(RELU)
    with pytest.raises(DataError, match="shape of input 'x' is not fixed"):
        tensorrt.build(graph, "sm89", graph.inputs, [])


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    graph = program(RELU)
    with pytest.raises(DependencyError, match=r"pip install 'qcompiler-onnx\[tensorrt\]'"):
        tensorrt.build(graph, "sm89", graph.inputs, feeds(graph))


def answering(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: True)
    monkeypatch.setattr(subprocess, "run", act)


def test_a_builder_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    answering(monkeypatch, hangs)
    graph = program(RELU)
    with pytest.raises(VerificationError, match="took longer than 5 s"):
        tensorrt.build(graph, "sm89", graph.inputs, feeds(graph), seconds=5)


def test_a_builder_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda command, **_: subprocess.CompletedProcess(command, -11, "", ""))
    graph = program(RELU)
    with pytest.raises(VerificationError, match=r"ended without an answer .*signal 11"):
        tensorrt.build(graph, "sm89", graph.inputs, feeds(graph))


@pytest.mark.parametrize(
    "message, why",
    [
        ("Assertion failed: a == b: shapes differ", "shapes differ"),
        ("no plugin of this name", "no plugin of this name"),
        ("false", "its parser gives no reason"),
        ("Network input x is a shape tensor and must have type Int32 or Int64. Type is Float.", tensorrt.OF_VALUES),
    ],
)
def test_a_refusal_says_what_the_parser_does(message: str, why: str) -> None:
    error = tensorrt.refusal([{"node": "odd", "operator": "Odd", "message": message}], "m.onnx")
    assert str(error).startswith(f"m.onnx: TensorRT does not parse node 'odd' (Odd) ({why})")


@pytest.mark.fetched
def test_an_operator_that_does_not_parse_is_named() -> None:
    graph = program("(float[2,4] x) => (float[2,4] y) { r = Relu(x) y = custom.Odd(r) }")
    with pytest.raises(VerificationError, match=r"does not parse node 'Odd_1' \(Odd\)"):
        tensorrt.build(graph, "sm89", graph.inputs, [])


MESSAGES = [
    (
        "[supply.cpp::formats::48] Error Code 2: Internal Error (Assertion !a.empty() failed. Odd_0 has no runners "
        "that implement it In formats at /_src/optimizer/builder/supply.cpp:48)",
        "Error Code 2: Internal Error (Assertion !a.empty() failed. Odd_0 has no runners that implement it)",
    ),
    (
        "Internal Error (Assertion a failed. In check at /_src/optimizer/analyzer.cpp:2155) [macros.cpp::check::2] "
        "Error Code 1: Cuda Runtime (In check at /_src/common/macros.cpp:250 (cudaError 35: CUDA driver version))",
        "Internal Error (Assertion a failed.)",
    ),
    ("it is not known", "it is not known"),
]


@pytest.mark.parametrize("message, rest", MESSAGES)
def test_messages_are_shown_without_places_in_the_sources_of_tensorrt(message: str, rest: str) -> None:
    assert tensorrt.plain(message) == rest


@pytest.mark.fetched
@pytest.mark.parametrize("node", ["y = Reshape(r, k)", "y = Tile(r, k)", "y, i = TopK(r, k)", "y = Slice(r, one, k)"])
def test_a_shape_that_depends_on_values_is_said_to(node: str) -> None:
    text = f"(float[8] x) => (float y) {{ r = Relu(x) m = ReduceMax(r) k = Cast<to = 7>(m) {node} }}"
    graph = program(text, {"one": [0]})
    with pytest.raises(VerificationError, match=r"does not parse node .*a shape is computed from values"):
        tensorrt.build(graph, "sm89", graph.inputs, [])


@pytest.mark.fetched
def test_a_node_that_the_builder_has_no_kernel_of_is_found() -> None:
    text = """(float[1,6,4] b, float[1,2,6] s) => (int64[k,3] y) {
        r = Relu(b) m = Constant<value = int64[1] {3}>() n = NonMaxSuppression(r, s, m) y = Identity(n) }"""
    graph = program(text)
    with pytest.raises(tensorrt.BuildError) as failed:
        tensorrt.build(graph, "sm89", graph.inputs, feeds(graph))
    found = tensorrt_culprit.named(failed.value, graph, "sm89", feeds(graph), "m.onnx")
    assert str(found).startswith("m.onnx: TensorRT does not build node 'NonMaxSuppression_1' (NonMaxSuppression)")


@pytest.mark.fetched
def test_a_gpu_that_is_not_built_for_is_refused() -> None:
    graph = program("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    with pytest.raises(TargetError, match=r"builds for no 'sm10'; use one of .*sm89"):
        tensorrt.build(graph, "sm10", graph.inputs, [])


@pytest.mark.fetched
def test_without_a_gpu_a_run_is_not_tried() -> None:
    graph = program("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    with pytest.raises(DependencyError, match="could not be tried on a GPU"):
        tensorrt.run(graph, graph.inputs, feeds(graph))  # type: ignore[arg-type]


NETWORK = """(float[1,16,16,16] x) => (float[1,64] y) {
    a = Conv<pads = [1,1,1,1]>(x, w) r = Relu(a) b = Conv<pads = [1,1,1,1]>(r, w) s = Add(b, r) c = Relu(s)
    p = AveragePool<kernel_shape = [4,4], strides = [4,4]>(c) f = Reshape(p, shape) m = MatMul(f, fc) y = Tanh(m)
}"""


@pytest.mark.fetched
@pytest.mark.parametrize("precision, kind", [("int8", "Int8"), ("int8+fp16", "Int8"), ("fp8", "FP8")])
@pytest.mark.parametrize("gpu", ["sm89", "sm120"])
def test_what_was_meant_runs_in_few_bits(precision: str, kind: str, gpu: str) -> None:
    graph = program(NETWORK, {**weights(w=(16, 16, 3, 3), fc=(16, 64)), "shape": np.array([16, 16])})
    options = Options(timing=False, gpu=gpu, observer="mse")  # percentiles of four samples say little
    result = compile(graph, feeds(graph), target="tensorrt", precision=precision, options=options)
    assert result.plan is not None and {"Conv_0", "Conv_2", "MatMul_7"} <= result.plan.intended
    ran = {node.name: node.form for node in result.report.nodes}
    assert ran["Conv_0"] == ran["Conv_2"] == f"correlation {kind}"
    assert ran["MatMul_7"].endswith(kind)
    assert result.report.sqnr > (10.0 if kind == "FP8" else 20.0)


@pytest.mark.fetched
def test_a_product_in_fp4_is_one_on_both_sides() -> None:
    text = "(float[n,16,64] x) => (float[n,16,64] y) { a = MatMul(x, w) t = Tanh(a) y = MatMul(t, v) }"
    graph = program(text, weights(w=(64, 64), v=(64, 64)))
    result = compile(graph, feeds(graph), target="tensorrt", precision="nvfp4", options=Options(timing=False))
    ran = {node.name: node.form for node in result.report.nodes}
    assert ran["MatMul_0"] == ran["MatMul_2"] == "gemm FP4E2M1"
    assert {node.name for node in result.report.nodes if node.precision == "fp4"} == {"MatMul_0", "MatMul_2"}
    assert result.report.sqnr > 10.0 and result.report.runtime.endswith("built for sm120")


ATTENTION = """(float[1,64,64] x) => (float[1,64,64] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
    qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
    qt = Transpose<perm = [0,2,1,3]>(qr) kt = Transpose<perm = [0,2,3,1]>(kr) vt = Transpose<perm = [0,2,1,3]>(vr)
    a = MatMul(qt, kt) d = Div(a, root) e = Add(d, mask) p = Softmax<axis = -1>(e) o = MatMul(p, vt)
    t = Transpose<perm = [0,2,1,3]>(o) r = Reshape(t, rows) y = MatMul(r, wo)
}"""


def attention(heads: int) -> ir.Graph:
    """Of width 64 over 64 rows, the last four of which are masked."""
    made = {name: values / 8 for name, values in weights(wq=(64, 64), wk=(64, 64), wv=(64, 64), wo=(64, 64)).items()}
    made["mask"] = np.where(np.arange(64) < 60, 0, -1e4).astype(np.float32).reshape(1, 1, 1, 64)
    made["root"] = np.float32(np.sqrt(64 // heads))
    return program(ATTENTION, {**made, "heads": np.array([1, 64, heads, 64 // heads]), "rows": np.array([1, 64, 64])})


@pytest.mark.fetched
@pytest.mark.parametrize("precision, kind", [("int8", "Int8"), ("fp16", "Half"), ("fp8", "FP8")])
def test_attention_stays_one_kernel(precision: str, kind: str) -> None:
    graph = attention(2)
    result = compile(graph, feeds(graph), target="tensorrt", precision=precision, options=Options(timing=False))
    assert result.report.operators.get(f"attention {kind}") == 1, result.report.operators


@pytest.mark.fetched
def test_attention_that_is_one_kernel_only_in_16_bits_is_computed_in_them() -> None:
    graph = attention(64)  # a head of width one has no kernel in 8 bits
    result = compile(graph, feeds(graph), target="tensorrt", options=Options(timing=False))
    assert result.plan is not None and not {"MatMul_9", "MatMul_13"} & result.plan.intended
    assert "its attention does not become one kernel" in result.plan.kept["MatMul_9"]


@pytest.mark.fetched
def test_zero_points_cost_no_layer() -> None:
    text = """(float[1,16,16,16] x) => (float[1,16,16,16] y) {
        c = Conv(x, v, b) r = Relu(c) d = Conv<group = 16, pads = [1, 1, 1, 1]>(r, w, b)
        s = HardSwish(d) e = Conv(s, v) y = Add(e, x) }"""
    graph = program(text, weights(v=(16, 16, 1, 1), w=(16, 1, 3, 3), b=(16,)))
    samples = feeds(graph, 8)
    engines = []
    for passes in ((), ("-spell-zero-points",)):
        made = compile(graph, samples, target="tensorrt", options=Options(timing=False, gpu="sm89", passes=passes))
        points = [node.inputs[2].values for node in made.graph.nodes if node.op == "QuantizeLinear"]
        assert points and not any(point.any() for point in points)
        assert any(node.op == "Pad" for node in made.graph.nodes) is not bool(passes)
        engines.append(tensorrt.build(made.graph, "sm89", graph.inputs, samples))
    spelled, plain = ([layer.coded for layer in engine.heavy()] for engine in engines)
    assert spelled == plain == ["Int8"] * 3
    assert len(engines[0].layers) <= len(engines[1].layers)


@pytest.mark.fetched
def test_a_pooled_sequence_costs_no_kernel_of_its_own() -> None:
    text = "(float[1,256,510] x) => (float[1,512,1] y) { c = Conv(x, w) r = Relu(c) p = GlobalMaxPool(r) y = Neg(p) }"
    graph = program(text, weights(w=(512, 256, 5)))
    samples = feeds(graph, 2)
    counts = []
    for passes in ((), ("-pool-as-image",)):
        made = compile(graph, samples, target="tensorrt", options=Options(timing=False, gpu="sm89", passes=passes))
        counts.append(len(tensorrt.build(made.graph, "sm89", graph.inputs, samples).layers))
    assert counts[0] < counts[1]
