from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pass_helpers import assert_same, feed, ops, outputs, program, refusals
from planned import weights

from qcompiler import calibrate, ir
from qcompiler.errors import PassError
from qcompiler.passes.narrow_floats import NarrowFloats
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.reach import computed_floats

TWO = "(float[4,8] x) => (float[4,8] y) { m = MatMul(x, w) y = Relu(m) }"


def narrowed(graph: ir.Graph, statistics: Any = None, **options: Any) -> tuple[ir.Graph, list[str]]:
    result = ir.clone(graph)
    pipeline = Pipeline([NarrowFloats(**options)])
    pipeline.run(result, PassContext(statistics=statistics))
    return result, refusals(pipeline.diagnostics)


def seen(graph: ir.Graph, factor: float = 1.0) -> calibrate.Statistics:
    ir.infer_shapes(graph)
    samples = [{name: array * factor for name, array in feed(graph, seed).items()} for seed in range(2)]
    return calibrate.collect(graph, computed_floats(graph), samples)


def test_all_computes_in_float16_between_two_casts() -> None:
    graph = program(TWO, weights(w=(8, 8)))
    after, _ = narrowed(graph)
    assert ops(after) == ["Cast", "MatMul", "Relu", "Cast"]
    assert after.nodes[1].inputs[1].values.dtype == np.float16
    assert [np.dtype(t.dtype) for t in (*after.inputs, *after.outputs)] == [np.float32, np.float32]
    assert_same(graph, after, rtol=0.02, atol=0.02)


def test_inputs_and_outputs_are_converted_where_that_is_asked_for() -> None:
    after, _ = narrowed(program(TWO, weights(w=(8, 8))), interface="converted")
    assert ops(after) == ["MatMul", "Relu"]
    assert [np.dtype(t.dtype) for t in (*after.inputs, *after.outputs)] == [np.float16, np.float16]


def test_bfloat16() -> None:
    after, _ = narrowed(program(TWO, weights(w=(8, 8))), to="bfloat16", interface="converted")
    assert {np.dtype(t.dtype) for t in (*after.inputs, *after.outputs)} == {np.dtype(ml_dtypes.bfloat16)}


def test_what_overflows_in_the_samples_stays_in_float32() -> None:
    graph = program("(float[4,8] x) => (float[4,8] y) { m = Mul(x, x) n = Sqrt(m) y = Relu(n) }")
    after, remarks = narrowed(graph, seen(graph, 200.0))
    assert remarks == [
        f"Mul_0: stays in float32: 'm' reaches {seen(graph, 200.0).tensors['m'].largest:.4g}",
        f"Sqrt_1: stays in float32: 'm' reaches {seen(graph, 200.0).tensors['m'].largest:.4g}",
    ]
    assert ops(after) == ["Mul", "Sqrt", "Cast", "Relu", "Cast"]


def test_what_keeps_a_division_from_zero_stays_in_float32() -> None:
    text = "(float[4,8] x) => (float[4,8] y) { m = Mul(x, x) e = Add(m, eps) y = Div(x, e) }"
    _, remarks = narrowed(program(text, {"eps": np.float32(1e-12)}))
    assert remarks == ["Add_1: stays in float32: constant 'eps' is 1e-12 and would become zero"]


def test_a_mask_becomes_the_largest_number() -> None:
    graph = program("(float[4,8] x) => (float[4,8] y) { y = Add(x, never) }", {"never": np.float32(-3.4e38)})
    after, remarks = narrowed(graph)
    assert remarks == []
    (constant,) = [t for node in after.nodes for t in node.inputs if ir.is_constant(t)]
    assert constant.values == np.float16(-65504)


def test_a_large_constant_that_is_a_quantity_stays() -> None:
    graph = program("(float[4,8] x) => (float[4,8] y) { y = Mul(x, c) }", {"c": np.float32(1e5)})
    assert narrowed(graph)[1] == ["Mul_0: stays in float32: constant 'c' reaches 1e+05"]


def test_a_cast_to_float_becomes_one_to_float16() -> None:
    after, _ = narrowed(program("(int64[4] x) => (float[4] y) { c = Cast<to = 1>(x) y = Relu(c) }"))
    assert [node.attrs.get("to") for node in after.nodes] == [10, None, 1]


def test_what_an_operator_takes_in_float32_only_stays() -> None:
    text = "(float[1,1,4,4] x) => (float[1,1,8,8] y) { y = Resize(x, , s) }"
    graph = program(text, {"s": np.array([1, 1, 2, 2], np.float32)})
    after, _ = narrowed(graph)
    assert ops(after) == ["Cast", "Resize", "Cast"]
    assert after.nodes[1].inputs[2].values.dtype == np.float32


CODES = "(float[4,8] x) => (float[4,8] y) { v = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, v) }"


def test_a_weight_is_rounded_anew_for_its_rounded_scales() -> None:
    q = np.full((8, 8), 127, np.int8)
    s = np.array([1e-11, 3.001e-4, 0.1, 1, 2, 3, 4, 5], np.float32)
    graph = program(CODES, {"q": q, "s": s, "z": np.zeros(8, np.int8)}, 19, 9)
    after, remarks = narrowed(graph)
    assert remarks == []
    node = next(node for node in after.nodes if node.op == "DequantizeLinear")
    codes, scale = node.inputs[0].values, node.inputs[1].values
    assert scale.dtype == np.float16 and (scale.astype(np.float32) >= s).all() and scale[0] > 0
    error = np.abs(codes * scale.astype(np.float64) - q * s.astype(np.float64))
    assert (error <= scale.astype(np.float64) / 2 + 1e-12).all()


def test_a_step_that_float16_would_round_stays_in_float32() -> None:
    text = "(float[4,8] x) => (float[4,8] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"
    after, remarks = narrowed(program(text, {"s": np.float32(1e-6), "z": np.int8(0)}, 19, 9))
    assert len(remarks) == 2 and "rounded to a few bits" in remarks[0]
    assert ops(after) == ["QuantizeLinear", "DequantizeLinear", "Cast", "Relu", "Cast"]


def test_only_some_nodes() -> None:
    after, _ = narrowed(program(TWO, weights(w=(8, 8))), only="MatMul_0")
    assert ops(after) == ["Cast", "MatMul", "Cast", "Relu"]
    assert np.isfinite(outputs(after, feed(after))["y"]).all()


def test_bodies_stay_in_float32() -> None:
    from planned import branches

    graph = branches()
    after, remarks = narrowed(graph)
    assert remarks == ["choose: stays in float32: it has a body"]
    assert_same(graph, after, rtol=0.02, atol=0.02)


def test_another_type_is_an_error() -> None:
    with pytest.raises(PassError, match="option 'to' is 'float8'; use one of float16, bfloat16"):
        narrowed(program(TWO, weights(w=(8, 8))), to="float8")
