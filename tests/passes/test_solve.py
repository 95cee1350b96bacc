from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import HERE, TARGET, lowered, numbers, observed, placed, quant_of, solved, weights

from qcompiler import ir, numerics, runtime
from qcompiler.errors import PassError
from qcompiler.passes.fold_scale_into_dequantize import FoldScaleIntoDequantize
from qcompiler.passes.place import Place
from qcompiler.passes.place_dynamic import PlaceDynamic
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.target_files import load_target
from qcompiler.verify import fused

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), b=(4,))
MATMUL = weights(w=(32, 8), b=(8,))


def spread(low: float, high: float, *shape: int) -> np.ndarray:
    return np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def range_of(plan: Plan, tensor: str) -> tuple[float, float]:
    """The values that the smallest and the largest code stand for."""
    scale, zero = numbers(quant_of(plan, tensor))
    return float((0 - zero) * scale), float((255 - zero) * scale)


def test_activations_cover_what_was_seen() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    quant = quant_of(solved(graph, samples=[{"x": spread(-1, 3, 2, 32)}]), "x")
    assert numbers(quant) == (np.float32(4 / 255), 64) and quant.origin == "calibration"


@pytest.mark.parametrize("text, six", [("y = Relu(c)", None), ("y = Clip(c, zero, six)", 6.0)])
def test_behind_an_absorbed_operator_the_smallest_code_is_zero(text: str, six: float | None) -> None:
    constants = {**CONV, "zero": np.float32(0), "six": np.float32(6)}
    graph = program(f"(float[1,3,8,8] x) => (float y) {{ c = Conv(x, w) {text} }}", constants)
    plan = solved(graph)
    low, high = range_of(plan, "y")
    assert low == 0.0 and (six is None or high <= six)
    assert float(quant_of(plan, "y").scale) * 255 <= (six or np.inf)  # type: ignore[arg-type]


def test_a_tie_shares_one_range() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        a = Conv(x, w) s = Conv(a, v) c = Concat<axis = 2>(a, s) y = Conv(c, v)
    }"""
    plan = solved(program(text, CONV))
    assert quant_of(plan, "a") == quant_of(plan, "s") == quant_of(plan, "c")


def test_a_range_ends_where_no_consumer_looks() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) y = Sigmoid(c) }", CONV)
    graph.nodes[0].inputs[1] = ir.Constant("large", CONV["w"] * 100)
    low, high = range_of(solved(graph), "c")
    assert -6.4 < low < -6.1 and 6.1 < high < 6.4


def test_a_returned_tensor_keeps_all_its_values() -> None:
    graph = program("(float[1,3,8,8] x) => (float c, float y) { c = Conv(x, w) y = Relu(c) }", CONV)
    assert range_of(solved(graph), "c")[0] < -1.0


def test_weights_reach_the_largest_magnitude_of_each_channel() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    scale, zero = numbers(quant_of(solved(graph), "w"))
    np.testing.assert_array_equal(scale, (np.abs(MATMUL["w"]).max(axis=0).astype(np.float64) / 127).astype(np.float32))
    assert not zero.any()


def test_weights_share_bits_where_products_saturate() -> None:
    from qcompiler.target_files import load_target

    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    ctx = Pipeline([PlaceDynamic(), Solve()]).run(graph, PassContext(load_target("ort-cpu", "avx2")))
    assert ctx.plan is not None
    quant = quant_of(ctx.plan, "w")
    codes = numerics.quantize(MATMUL["w"], *numbers(quant), quant.scheme)
    sums = np.abs(codes[0::2].astype(np.int32)) + np.abs(codes[1::2].astype(np.int32))
    assert np.all(sums.max(axis=0) >= 126) and sums.max() <= 128


def test_a_bias_has_exactly_the_scale_of_the_products() -> None:
    plan = solved(program("(float[1,3,8,8] x) => (float y) { y = Conv(x, w, b) }", CONV))
    x, w, b = (numbers(quant_of(plan, name)) for name in "xwb")
    assert b[0].tobytes() == (x[0] * w[0]).tobytes() and b[0].shape == (4,) and not b[1].any()


def biased(values: list[float], weight: np.ndarray) -> tuple[ir.Graph, Plan]:
    constants = {"w": weight, "b": np.array(values, np.float32)}
    graph = program("(float[2,32] x) => (float y) { y = Gemm(x, w, b) }", constants)
    return graph, solved(graph, samples=[{"x": spread(-1, 1, 2, 32)}], target=HERE)


def test_a_bias_that_would_overflow_raises_its_channels_scale() -> None:
    weight = weights(w=(32, 3))["w"] * np.float32([1, 3e-8, 1])
    graph, plan = biased([1.0, 1.0, 0.0], weight)
    (x, _), (w, _), (b, _) = (numbers(quant_of(plan, name)) for name in "xwb")
    ends = numerics.weight_range(weight, quant_of(plan, "w").scheme)
    plain, _ = numerics.scale_and_zero_point(*ends, quant_of(plan, "w").scheme)
    assert w[0] == plain[0] and w[2] == plain[2] and w[1] > 50 * plain[1]
    assert b.tobytes() == (x * w).tobytes()
    codes = numerics.quantize(np.float32([1, 1, 0]), b, np.zeros(3, np.int64), quant_of(plan, "b").scheme)
    assert np.all(np.abs(codes.astype(np.int64)) <= 2**30)
    with runtime.session(graph) as plain_model, runtime.session(lowered(graph, plan)) as model:
        feed = {"x": spread(-1, 1, 2, 32)}
        error = runtime.run(plain_model, feed)[0] - runtime.run(model, feed)[0]
    assert np.abs(error).max() < 0.1


def test_the_bias_of_a_channel_of_zeros_decides_its_scale() -> None:
    weight = weights(w=(32, 2))["w"] * np.float32([1, 0])
    graph, plan = biased([0.5, 12345.678], weight)
    with runtime.session(lowered(graph, plan), optimize="none") as model:
        found = runtime.run(model, {"x": spread(-1, 1, 2, 32)})[0]
    np.testing.assert_allclose(found[:, 1], 12345.678, rtol=1e-6)


@pytest.mark.parametrize("bias", [1e-44, 1e-39, -1e-36])
def test_a_bias_of_next_to_nothing_leaves_its_channel_a_scale(bias: float) -> None:
    weight = weights(w=(32, 2))["w"] * np.float32([1, 0])
    graph, plan = biased([0.5, bias], weight)
    scale, _ = numbers(quant_of(plan, "w"))
    assert scale[1] >= numerics.SMALLEST_SCALE
    with runtime.session(lowered(graph, plan), optimize="none") as model:
        found = runtime.run(model, {"x": spread(-1, 1, 2, 32)})[0]
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-30)


def test_numbers_of_the_user_stay() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    plan = solved(graph)
    (site,) = plan.tensors()["x"]
    mine = plan.sites[site].solved(np.float32(0.5), np.int64(3), "user")
    again = solved(graph, Plan(target="ort-cpu", sites={**plan.sites, site: mine}, intended=plan.intended))
    assert quant_of(again, "x") == mine


def test_dynamic_needs_no_statistics() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    plan = Pipeline([PlaceDynamic(), Solve()]).run(graph, PassContext(TARGET)).plan
    assert plan is not None
    assert quant_of(plan, "x").scale is None and quant_of(plan, "w").origin == "weights"


def test_refusals() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    plan = placed(graph)
    with pytest.raises(PassError, match="tensor 'x': needs statistics; calibrate first"):
        Pipeline([Solve()]).run(graph, PassContext(TARGET, plan))
    with pytest.raises(PassError, match="there is no observer 'guess'; use minmax"):
        Pipeline([Solve("guess")]).run(graph, PassContext(TARGET, plan))
    nothing = observed(graph, Plan(), [{"x": spread(-1, 1, 2, 32)}])
    with pytest.raises(PassError, match="the statistics do not cover 'x'; calibrate this model again"):
        Pipeline([Solve()]).run(graph, PassContext(TARGET, plan, nothing))


@pytest.mark.parametrize("low, high, zero", [(0.0, 3.0, -128), (-1.0, 3.0, -64), (-2.9, 3.0, 0), (-3.0, 0.0, 127)])
def test_a_zero_point_that_must_be_spelled_is_there_where_it_saves_a_tenth(low: float, high: float, zero: int) -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", weights(w=(32, 16)))
    context = PassContext(load_target("tensorrt").at("int8"), Plan())
    plan = Pipeline([Place()]).run(graph, context).plan
    assert plan is not None
    statistics = observed(graph, plan, [{"x": spread(low, high, 2, 32)}])
    found = Pipeline([Solve("minmax")]).run(graph, replace(context, plan=plan, statistics=statistics)).plan
    assert found is not None
    scale, zero_point = numbers(quant_of(found, "x"))
    assert zero_point == zero
    assert scale == np.float32((high - low) / 255 if zero else high / 127)


def test_a_bias_behind_a_factor_has_the_factor_in_its_step() -> None:
    constants = {**weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), u=(4, 4, 1, 1), b=(4,)), "k": np.float32(0.8)}
    text = """(float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        c = Conv(x, w) r = Relu(c) m = Mul(r, k) y = Conv(m, v, b) z = Conv(m, u) }"""
    graph = program(text, constants)
    ir.infer_shapes(graph)
    plan = solved(graph)
    steps = {site.node: quant.scale for site, quant in plan.sites.items() if site.tensor == "r"}
    (bias,) = (quant for site, quant in plan.sites.items() if site.tensor == "b")
    (weight,) = (quant for site, quant in plan.sites.items() if site.tensor == "v")
    np.testing.assert_array_equal(bias.scale, np.float32(steps["Mul_2"]) * np.float32(0.8) * weight.scale)
    runs = fused.optimize(lowered(graph, plan, FoldScaleIntoDequantize())).histogram()
    assert runs["QLinearConv"] == 3 and "Mul" not in runs
