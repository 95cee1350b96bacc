from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pass_helpers import feed, ops, outputs, program
from planned import HERE, numbers, weights
from planned import lowered_dynamically as lowered

from qcompiler import ir, numerics
from qcompiler.errors import PassError
from qcompiler.passes.lower_dynamic import LowerDynamic
from qcompiler.passes.place_dynamic import PlaceDynamic
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import Scheme
from qcompiler.verify import fused

WEIGHTS = weights(w=(32, 8), t=(8, 32), u=(32, 16), b=(8,))
CODES = Scheme("uint8", symmetric=False)


def planned(graph: ir.Graph) -> Plan:
    plan = Pipeline([PlaceDynamic(), Solve()]).run(graph, PassContext(HERE)).plan
    assert plan is not None
    return plan


def runs(graph: ir.Graph) -> dict[str, int]:
    return fused.optimize(graph).histogram()


def rounded(x: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear makes of it, as ONNX defines it."""
    scale, zero = numerics.scale_and_zero_point(x.min(), x.max(), CODES)
    return numerics.dequantize(numerics.quantize(x, scale, zero, CODES), scale, zero, CODES)


def rounded_weight(name: str, plan: Plan) -> np.ndarray:
    quant = next(quant for site, quant in plan.sites.items() if site.tensor == name)
    scale, zero = numbers(quant)
    return numerics.dequantize(numerics.quantize(WEIGHTS[name], scale, zero, quant.scheme), scale, zero, quant.scheme)


@pytest.mark.parametrize(
    "body, weight, transposed, bias",
    [
        ("y = MatMul(x, w)", "w", False, 0.0),
        ("y = Gemm(x, w, b)", "w", False, WEIGHTS["b"]),
        ("y = Gemm<transB = 1>(x, t, b)", "t", True, WEIGHTS["b"]),
        ("m = MatMul(x, w) y = Add(m, b)", "w", False, WEIGHTS["b"]),
        ("m = MatMul(x, w) y = Add(b, m)", "w", False, WEIGHTS["b"]),
    ],
)
def test_one_node_computes_it_all(body: str, weight: str, transposed: bool, bias: np.ndarray) -> None:
    graph = program(f"(float[N,32] x) => (float[N,8] y) {{ {body} }}", WEIGHTS)
    plan, after = planned(graph), lowered(graph)
    assert runs(after) == {"DynamicQuantizeMatMul": 1}
    values = feed(graph, N=5)
    w = rounded_weight(weight, plan)
    expected = rounded(values["x"]) @ (w.T if transposed else w) + bias
    np.testing.assert_allclose(outputs(after, values)["y"], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected - outputs(graph, values)["y"]).max() < 0.3


def test_a_computed_bias_is_added() -> None:
    graph = program("(float[N,32] x, float[N,8] c) => (float[N,8] y) { y = Gemm(x, w, c) }", WEIGHTS)
    values = feed(graph, N=3)
    np.testing.assert_allclose(outputs(lowered(graph), values)["y"], outputs(graph, values)["y"], atol=0.3)


def test_products_of_one_tensor_share_its_codes() -> None:
    graph = program("(float[4,32] x) => (float y, float z) { h = Neg(x) y = MatMul(h, w) z = MatMul(h, u) }", WEIGHTS)
    after = lowered(graph)
    assert ops(after).count("DynamicQuantizeLinear") == 1
    assert runs(after) == {"MatMulIntegerToFloat": 2, "DynamicQuantizeLinear": 1, "Neg": 1}


def test_products_that_share_a_weight_share_its_codes() -> None:
    graph = program("(float[4,32] x, float[4,32] z) => (float y) { a = MatMul(x, w) b1 = MatMul(z, w) y = Add(a, b1) }",
                    WEIGHTS)  # fmt: skip
    constants = {t.name for n in lowered(graph).nodes if n.op == "MatMulInteger" for t in n.inputs if ir.is_constant(t)}
    assert constants == {"w_quantized"}


def test_a_product_behind_a_product() -> None:
    graph = program("(float[4,32] x) => (float y) { m = Gemm<transB = 1>(x, s) y = MatMul(m, w) }",
                    {**WEIGHTS, **weights(s=(32, 32))})  # fmt: skip
    assert runs(lowered(graph)) == {"DynamicQuantizeMatMul": 2}


@pytest.mark.parametrize("shape", [(32,), (0, 32), (2, 3, 32)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    dims = ",".join(map(str, shape))
    graph = program(f"(float[{dims}] x) => (float y) {{ y = MatMul(x, w) }}", WEIGHTS)
    values = feed(graph)
    np.testing.assert_allclose(outputs(lowered(graph), values)["y"], outputs(graph, values)["y"], atol=0.3)


def test_zeros_stay_zeros() -> None:
    graph = program("(float[4,32] x) => (float y) { y = MatMul(x, w) }", WEIGHTS)
    assert not outputs(lowered(graph), {"x": np.zeros((4, 32), np.float32)})["y"].any()


def test_bodies() -> None:
    """A product in a Loop reads an outer tensor, which is quantized once, and one of the body's own."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["a"], "outer_product"),
            helper.make_node("Add", ["a", "state"], ["n"], "add"),
            helper.make_node("MatMul", ["n", "s"], ["next"], "inner_product"),
            helper.make_node("Identity", ["going"], ["on"], "on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 32]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2, 32]),
        ],
        [onnx.numpy_helper.from_array(0.1 * values, name) for name, values in weights(w=(32, 32), s=(32, 32)).items()],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["h"], "neg"),
            helper.make_node("Loop", ["count", "", "x"], ["y"], "loop", body=body),
        ],
        "looped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 32])],
        [onnx.numpy_helper.from_array(np.array(3), "count")],
    )
    before = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    after = lowered(before)
    assert [node.op for node in after.nodes] == ["Neg", "DynamicQuantizeLinear", "Loop"]
    assert runs(after)["MatMulIntegerToFloat"] == 1 and runs(after)["DynamicQuantizeMatMul"] == 1
    values = feed(before)
    np.testing.assert_allclose(outputs(after, values)["y"], outputs(before, values)["y"], atol=0.1)


def test_without_dynamic_sites_nothing_changes() -> None:
    graph = program("(float[4,32] x) => (float y) { y = MatMul(x, w) }", WEIGHTS)
    assert ops(lowered(graph, Plan())) == ["MatMul"]


def test_refusals() -> None:
    graph = program("(float[4,32] x) => (float y) { y = MatMul(x, w) }", WEIGHTS)
    plan = planned(graph)
    only = {site: quant for site, quant in plan.sites.items() if quant.origin == "dynamic"}
    with pytest.raises(PassError, match="'x' at MatMul_0:0 cannot be quantized dynamically; only the first input"):
        lowered(graph, replace(plan, sites=only))
    (site,) = (site for site in plan.sites if site.tensor == "w")
    skewed = TensorQuant(CODES).solved(np.float32(0.1), np.int64(7), "user")
    with pytest.raises(PassError, match="tensor 'w': has no symmetric scale; run solve before lower-dynamic"):
        lowered(graph, replace(plan, sites={**plan.sites, site: skewed}))
    with pytest.raises(PassError, match="'x' at gone:0 cannot be quantized dynamically"):
        gone = Plan(sites={Site("x", "gone", 0): TensorQuant(CODES, origin="dynamic")})
        Pipeline([LowerDynamic()]).run(ir.clone(graph), PassContext(HERE, gone))
    old = program("(float[4,32] x) => (float y) { y = MatMul(x, w) }", WEIGHTS, opset=9)
    with pytest.raises(PassError, match="needs opset 11, the model has 9"):
        Pipeline([LowerDynamic()]).run(old, PassContext(HERE, plan))
