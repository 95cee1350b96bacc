"""INT8 with the operators of our library, from a program to what runs; and without them, as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import placed, weights

import qcompiler
from qcompiler import native, runtime, tables
from qcompiler.plan import Plan
from qcompiler.search.refine import regions_of
from qcompiler.target_files import load_target

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))
SILU = "(float[1,3,8,8] x) => (float y) { c = Conv(x, w) g = Sigmoid(c) m = Mul(c, g) y = Conv(m, v) }"
needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(6)]


def compiled(ops: str, timing: bool = False, target: object = "ort-cpu") -> qcompiler.Result:
    options = qcompiler.Options(timing=timing, ops=ops)
    return qcompiler.compile(program(SILU, CONV, opset=20, ir_version=9), feeds(), target=target, options=options)


def test_standard_operators_make_what_they_made_without_tables() -> None:
    bare = load_target("ort-cpu")
    bare = replace(bare, elementwise=(), pipeline={k: v for k, v in bare.pipeline.items() if k != "native"})
    one, other = compiled("standard"), compiled("standard", target=bare)
    assert one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(deterministic=True)
    assert one.plan is not None and other.plan is not None and one.plan.to_json() == other.plan.to_json()
    assert tables.DOMAIN not in {domain.domain for domain in one.model.opset_import} and not one.graph.metadata


@needs_library
def test_the_report_tells_what_tables_stand_for() -> None:
    report = compiled("native").report
    fates = {node.name: node for node in report.nodes}
    assert report.operators[tables.OPERATOR] == 1
    assert (fates["Mul_2"].precision, fates["Mul_2"].form) == ("int8", tables.OPERATOR)
    assert (fates["Sigmoid_1"].precision, fates["Sigmoid_1"].form) == ("int8", tables.OPERATOR)
    assert fates["Sigmoid_1"].reason == "in one table with the nodes up to 'Mul_2'"


@needs_library
def test_the_model_is_no_further_from_float_than_without_tables() -> None:
    tables_left_out = qcompiler.Options(timing=False, ops="native", passes=("-fuse-tables",))
    graph = program(SILU, CONV, opset=20, ir_version=9)
    unfused = qcompiler.compile(graph, feeds(), plan=compiled("native").plan, options=tables_left_out)
    assert tables.OPERATOR not in unfused.report.operators
    assert compiled("native").report.sqnr >= unfused.report.sqnr - 1e-3


@needs_library
def test_a_table_is_given_back_to_float_as_a_whole() -> None:
    text = "(float[1,3,8,8] x) => (float y) { c = Conv(x, w) a = Exp(c) b = Abs(a) y = Conv(b, v) }"
    graph = program(text, CONV)
    plan = Plan(intended=frozenset({"Conv_0", "Exp_1", "Abs_2", "Conv_3"}), sites=placed(graph).sites)
    assert {"Exp_1", "Abs_2"} in regions_of(plan, [["Exp_1", "Abs_2"]])


@needs_library
def test_what_is_kept_in_float_is_in_no_table() -> None:
    recipe = {"keep_float": ["op:Sigmoid", "op:Mul"]}
    options = qcompiler.Options(timing=False, ops="native")
    graph = program(SILU, CONV, opset=20, ir_version=9)
    result = qcompiler.compile(graph, feeds(), options=options, recipe=recipe)
    assert tables.OPERATOR not in result.report.operators
    assert {node.op for node in result.graph.nodes} >= {"Sigmoid", "Mul"}


UNEVEN = np.geomspace(0.05, 8.0, 8, dtype=np.float32).reshape(-1, 1, 1)
SEPARABLE = {**weights(w=(8, 3, 3, 3), d=(8, 1, 3, 3), p=(4, 8, 1, 1)), "k": UNEVEN}
CHANNELS = """(float[1,3,8,8] x) => (float y) {
    c = Conv(x, w) h = Tanh(c) m = Mul(h, k) e = Conv<group = 8>(m, d) f = Mul(e, k) g = HardSwish(f) y = Conv(g, p)
}"""


@needs_library
@pytest.mark.parametrize("text, constants", [(SILU, CONV), (CHANNELS, SEPARABLE)])
@pytest.mark.parametrize("keep", [(), ("op:Tanh",)])
def test_a_plan_is_replayed_with_the_same_bytes(text: str, constants: dict[str, np.ndarray], keep: tuple[str]) -> None:
    graph = program(text, constants, opset=20, ir_version=9)
    options = qcompiler.Options(timing=False, ops="native", passes=("+even-channels@smooth-matmul",))
    recipe = {"keep_float": list(keep) if "Tanh" in text else []}
    first = qcompiler.compile(graph, feeds(), options=options, recipe=recipe)
    again = qcompiler.compile(graph, feeds(), plan=first.plan, options=options)
    assert first.plan is not None and ("g" in first.plan.smoothing) == (text == CHANNELS)
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)


@needs_library
@pytest.mark.parametrize(
    "text, node, why",
    [
        ("l = Log(c) m = Mul(c, l) y = Conv(m, v)", "Log_1", "gives NaN, so it is part of no table: where 'c' is -"),
        ("r = RandomNormalLike(c) m = Mul(c, r) y = Conv(m, v)", "RandomNormalLike_1", "it is random"),
        ("n = NonZero(c) f = Cast<to = 1>(n) s = ReduceSum(f) m = Mul(c, s) y = Conv(m, v)", "NonZero_1", "the data"),
    ],
)
def test_the_report_says_why_there_is_no_table(text: str, node: str, why: str) -> None:
    graph = program(f"(float[1,3,8,8] x) => (float y) {{ c = Conv(x, w) {text} }}", CONV, opset=20, ir_version=9)
    report = qcompiler.compile(graph, feeds(), options=qcompiler.Options(timing=False, ops="native")).report
    fates = {one.name: one for one in report.nodes}
    assert fates[node].precision == "float" and why in fates[node].reason
    assert tables.OPERATOR not in report.operators


@needs_library
def test_the_scales_of_squeeze_and_excite_are_an_operator_of_ours() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, w) r = Relu(c) g = GlobalAveragePool(r) e = Conv(g, v) s = HardSigmoid(e)
        m = Mul(r, s) y = Conv(m, v)
    }"""
    graph = program(text, CONV, opset=20, ir_version=9)
    result = qcompiler.compile(graph, feeds(), options=qcompiler.Options(timing=False, ops="native"))
    fates = {node.name: node for node in result.report.nodes}
    assert (fates["Mul_5"].precision, fates["Mul_5"].form) == ("int8", tables.PRODUCT)
    left_out = qcompiler.Options(timing=False, ops="native", passes=("-fuse-channel-scales",))
    unfused = qcompiler.compile(graph, feeds(), plan=result.plan, options=left_out)
    assert tables.PRODUCT not in unfused.report.operators and unfused.report.operators["QLinearMul"] == 1
    assert result.report.sqnr >= unfused.report.sqnr - 0.01


@needs_library
def test_depthwise_convolutions_are_an_operator_of_ours() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, w) r = Relu(c) d = Conv <group = 24, pads = [1,1,1,1]> (r, v) s = Relu(d) y = Conv(s, u)
    }"""
    graph = program(text, weights(w=(24, 3, 1, 1), v=(24, 1, 3, 3), u=(4, 24, 1, 1)), opset=20, ir_version=9)
    target = load_target("ort-cpu", "vnni")
    options = qcompiler.Options(timing=False, ops="native")
    result = qcompiler.compile(graph, feeds(), target=target, options=options)
    fates = {node.name: node for node in result.report.nodes}
    assert (fates["Conv_2"].precision, fates["Conv_2"].form) == ("int8", "DepthwiseConvInt8")
    assert result.report.operators["Transpose"] == 2  # of what comes in and what goes out
    left_out = qcompiler.Options(timing=False, ops="native", passes=("-fuse-depthwise",))
    unfused = qcompiler.compile(graph, feeds(), target=target, plan=result.plan, options=left_out)
    assert "DepthwiseConvInt8" not in unfused.report.operators
    with runtime.session(result.graph) as ours, runtime.session(unfused.graph) as theirs:
        for feed in feeds():
            np.testing.assert_array_equal(*(runtime.run(one, feed)[0] for one in (ours, theirs)))
