"""What is done when the builder left in float what was meant to run on codes; the builder is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pass_helpers import ops, program
from planned import feeds, weights

from qcompiler import Options, ir
from qcompiler.compiler import Result, compile
from qcompiler.errors import TargetError, VerificationError
from qcompiler.plan import Plan
from qcompiler.search.ahead import HALF, between
from qcompiler.verify import tensorrt
from qcompiler.verify.tensorrt_log import Layer

CHAIN = "(float[16,64] x) => (float[16,64] y) { a = MatMul(x, w) t = Tanh(a) y = MatMul(t, v) }"
ATTENTION = """(float[1,4,32,32] q, float[1,4,32,32] k, float[1,4,32,32] v) => (float[1,4,32,32] y) {
    a = MatMul(q, k) d = Div(a, root) p = Softmax<axis = -1>(d) y = MatMul(p, v)
}"""


def layer(node: str, coded: bool, name: str = "gemm") -> Layer:
    kind = "Int8" if coded else "Half" if name.startswith("_gemm") else "Float"
    return Layer(name, "gemm", (kind, kind), (), ("Float",), (node,))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[ir.Graph], Sequence[Layer]]], list[ir.Graph]]:
    """Installs a builder: a function from the graph to the layers of its engine. Returns the graphs it is given; the
    first is in float, as what is not built at all is refused before calibration."""
    given: list[ir.Graph] = []

    def install(builder: Callable[[ir.Graph], Sequence[Layer]]) -> list[ir.Graph]:
        def build(graph: ir.Graph, gpu: str, *_: Any, **__: Any) -> tensorrt.Engine:
            given.append(graph)
            return tensorrt.Engine(gpu, "1.7", tuple(builder(graph)), 0, 0.0, 0)

        monkeypatch.setattr(tensorrt, "installed", lambda: True)
        monkeypatch.setattr(tensorrt, "build", build)
        return given

    return install


def compiled(graph: ir.Graph) -> Result:
    return compile(graph, feeds(graph), target="tensorrt", options=Options(timing=False, gpu="sm80"))


def reads_codes(graph: ir.Graph, name: str) -> bool:
    node = next(node for node in graph.nodes if node.name == name)
    makers = [ir.producer(tensor) for tensor in node.inputs]
    return all(maker is not None and maker.op == "DequantizeLinear" for maker in makers)


def test_what_runs_on_codes_stays(played: Any) -> None:
    given = played(lambda graph: [layer("MatMul_0", True), layer("MatMul_2", True)])
    result = compiled(program(CHAIN, weights(w=(64, 64), v=(64, 64))))
    assert len(given) == 2 and result.plan is not None and result.plan.decisions == ()
    assert result.report.runtime == "tensorrt-rtx 1.7, built for sm80"


@pytest.mark.parametrize("precision, gpu, least", [("fp8", "sm80", "sm89"), ("nvfp4", "sm89", "sm100")])
def test_types_that_a_gpu_lacks_are_refused_before_anything_is_read(precision: str, gpu: str, least: str) -> None:
    options = Options(timing=False, gpu=gpu)
    with pytest.raises(TargetError, match=f"--precision {precision} needs {least} or later, not {gpu}; use --gpu sm"):
        compile("missing.onnx", None, target="tensorrt", precision=precision, options=options)


@pytest.mark.parametrize(
    "options, words",
    [
        (Options(block="32"), "there are no blocks of '32'; use one of 64, 128"),
        (Options(rounding="hqq"), "its kernels have no zero points for weights of four bits; use another --rounding"),
    ],
)
def test_4_bit_weights_that_no_kernel_reads_are_refused(options: Options, words: str) -> None:
    graph = program(CHAIN, weights(w=(64, 64), v=(64, 64)))
    with pytest.raises(TargetError, match=words):
        compile(graph, None, target="tensorrt", precision="int4", options=options)


def test_what_the_builder_computes_in_float_gets_no_codes_and_a_reason(played: Any) -> None:
    given = played(lambda graph: [layer("MatMul_0", True), layer("MatMul_2", False)])
    result = compiled(program(CHAIN, weights(w=(64, 64), v=(64, 64))))
    assert len(given) == 3 and result.plan is not None
    assert result.plan.intended == {"MatMul_0"}
    assert result.plan.kept["MatMul_2"] == "the builder leaves it in float: its layer reads Float, Float"
    assert reads_codes(result.graph, "MatMul_0") and not reads_codes(result.graph, "MatMul_2")


def split(graph: ir.Graph) -> list[Layer]:
    """An attention that is one kernel in 16 bits only."""
    half = any(node.op == "Cast" for node in graph.nodes)
    name = "_gemm_mha_v2" if half else "gemm"
    return [layer(node.name, False, name) for node in graph.nodes if node.op == "MatMul"]


def test_an_attention_that_is_one_kernel_in_16_bits_only_is_computed_in_them(played: Any) -> None:
    played(split)
    graph = program(ATTENTION, {"root": np.float32(5.5)})
    result = compiled(graph)
    assert result.plan is not None and result.plan.intended == frozenset()
    halves = [set(decision.where) for decision in result.plan.decisions if decision.action == HALF]
    assert halves == [{"MatMul_0", "Div_1", "Softmax_2", "MatMul_3"}]
    assert ops(result.graph).count("Cast") == 4 and "QuantizeLinear" not in ops(result.graph)
    again = compile(graph, feeds(graph), target="tensorrt", plan=result.plan, options=Options(timing=False))
    assert ir.to_proto(again.graph).SerializeToString() == ir.to_proto(result.graph).SerializeToString()


def test_an_attention_that_is_never_one_kernel_stays_in_float(played: Any) -> None:
    played(lambda graph: [layer(node.name, False) for node in graph.nodes if node.op == "MatMul"])
    result = compiled(program(ATTENTION, {"root": np.float32(5.5)}))
    assert set(ops(result.graph)) == {"MatMul", "Div", "Softmax"}


def test_between_two_products_lies_what_leads_through_the_softmax() -> None:
    graph = program(
        """(float[4,4] q, float[4,4] k, float[4,4] v) => (float y, float z) {
            a = MatMul(q, k) d = Div(a, q) z = Relu(d) p = Softmax(d) y = MatMul(p, v)
        }"""
    )
    products = [node for node in graph.nodes if node.op == "MatMul"]
    assert between(graph, products) == {"MatMul_0", "Div_1", "Softmax_3", "MatMul_4"}


def test_a_plan_of_fp4_makes_the_same_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    graph = program(CHAIN, weights(w=(64, 64), v=(64, 64)))
    options = Options(timing=False)
    first = compile(graph, feeds(graph), target="tensorrt", precision="nvfp4", options=options)
    assert first.plan is not None and first.plan.intended == {"MatMul_0", "MatMul_2"}
    plan = Plan.from_json(first.plan.to_json())
    again = compile(graph, feeds(graph), target="tensorrt", precision="nvfp4", plan=plan, options=options)
    assert again.model.SerializeToString() == first.model.SerializeToString()


@pytest.mark.parametrize("precision", ["fp8", "int8+fp16"])
def test_biases_are_corrected_in_other_types_too(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    text = "(float[1,8,8,8] x) => (float[1,8,8,8] y) { c = Conv(x, w, b) r = Clip(c, zero, six) y = Conv(r, v, d) }"
    ends = {"zero": np.float32(0), "six": np.float32(6)}
    graph = program(text, {**weights(w=(8, 8, 1, 1), v=(8, 8, 1, 1), b=(8,), d=(8,)), **ends})
    made = compile(graph, feeds(graph, 8), target="tensorrt", precision=precision, options=Options(timing=False))
    assert made.plan is not None and made.plan.intended == {"Conv_0", "Conv_2"}
    assert made.report.outputs[0].sqnr > 20.0


def test_biases_are_corrected_where_the_outputs_gain_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: False)
    text = "(float[1,8,8,8] x) => (float[1,8,8,8] y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v, d) }"
    graph = program(text, weights(w=(8, 8, 1, 1), v=(8, 8, 1, 1), b=(8,), d=(8,)))
    samples = feeds(graph, 16)

    def made(*passes: str) -> Result:
        options = Options(timing=False, passes=passes)
        return compile(graph, samples, target="tensorrt", options=options)

    plain, corrected = made("-correct-bias", "-round-weights"), made("-round-weights")
    assert corrected.plan is not None and plain.plan is not None
    assert corrected.plan.shifts and not plain.plan.shifts
    assert [decision.action for decision in corrected.plan.decisions] == ["biases corrected"]
    assert corrected.report.outputs[0].sqnr > plain.report.outputs[0].sqnr


def test_a_model_is_built_before_it_is_calibrated_and_the_node_that_stops_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(graph: ir.Graph, gpu: str, *_: Any, **__: Any) -> tensorrt.Engine:
        if any(node.op == "Mod" for node in graph.nodes):
            raise tensorrt.BuildError(f"TensorRT does not build it for {gpu}", why="it has no runners")
        return tensorrt.Engine(gpu, "1.7", (), 0, 0.0, 0)

    monkeypatch.setattr(tensorrt, "installed", lambda: True)
    monkeypatch.setattr(tensorrt, "build", build)
    text = """(float[16,64] x) => (float[16,64] y) {
        a = MatMul(x, w) t = Tanh(a) odd = Mod<fmod = 1>(t, a) s = Add(odd, t) y = MatMul(s, w) }"""
    graph = program(text, weights(w=(64, 64)))
    stages: list[str] = []
    options = Options(timing=False, progress=lambda stage, *_: stages.append(stage))
    with pytest.raises(VerificationError, match=r"does not build node 'Mod_2' \(Mod\) for sm89 \(it has no runners\)"):
        compile(graph, feeds(graph), target="tensorrt", options=options)
    assert "clean" in stages and "calibrate" not in stages
