"""From a model to a compiled one through the public function: what is decided, and that it stays decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import ops, outputs, program
from planned import branches, weights

import qcompiler
from qcompiler import ir
from qcompiler.errors import PlanError, QCompilerError
from qcompiler.plan import Plan, Site
from qcompiler.runtime import Feed
from qcompiler.target_files import load_target

UNTIMED = qcompiler.Options(timing=False)
NET = """(float[N,3,16,16] x) => (float[N,10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Relu(a) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    c = Conv<pads = [1, 1, 1, 1]>(p, w2) s = Sigmoid(c) m = Mul(c, s) g = GlobalAveragePool(m) f = Flatten(g)
    y = Gemm<transB = 1>(f, w3, b3)
}"""
WEIGHTS = weights(w1=(16, 3, 3, 3), b1=(16,), w2=(32, 16, 3, 3), w3=(10, 32), b3=(10,))
PRODUCTS = "(float[N,64] x) => (float[N,32] y) { h = Tanh(x) a = MatMul(h, w) r = Relu(a) y = MatMul(r, v) }"
TWO = weights(w=(64, 64), v=(64, 32))


def samples(*shape: int, count: int = 4) -> list[Feed]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(count)]


def sqnr(source: ir.Graph, result: qcompiler.Result, feeds: list[Feed]) -> float:
    signal = noise = 0.0
    for feed in feeds:
        wanted, found = outputs(source, feed)["y"].astype(np.float64), outputs(result.graph, feed)["y"]
        signal, noise = signal + np.sum(wanted**2), noise + np.sum((wanted - found) ** 2)
    return float(10 * np.log10(signal / noise))


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "float"])
def test_the_same_bytes_twice(precision: str) -> None:
    def compiled() -> bytes:
        result = qcompiler.compile(
            program(NET, WEIGHTS), samples(2, 3, 16, 16), precision=precision, options=UNTIMED
        )
        return result.model.SerializeToString(deterministic=True)

    assert compiled() == compiled()


def test_the_source_is_not_touched() -> None:
    source = program(NET, WEIGHTS)
    before = ir.to_proto(source).SerializeToString(deterministic=True)
    qcompiler.compile(source, samples(2, 3, 16, 16), options=UNTIMED)
    assert ir.to_proto(source).SerializeToString(deterministic=True) == before


def test_a_convolutional_net() -> None:
    source, feeds = program(NET, WEIGHTS), samples(2, 3, 16, 16)
    result = qcompiler.compile(source, feeds, options=UNTIMED)
    assert sqnr(source, result, feeds) > 25
    assert result.report.operators["QLinearConv"] == 2
    assert {"QLinearConv", "QLinearSigmoid", "QLinearMul", "QLinearGlobalAveragePool"} <= set(result.report.operators)


def test_a_plan_compiles_to_the_same_again(tmp_path) -> None:
    source, feeds = program(NET, WEIGHTS), samples(2, 3, 16, 16)
    first = qcompiler.compile(source, feeds, options=UNTIMED)
    assert first.plan is not None
    first.plan.save(tmp_path / "plan.json")
    again = qcompiler.compile(source, plan=Plan.load(tmp_path / "plan.json"), options=UNTIMED)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)


def test_a_branch_that_no_sample_reaches_stays_in_float() -> None:
    source = branches()
    feeds = [{**feed, "flag": np.array(True)} for feed in samples(2, 32)]
    result = qcompiler.compile(source, feeds, options=UNTIMED)
    fates = {node.name: node for node in result.report.nodes}
    assert fates["then_product"].precision == "int8"
    for name in ("else_hidden", "else_product"):
        assert (fates[name].precision, fates[name].reason) == ("float", "no sample reaches it")
    other = {**feeds[0], "flag": np.array(False)}
    np.testing.assert_array_equal(outputs(result.graph, other)["y"], outputs(source, other)["y"])


def test_a_tensor_of_infinities_stays_in_float() -> None:
    text = "(float[N,64] x) => (float[N,64] y) { h = Add(x, far) a = MatMul(h, w) y = MatMul(x, w) }"
    source = program(text, {**TWO, "far": np.float32(np.inf)})
    source.outputs.append(next(node for node in source.nodes if node.op == "MatMul").outputs[0])
    result = qcompiler.compile(source, samples(4, 64), options=UNTIMED)
    reasons = {node.reason for node in result.report.nodes if node.op == "MatMul"}
    assert "all its values are NaN or infinite" in reasons and ops(result.graph).count("MatMul") == 2


def test_an_observer_of_one_tensor() -> None:
    source = program("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": TWO["w"]})
    feeds = samples(64, 64, count=200)
    feeds[0]["x"][0, 0] = 12.0  # among 800,000 values that reach to 5, mse cuts it
    recipe = {"observers": {"x": "minmax"}}

    def reach(recipe: dict[str, object]) -> float:
        options = replace(UNTIMED, passes=("-smooth-matmul",), improve="none")  # which would try other ranges
        plan = qcompiler.compile(source, feeds, recipe=recipe, options=options).plan
        assert plan is not None
        (quant,) = set(plan.tensors()["x"].values())
        assert quant.scale is not None and quant.zero_point is not None
        return float(quant.scale) * (255 - int(quant.zero_point))

    assert reach({"observer": "mse"}) < 10.0
    assert reach(recipe) == pytest.approx(12.0, rel=0.01)


def test_without_a_clock_what_costs_no_time_is_still_improved() -> None:
    source = program("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": TWO["w"]})
    feeds = samples(64, 64, count=64)
    feeds[1]["x"][0, 0] = 60.0  # the extremes leave next to nothing for what reaches to 5
    options = replace(UNTIMED, passes=("-smooth-matmul",), observer="minmax")
    improved, plain = (qcompiler.compile(source, feeds, options=replace(options, improve=e)) for e in ("fast", "none"))
    assert improved.report.sqnr > plain.report.sqnr + 0.5
    assert any("other ranges" in text for text in improved.report.decisions)
    assert improved.plan is not None and not improved.plan.kept


# --- dynamic ---


def test_dynamic_needs_no_data() -> None:
    source, feeds = program(PRODUCTS, TWO), samples(4, 64)
    result = qcompiler.compile(source, precision="int8-dynamic", options=UNTIMED)
    assert result.report.operators == {"DynamicQuantizeMatMul": 2, "Relu": 1, "Tanh": 1}
    assert sqnr(source, result, feeds) > 30
    assert {node.op: node.precision for node in result.report.nodes} == {
        "Tanh": "float", "MatMul": "int8", "Relu": "float",
    }  # fmt: skip
    assert result.statistics is None


def test_dynamic_says_why_convolutions_stay_in_float() -> None:
    result = qcompiler.compile(program(NET, WEIGHTS), precision="int8-dynamic", options=UNTIMED)
    fates = {node.op: node for node in result.report.nodes}
    assert fates["Conv"].reason.startswith("ConvInteger")
    assert fates["Gemm"].form == "DynamicQuantizeMatMul"


def test_dynamic_in_bodies() -> None:
    source = branches()
    result = qcompiler.compile(source, precision="int8-dynamic", options=UNTIMED)
    assert {node.precision for node in result.report.nodes if node.op == "MatMul"} == {"int8"}
    for flag in (True, False):
        feed = {**samples(2, 32)[0], "flag": np.array(flag)}
        np.testing.assert_allclose(outputs(result.graph, feed)["y"], outputs(source, feed)["y"], atol=1.0)


def test_dynamic_plan_again() -> None:
    source = program(PRODUCTS, TWO)
    first = qcompiler.compile(source, precision="int8-dynamic", options=UNTIMED)
    assert first.plan is not None
    plan = Plan.from_json(first.plan.to_json())
    again = qcompiler.compile(source, plan=plan, precision="int8-dynamic", options=UNTIMED)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)


def test_neighbouring_dynamic_weights_share_bits_where_products_saturate() -> None:
    target = load_target("ort-cpu", "avx2")
    result = qcompiler.compile(program(PRODUCTS, TWO), precision="int8-dynamic", target=target, options=UNTIMED)
    codes = [t.values for t in ir.all_tensors(result.graph).values() if ir.is_constant(t) and t.values.dtype == np.int8]
    pairs = [np.abs(values[0::2].astype(np.int32)) + np.abs(values[1::2].astype(np.int32)) for values in codes]
    assert len(pairs) == 2 and all(126 <= sums.max() <= 128 for sums in pairs)


def test_dynamic_is_measured_too() -> None:
    result = qcompiler.compile(program(PRODUCTS, TWO), precision="int8-dynamic")
    assert result.report.speed is not None and result.report.speed.speedup > 0.8


# --- plans that do not fit ---


def refused(plan: Plan, *words: str) -> None:
    with pytest.raises(QCompilerError) as raised:
        qcompiler.compile(program(PRODUCTS, TWO), samples(4, 64), plan=plan, options=UNTIMED)
    text = str(raised.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = qcompiler.compile(program(PRODUCTS, TWO), samples(4, 64), options=UNTIMED).plan
    assert found is not None
    return found


def moved(plan: Plan, tensor: str, site: Site) -> Plan:
    old = next(s for s in plan.sites if s.tensor == tensor)
    return replace(plan, sites={site if s == old else s: quant for s, quant in plan.sites.items()})


def test_an_unknown_node(plan: Plan) -> None:
    refused(moved(plan, "w", Site("w", "gone", 1)), "the model has no node 'gone'", "make the plan anew")
    refused(replace(plan, intended=plan.intended | {"gone"}), "the model has no node 'gone'")


def test_a_wrong_input(plan: Plan) -> None:
    refused(moved(plan, "w", Site("w", "MatMul_1", 0)), "input 0 of node 'MatMul_1' is not 'w'")
    refused(moved(plan, "w", Site("w", "MatMul_1", 5)), "input 5 of node 'MatMul_1' is not 'w'")


def test_an_unsolved_tensor(plan: Plan) -> None:
    sites = {s: replace(q, scale=None, zero_point=None, origin="unsolved") for s, q in plan.sites.items()}
    refused(replace(plan, sites=sites), "has no scale yet")


def test_a_negative_scale(plan: Plan) -> None:
    text = plan.to_json().replace('"scale": 0.', '"scale": -0.', 1)
    with pytest.raises(PlanError, match="a scale is not a positive number"):
        Plan.from_json(text)


def test_another_target(plan: Plan) -> None:
    refused(replace(plan, target="elsewhere"), "the plan is for target elsewhere, not ort-cpu")
