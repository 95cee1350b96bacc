from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program, refusals
from planned import TARGET, lowered, placed, solved, uses, weights

from qcompiler import ir
from qcompiler.passes.place import Place
from qcompiler.passes.place_dynamic import PlaceDynamic
from qcompiler.pipeline import Pass, PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.scheme import PerAxis, PerBlock, Scheme
from qcompiler.verify import fused

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), b=(4,))
ZERO, SIX = {"zero": np.float32(0)}, {"six": np.float32(6)}


def runs(graph: ir.Graph) -> dict[str, int]:
    """What ONNX Runtime runs of the graph once it is lowered, changes of layout aside."""
    found = fused.optimize(lowered(graph, solved(graph))).histogram()
    return {op: count for op, count in found.items() if op != "Transpose"}


def remarks(graph: ir.Graph, by: Pass) -> list[str]:
    pipeline = Pipeline([by])
    pipeline.run(graph, PassContext(TARGET, Plan()))
    return refusals(pipeline.diagnostics)


def test_a_relu_is_absorbed() -> None:
    graph = program("(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w, b) y = Relu(c) }", CONV)
    assert uses(placed(graph)) == {
        "b": ["Conv_0:2"],
        "w": ["Conv_0:1"],
        "x": ["Conv_0:0"],
        "y": ["output"],  # nothing between Conv and Relu
    }
    assert runs(graph) == {"DequantizeLinear": 1, "QLinearConv": 1, "QuantizeLinear": 1}


def test_a_clip_is_absorbed() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) d = Clip(c, zero, six) y = Conv(d, v) }"
    graph = program(text, {**CONV, **ZERO, **SIX})
    assert set(uses(placed(graph))) == {"x", "w", "d", "v", "y"}
    assert runs(graph) == {"DequantizeLinear": 1, "QLinearConv": 2, "QuantizeLinear": 1}


def test_a_clip_that_cuts_elsewhere_is_not_absorbed() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) d = Clip(c, low, six) y = Conv(d, v) }"
    graph = program(text, {**CONV, "low": np.float32(-1), **SIX})
    assert {"c", "d"} <= set(uses(placed(graph)))


def test_a_relu_with_another_reader_before_it_is_not_absorbed() -> None:
    graph = program("(float[1,3,8,8] x) => (float y, float z) { c = Conv(x, w) y = Relu(c) z = Tanh(c) }", CONV)
    assert uses(placed(graph))["c"] == ["Relu_1:0", "Tanh_2:0"]


def test_a_residual_addition_works_on_codes() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        a = Conv(x, w) b1 = Conv(a, v) s = Add(a, b1) r = Relu(s) y = Conv(r, v)
    }"""
    graph = program(text, CONV)
    assert uses(placed(graph))["a"] == ["Add_2:0", "Conv_1:0"]
    assert runs(graph) == {"DequantizeLinear": 1, "QLinearAdd": 1, "QLinearConv": 3, "QuantizeLinear": 1}


def test_concat_ties_its_inputs_and_its_output() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        a = Conv(x, w) b1 = Conv(a, v) c = Concat<axis = 2>(a, b1) y = Conv(c, v)
    }"""
    graph = program(text, CONV)
    assert placed(graph).ties == (frozenset({"a", "b1", "c"}),)
    assert runs(graph) == {"DequantizeLinear": 1, "QLinearConcat": 1, "QLinearConv": 3, "QuantizeLinear": 1}


def test_concat_leaves_a_relu_its_own_range() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        a = Conv(x, w) r = Relu(a) p = MaxPool<kernel_shape = [1, 1]>(r) n = Conv(r, v) c = Concat<axis = 2>(p, n)
        y = Conv(c, v)
    }"""
    graph = program(text, CONV)
    assert placed(graph).ties == (frozenset({"c", "n"}), frozenset({"p", "r"}))
    assert runs(graph)["QLinearConv"] == 3


def test_what_moves_values_is_tied() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        a = Conv(x, w) p = MaxPool<kernel_shape = [2, 2]>(a) f = Reshape(p, shape) y = MatMul(f, m)
    }"""
    graph = program(text, {**CONV, **weights(m=(100, 5)), "shape": np.array([1, 100])})
    plan = placed(graph)
    assert plan.ties == (frozenset({"a", "p", "f"}),)
    assert uses(plan)["f"] == ["MatMul_3:0"]
    assert {"NhwcMaxPool", "Reshape"} <= set(runs(graph)) and "DequantizeLinear" not in runs(graph)


def test_a_product_that_leads_to_float_has_a_float_result() -> None:
    graph = program("(float[2,32] x) => (float[2,32] y) { m = MatMul(x, w) y = Tanh(m) }", weights(w=(32, 32)))
    assert uses(placed(graph)) == {"w": ["MatMul_0:1"], "x": ["MatMul_0:0"]}
    assert "MatMulIntegerToFloat" in runs(graph)


def test_a_product_that_leads_to_a_product_hands_it_codes() -> None:
    text = "(float[2,32] x) => (float y) { m = MatMul(x, w) n = MatMul(m, w) y = Tanh(n) }"
    graph = program(text, weights(w=(32, 32)))
    assert uses(placed(graph))["m"] == ["MatMul_1:0"]
    assert {"QLinearMatMul", "MatMulIntegerToFloat"} <= set(runs(graph))


def test_a_last_concat_stays_in_float() -> None:
    text = "(float[1,3,8,8] x) => (float y) { a = Conv(x, w) b1 = Conv(a, v) y = Concat<axis = 1>(a, b1) }"
    graph = program(text, CONV)
    plan = placed(graph)
    assert "Concat_2" not in plan.intended and "y" not in uses(plan) and plan.ties == ()


def test_light_operators_stay_in_float_alone() -> None:
    graph = program("(float[2,4] x) => (float[2,4] y) { a = Add(x, x) y = Mul(a, a) }")
    assert placed(graph).sites == {}


def test_kept_nodes_are_respected() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) y = Conv(c, v) }", CONV)
    plan = placed(graph, kept={"Conv_0": "asked for"})
    assert plan.intended == {"Conv_1"} and "w" not in uses(plan)
    assert plan.kept == {"Conv_0": "asked for"}


def test_a_weight_has_a_scale_for_each_channel() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) f = Flatten(c) y = MatMul(f, m) }",
                    {**CONV, **weights(m=(144, 5))})  # fmt: skip
    plan = placed(graph)
    axes = {site.tensor: quant.scheme.granularity for site, quant in plan.sites.items() if site.tensor in ("w", "m")}
    assert axes == {"w": PerAxis(0), "m": PerAxis(1)}


@pytest.mark.parametrize(
    "text, constants, why",
    [
        ("y = MatMul(x, w)", weights(w=(4, 9)), "a product of 4 terms is not worth rounding"),
        ("y = MatMul(x, w)", {"w": np.full((4, 9), np.nan, np.float32)}, "weight 'w' has values that are not finite"),
        ("y = MatMul(x, w)", weights(w=(2, 4, 9)), "weight 'w' is not a matrix"),
        ("y = Tanh(x)", {}, "not fused"),
    ],
)
def test_refusals(text: str, constants: dict[str, np.ndarray], why: str) -> None:
    graph = program(f"(float[2,4] x) => (float y) {{ {text} }}", constants)
    (remark,) = remarks(graph, Place())
    assert remark.endswith(f"stays in float: {why}")


def test_what_has_four_bits_reads_no_codes() -> None:
    text = "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, v) b = Tanh(a) y = MatMul(b, w) }"
    graph = program(text, weights(v=(64, 64), w=(64, 64)))
    plan = Pipeline([Place()]).run(graph, PassContext(TARGET, Plan(four_bits=frozenset({"MatMul_2"})))).plan
    assert plan is not None and plan.intended == {"MatMul_0", "MatMul_2"}
    schemes = {str(site): quant.scheme for site, quant in plan.sites.items()}
    assert set(schemes) == {"MatMul_0:0", "MatMul_0:1", "MatMul_2:1"}
    assert schemes["MatMul_2:1"] == Scheme("int4", True, PerBlock(0, 32)) and schemes["MatMul_0:1"].dtype == "int8"


def test_dynamic_takes_products_alone() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, w) f = Flatten(c) g = Gemm<transB = 1>(f, m, b1) y = MatMul(g, n)
    }"""
    graph = program(text, {**CONV, **weights(m=(20, 144), b1=(20,), n=(20, 5))})
    plan = placed(graph, by=PlaceDynamic())
    assert uses(plan) == {"f": ["Gemm_2:0"], "g": ["MatMul_3:0"], "m": ["Gemm_2:1"], "n": ["MatMul_3:1"]}
    assert {site.tensor: quant.origin for site, quant in plan.sites.items()} == {
        "f": "dynamic", "g": "dynamic", "m": "unsolved", "n": "unsolved",
    }  # fmt: skip
    assert plan.precision == "int8-dynamic" and plan.intended == {"Gemm_2", "MatMul_3"}
    (remark,) = remarks(graph, PlaceDynamic())
    assert remark.startswith("Conv_0: stays in float: ConvInteger")


def test_dynamic_respects_kept_nodes_and_depth() -> None:
    graph = program("(float[2,32] x) => (float y) { m = MatMul(x, w) n = MatMul(m, v) y = MatMul(n, u) }",
                    weights(w=(32, 32), v=(32, 4), u=(4, 4)))  # fmt: skip
    assert placed(graph, kept={"MatMul_0": "asked for"}, by=PlaceDynamic()).intended == {"MatMul_1"}
