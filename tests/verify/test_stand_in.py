"""What TensorRT's own operators compute, spelled with ONNX's, is what the oracle says."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import ops, outputs, program
from planned import observed, uses, weights

from qcompiler import calibrate, ir, microscaling, numerics
from qcompiler.passes.lower import Lower
from qcompiler.passes.narrow_floats import NarrowFloats
from qcompiler.passes.place import Place
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import Pass, PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.runtime import Feed
from qcompiler.scheme import PerBlock, Scheme
from qcompiler.target_files import load_target
from qcompiler.verify import stand_in

TARGET = load_target("tensorrt").at("nvfp4")
ROWS, COLUMNS = (Scheme("float4_e2m1fn", True, PerBlock(axis, 16)) for axis in (-1, 0))
PRODUCT = "(float[n,3,64] x) => (float[n,3,32] y) { y = MatMul(x, w) }"
WEIGHT = weights(w=(64, 32))


def values() -> np.ndarray:
    made = np.random.default_rng(3).normal(size=(2, 3, 64)).astype(np.float32) ** 3
    made[0, 0, :16] = 0.0
    made[0, 1, :16] = np.linspace(-6, 6, 16)
    return made


def written(graph: ir.Graph, samples: list[Feed], *more: Pass) -> tuple[ir.Graph, Plan]:
    """The graph with NVFP4 in it, and the plan."""
    ir.infer_shapes(graph)
    plan = Pipeline([Place("nvfp4")]).run(graph, PassContext(TARGET, Plan())).plan
    assert plan is not None
    statistics: calibrate.Statistics = observed(graph, plan, samples)
    plan = Pipeline([Solve()]).run(graph, PassContext(TARGET, plan, statistics)).plan
    assert plan is not None
    after = ir.clone(graph)
    Pipeline([Lower(), *more]).run(after, PassContext(TARGET, plan))
    return after, plan


def test_a_model_without_such_operators_is_run_as_it_is() -> None:
    graph = program("(float[2] x) => (float[2] y) { y = Relu(x) }")
    assert stand_in.runnable(graph) is graph


def test_a_product_is_that_of_what_the_oracle_leaves_of_both_sides() -> None:
    x = values()
    after, plan = written(program(PRODUCT, WEIGHT, 23, 11), [{"x": x}])
    assert uses(plan) == {"x": ["MatMul_0:0"], "w": ["MatMul_0:1"]}
    assert ops(after).count("TRT_FP4DynamicQuantize") == 1 and ops(after).count("DequantizeLinear") == 4
    steps = microscaling.weight_scales(WEIGHT["w"], COLUMNS)
    zero = np.zeros(steps.shape, np.int64)
    w = numerics.dequantize(numerics.quantize(WEIGHT["w"], steps, zero, COLUMNS), steps, zero, COLUMNS)
    reach = microscaling.tensor_scale(float(np.abs(x).max()))
    found = outputs(stand_in.runnable(after), {"x": x})["y"]
    np.testing.assert_allclose(found, microscaling.rounded(x, reach, ROWS) @ w, rtol=1e-5, atol=1e-4)
    assert 14.0 < numerics.sqnr(x @ WEIGHT["w"], found) < 30.0


def test_one_rounding_serves_all_that_read_a_tensor() -> None:
    text = "(float[n,3,64] x) => (float y, float z) { y = MatMul(x, w) z = MatMul(x, v) }"
    x = values()
    after, _ = written(program(text, weights(w=(64, 32), v=(64, 48)), 23, 11), [{"x": x}])
    assert ops(after).count("TRT_FP4DynamicQuantize") == 1
    assert set(outputs(stand_in.runnable(after), {"x": x})) == {"y", "z"}


def test_a_length_that_is_not_known_is_that_of_the_weight() -> None:
    text = """(float[n,3,64] x, int64[1] s) => (float y) {
        h = Shape(x) m = Gather(h, i) t = Concat<axis = 0>(m, s) r = Reshape(x, t) y = MatMul(r, w)
    }"""
    x = values()
    sample = {"x": x, "s": np.array([64])}
    after, _ = written(program(text, {**WEIGHT, "i": np.array([0, 1])}, 23, 11), [sample])
    quantize = next(node for node in after.nodes if node.op == "TRT_FP4DynamicQuantize")
    assert quantize.inputs[0].shape[-1] == 64 and quantize.outputs[1].shape[-1] == 4
    assert outputs(stand_in.runnable(after), sample)["y"].shape == (2, 3, 32)


@pytest.mark.parametrize("interface", ["kept", "converted"])
def test_all_of_it_in_float16(interface: str) -> None:
    x = values()
    graph = program(PRODUCT, WEIGHT, 23, 11)
    narrow, _ = written(graph, [{"x": x}], NarrowFloats(interface=interface))
    wide, _ = written(graph, [{"x": x}])
    quantize = next(node for node in narrow.nodes if node.op == "TRT_FP4DynamicQuantize")
    assert {np.dtype(tensor.dtype).name for tensor in quantize.inputs} == {"float16"}
    given = x if interface == "kept" else x.astype(np.float16)
    found = outputs(stand_in.runnable(narrow), {"x": given})["y"]
    expected = outputs(stand_in.runnable(wide), {"x": x.astype(np.float16).astype(np.float32)})["y"]
    assert numerics.sqnr(expected, found) > 50.0
