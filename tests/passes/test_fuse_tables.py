"""Chains of elementwise operators between codes, and the tables that they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from pass_helpers import feed, ops, outputs, program, refusals
from planned import feeds, observed

from qcompiler import calibrate, ir, native, runtime, tables
from qcompiler.passes._elementwise import apply
from qcompiler.passes.fuse_tables import FuseTables
from qcompiler.passes.lower import Lower
from qcompiler.passes.place import Place
from qcompiler.passes.solve import Solve
from qcompiler.passes.tables_channels_last import TablesChannelsLast
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.target_files import load_target
from qcompiler.verify import fused

TARGET = load_target("ort-cpu", "vnni").at("int8", "native")
RANDOM = np.random.default_rng(3)
needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))


def coded(body: str, constants: Mapping[str, Any] | None = None, shape: str = "1,4,6,5", opset: int = 20) -> ir.Graph:
    """A chain ``body`` from v to y between codes: x is quantized to -6 … 6, y to -3 … 5."""
    text = f"""(float[{shape}] x) => (float[{shape}] z) {{
        q = QuantizeLinear(x, s, o) v = DequantizeLinear(q, s, o) {body}
        p = QuantizeLinear(y, t, u) z = DequantizeLinear(p, t, u)
    }}"""
    parameters = {"s": np.float32(12 / 255), "o": np.uint8(127), "t": np.float32(8 / 255), "u": np.uint8(96)}
    graph = program(text, {**parameters, **(constants or {})}, opset, 9)
    ir.infer_shapes(graph)
    return graph


def fused_tables(graph: ir.Graph, seen: calibrate.Statistics | None = None) -> tuple[ir.Graph, list[str]]:
    """A copy with its tables, and what was refused."""
    result = ir.clone(graph)
    pipeline = Pipeline([FuseTables()])
    pipeline.run(result, PassContext(TARGET, Plan(), seen))
    return result, refusals(pipeline.diagnostics)


def table_of(graph: ir.Graph) -> np.ndarray:
    (node,) = (node for node in graph.nodes if node.op == tables.OPERATOR)
    return np.asarray(node.inputs[1].values)


def by_the_chain(graph: ir.Graph, codes: str = "p", source: str = "q") -> np.ndarray:
    """What ONNX Runtime computes of all 256 codes, by the chain itself, in float32; ``[C, 256]`` for four axes."""
    graph = ir.clone(graph)
    tensors = ir.all_tensors(graph)
    channels = tensors[source].shape[1]
    wanted, given = tensors[codes], tensors[source]
    ir.detach(ir.producer(given))
    given.dtype, given.shape = np.dtype(np.uint8), [1, channels, 16, 16]
    wanted.dtype, wanted.shape = wanted.dtype or np.dtype(np.uint8), None
    graph.inputs, graph.outputs = [given], [wanted]
    ir.remove_dead(graph)
    graph.nodes[:] = [node for node in graph.nodes if node.outputs]
    for tensor in (t for node in graph.nodes for t in node.outputs):
        tensor.shape = None
    every = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (1, channels, 16, 16))
    with runtime.session(graph, optimize="none") as session:
        (found,) = runtime.run(session, {source: np.ascontiguousarray(every)})
    return found.reshape(channels, 256)


CHAINS = {
    "HardSwish": "y = HardSwish(v)",
    "SiLU": "g = Sigmoid(v) y = Mul(v, g)",
    "GELU": "y = Gelu(v)",
    "GELU by tanh": "y = Gelu<approximate = \"tanh\">(v)",
    "GELU written out": "a = Div(v, r) e = Erf(a) f = Add(e, one) g = Mul(v, f) y = Mul(g, half)",
    "Mish": "y = Mish(v)",
    "scale and shift": "a = Mul(half, v) y = Sub(one, a)",
    "a power": "a = Abs(v) y = Pow(a, half)",
    "a clip": "a = Clip(v, half, r) y = Neg(a)",
    "a sum with itself": "a = Exp(v) b = Add(a, a) y = Log(b)",
    "LeakyRelu": "a = LeakyRelu<alpha = 0.3>(v) y = Tanh(a)",
}
NUMBERS = {"half": np.float32(0.5), "one": np.float32(1), "r": np.float32(np.sqrt(2))}


@pytest.mark.parametrize("body", CHAINS.values(), ids=CHAINS)
def test_a_table_is_what_the_chain_computes(body: str) -> None:
    graph = coded(body, NUMBERS)
    result, refused = fused_tables(graph)
    assert ops(result) == ["QuantizeLinear", tables.OPERATOR, "DequantizeLinear"] and not refused
    found, chain = table_of(result).astype(int), by_the_chain(graph).astype(int)
    # Only where float32 lands on another side of a half may they differ, by a step.
    assert np.abs(found - chain).max() <= 1 and np.count_nonzero(found != chain[0]) <= 3


@pytest.mark.parametrize("op", sorted(TARGET.elementwise))
def test_the_reference_and_the_runtime_agree_on_every_operator(op: str) -> None:
    x = np.linspace(0.06, 3.0, 256)
    second = {"Clip": 2, "PRelu": 1, "Pow": 1, "Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Max": 1, "Min": 1}.get(op, 0)
    constants = [np.array(value) for value in (0.7, 1.9)[:second]]
    node = ir.Node(op, op)
    exact = apply(node, [x, *constants], 20)
    names = [f"i{index}" for index in range(1 + second)]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (*names, "y")]
    graph = helper.make_graph([helper.make_node(op, names, ["y"])], op, values[:-1], values[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    given = {name: np.asarray(value, np.float32) for name, value in zip(names, [x, *constants])}
    with runtime.session(model, optimize="none") as session:
        (found,) = runtime.run(session, given)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-6)


def test_constants_along_an_axis_give_a_table_for_each_channel() -> None:
    constants = {"k": np.array([1, -2, 0.5, 3], np.float32).reshape(4, 1, 1), **NUMBERS}
    graph = coded("a = Mul(v, k) g = Sigmoid(a) y = Mul(a, g)", constants)
    result, _ = fused_tables(graph)
    assert table_of(result).shape == (4, 256)
    assert np.abs(table_of(result).astype(int) - by_the_chain(graph).astype(int)).max() <= 1
    assert next(node for node in result.nodes if node.op == tables.OPERATOR).attrs == {"axis": 1}


def test_constants_along_two_axes_are_no_function_of_one_element() -> None:
    constants = {"k": np.ones((4, 1, 1), np.float32), "j": np.ones((6, 1), np.float32)}
    result, _ = fused_tables(coded("a = Mul(v, k) b = Add(a, j) y = Tanh(b)", constants))
    assert {"Add", "Tanh"} <= set(ops(result)) and "Mul" not in ops(result)


@pytest.mark.parametrize("k", [np.ones((2, 4, 6, 5)), np.ones((4, 6, 1)), np.ones((1, 1, 1, 1, 1))])
def test_constants_that_vary_otherwise_end_a_chain(k: np.ndarray) -> None:
    graph = coded("a = Sigmoid(v) b = Mul(a, k) c = Flatten(b) y = Reshape(c, shape)",
                  {"k": k.astype(np.float32), "shape": np.array([1, 4, 6, 5])})  # fmt: skip
    result, _ = fused_tables(graph)
    assert table_of(result).dtype == np.float32 and "Mul" in ops(result)


def test_results_without_a_quantizer_are_tables_of_floats() -> None:
    text = """(float[1,4,6,5] x) => (float[1,4,6,5] y) {
        q = QuantizeLinear(x, s, o) v = DequantizeLinear(q, s, o) y = Sigmoid(v)
    }"""
    graph = program(text, {"s": np.float32(0.05), "o": np.uint8(128)})
    result, _ = fused_tables(graph)
    found = table_of(result)
    assert found.dtype == np.float32 and ops(result) == ["QuantizeLinear", tables.OPERATOR]
    np.testing.assert_array_equal(found, (1 / (1 + np.exp(-(np.arange(256) - 128.0) * np.float32(0.05)))).astype("f4"))


def test_a_chain_with_two_readers_gives_a_table_for_each() -> None:
    text = """(float[1,4] x) => (float[1,4] y, float[1,4] z) {
        q = QuantizeLinear(x, s, o) v = DequantizeLinear(q, s, o) a = Exp(v) p = QuantizeLinear(a, s, o)
        y = DequantizeLinear(p, s, o) z = Sqrt(a)
    }"""
    result, _ = fused_tables(program(text, {"s": np.float32(0.05), "o": np.uint8(128)}))
    assert sorted(ops(result)) == ["DequantizeLinear", "QuantizeLinear", tables.OPERATOR, tables.OPERATOR]
    assert tables.tables_of(result) == {"Exp_2": ["Exp_2"], "Sqrt_5": ["Exp_2", "Sqrt_5"]}


def test_neighbouring_tables_become_one() -> None:
    body = "a = Sigmoid(v) b = QuantizeLinear(a, s, o) c = DequantizeLinear(b, s, o) y = Tanh(c)"
    result, _ = fused_tables(coded(body))
    assert ops(result) == ["QuantizeLinear", tables.OPERATOR, "DequantizeLinear"]
    assert np.abs(table_of(result).astype(int) - by_the_chain(coded(body)).astype(int)).max() <= 1
    again, _ = fused_tables(result)
    assert ops(again) == ops(result)
    np.testing.assert_array_equal(table_of(again), table_of(result))


def test_codes_with_a_sign_are_looked_up_by_their_bytes() -> None:
    graph = coded("y = Abs(v)", {"o": np.int8(0), "u": np.int8(-128), "t": np.float32(12 / 255)})
    result, _ = fused_tables(graph)
    found = table_of(result)
    assert found.dtype == np.int8 and found[0] == -128 and found[255] == found[1] and found[128] == found.max()


def test_rounding_is_once_half_to_even_and_saturates() -> None:
    constants = {"s": np.float32(1), "t": np.float32(2), "o": np.uint8(0), "u": np.uint8(7), **NUMBERS}
    result, _ = fused_tables(coded("a = Abs(v) y = Add(a, one)", constants))
    np.testing.assert_array_equal(table_of(result), np.clip(np.rint((np.arange(256) + 1.0) / 2) + 7, 0, 255))


def test_a_node_that_gives_nan_is_named() -> None:
    result, refused = fused_tables(coded("a = Neg(v) b = Sqrt(a) y = Exp(b)"))
    assert tables.OPERATOR not in [node.op for node in result.nodes if node.outputs[0].name == "p"]
    (line,) = refused
    assert line.startswith("Sqrt_3: gives NaN, so it is part of no table: where 'x' is ")


def test_nan_that_calibration_never_saw_does_no_harm() -> None:
    graph = coded("b = Sqrt(v) y = Exp(b)")
    seen = calibrate.TensorStatistics.of(np.array([0.0, 5.0], np.float32))
    assert fused_tables(graph)[1]
    result, refused = fused_tables(graph, calibrate.Statistics({"x": seen}, "", 1))
    assert not refused and ops(result).count(tables.OPERATOR) == 1


@pytest.mark.parametrize(
    "body, why",
    [
        ("n = RandomNormalLike(v) y = Mul(v, n)", "it is random"),
        ("n = NonZero(v) c = Cast<to = 1>(n) d = ReduceSum<keepdims = 0>(c) y = Mul(v, d)",
         "the shape of its result depends on the data"),
    ],
)  # fmt: skip
def test_refusals(body: str, why: str) -> None:
    result, refused = fused_tables(coded(body))
    assert any(line.endswith(f"is part of no table: {why}") for line in refused)
    assert tables.OPERATOR not in ops(result)


def test_control_flow_and_state_are_refused() -> None:
    from qcompiler.passes._elementwise import no_function

    branch = ir.Graph()
    assert no_function(ir.Node("If", "if", {"then_branch": branch})) == "it has a body, which is control flow"
    assert no_function(ir.Node("LSTM", "lstm")) == "it has state"
    assert no_function(ir.Node("Tanh", "tanh")) == no_function(ir.Node("Foo", "foo", domain="mine")) == ""


@pytest.mark.parametrize("parameter", [{"s": np.float16(0.05)}, {"o": np.uint16(128)}, {"s": np.full(4, 0.05, "f4")}])
def test_other_steps_and_codes_are_left_alone(parameter: dict[str, Any]) -> None:
    text = """(float[1,4,6,5] x) => (float y) {
        q = QuantizeLinear<axis = 1>(x, s, o) v = DequantizeLinear<axis = 1>(q, s, o) y = Sigmoid(v)
    }"""
    graph = program(text, {"s": np.float32(0.05), "o": np.uint8(128), **parameter}, 21, 10)
    assert ops(fused_tables(graph)[0]) == ["QuantizeLinear", "DequantizeLinear", "Sigmoid"]


def test_only_what_the_target_lists_is_taken() -> None:
    graph = ir.clone(coded("y = Sigmoid(v)"))
    pipeline = Pipeline([FuseTables()])
    pipeline.run(graph, PassContext(replace(TARGET, elementwise=("Tanh",)), Plan()))
    assert "Sigmoid" in ops(graph)


# --- from a plan ---


def compiled(graph: ir.Graph, *more: Any) -> tuple[ir.Graph, Plan]:
    """The graph in 8 bits as the target's pipeline writes it, and its plan."""
    ir.infer_shapes(graph)
    plan = Pipeline([Place()]).run(graph, PassContext(TARGET, Plan())).plan
    assert plan is not None
    statistics = observed(graph, plan, feeds(graph))
    plan = Pipeline([Solve("minmax")]).run(graph, PassContext(TARGET, plan, statistics)).plan
    result = ir.clone(graph)
    Pipeline([Lower(), FuseTables(), *more]).run(result, PassContext(TARGET, plan))
    assert plan is not None
    return result, plan


def sites(plan: Plan) -> dict[str, list[str]]:
    return {name: [str(site) for site in uses] for name, uses in plan.tensors().items()}


SILU = "(float[1,3,8,8] x) => (float y) { c = Conv(x, w) g = Sigmoid(c) m = Mul(c, g) y = Conv(m, v) }"


def test_nothing_inside_a_chain_is_rounded() -> None:
    plan = compiled(program(SILU, CONV))[1]
    assert sites(plan)["c"] == ["Mul_2:0", "Sigmoid_1:0"] and sites(plan)["m"] == ["Conv_3:0"]
    assert "g" not in sites(plan) and {"Sigmoid_1", "Mul_2"} <= plan.intended


def test_what_reads_a_chain_in_float_gets_a_table_of_its_own() -> None:
    text = """(float[1,3,8,8] x) => (float y, float z) {
        c = Conv(x, w) h = HardSwish(c) y = Conv(h, v) z = Softmax(h)
    }"""
    graph, plan = compiled(program(text, CONV))
    assert sites(plan)["h"] == ["Conv_2:0"]
    kinds = [node.inputs[1].values.dtype for node in graph.nodes if node.op == tables.OPERATOR]
    assert sorted(map(str, kinds)) == ["float32", "uint8"]


def test_a_scale_still_costs_nothing() -> None:
    text = "(float[1,3,8,8] x) => (float y) { c = Conv(x, w) m = Mul(c, k) y = Conv(m, v) }"
    graph, plan = compiled(program(text, {**CONV, "k": np.float32(0.5)}))
    assert "m" not in plan.tensors() or tables.OPERATOR not in ops(graph)


def test_sums_of_two_tensors_end_chains() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, w) d = Conv(c, v) e = Tanh(d) s = Add(c, e) r = Relu(s) t = HardSwish(r) y = Conv(t, v)
    }"""
    graph, plan = compiled(program(text, CONV))
    assert tables.tables_of(graph) == {"Tanh_2": ["Tanh_2"], "HardSwish_5": ["HardSwish_5"]}
    assert sites(plan)["r"] == ["HardSwish_5:0"] and "s" not in sites(plan)


def test_a_chain_that_leads_nowhere_stays_a_float_one() -> None:
    graph, plan = compiled(program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) y = Tanh(c) }", CONV))
    assert "Tanh_1" not in plan.intended
    assert table_of(graph).dtype == np.float32


def test_kept_nodes_are_in_no_chain() -> None:
    graph = program(SILU, CONV)
    plan = Pipeline([Place()]).run(graph, PassContext(TARGET, Plan(kept={"Sigmoid_1": "asked for"}))).plan
    assert plan is not None and plan.intended == {"Conv_0", "Conv_3"}


@needs_library
def test_the_runtime_runs_the_tables() -> None:
    graph, plan = compiled(program(SILU, CONV))
    optimized = fused.optimize(graph)
    assert optimized.histogram()[tables.OPERATOR] == 1
    found = fused.fates(plan.intended, optimized, tables.tables_of(graph))
    assert (found["Mul_2"].form, found["Mul_2"].fused) == (tables.OPERATOR, True)
    assert (found["Sigmoid_1"].form, found["Sigmoid_1"].fused) == (tables.OPERATOR, True)
    assert found["Sigmoid_1"].why == "in one table with the nodes up to 'Mul_2'"


@needs_library
@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_the_fused_model_is_no_further_from_float(seed: int) -> None:
    graph = program(SILU.replace("Conv(m, v)", "HardSwish(m)"), CONV)
    plan = Pipeline([Place()]).run(graph, PassContext(TARGET, Plan())).plan
    assert plan is not None
    plan = Pipeline([Solve("minmax")]).run(graph, PassContext(TARGET, plan, observed(graph, plan, feeds(graph)))).plan
    unfused, with_tables = ir.clone(graph), ir.clone(graph)
    Pipeline([Lower()]).run(unfused, PassContext(TARGET, plan))
    Pipeline([Lower(), FuseTables()]).run(with_tables, PassContext(TARGET, plan))
    given = feed(graph, seed)
    exact, before, after = (outputs(one, given)["y"] for one in (graph, unfused, with_tables))
    assert np.abs(after - exact).max() <= np.abs(before - exact).max() * (1 + 1e-5)


@needs_library
@pytest.mark.parametrize("k", [np.float32(0.7), np.linspace(0.5, 2, 4, dtype=np.float32).reshape(4, 1, 1)])
def test_channels_last_leaves_no_transposes_between_convolutions(k: np.ndarray) -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, w) a = Mul(c, k) h = HardSwish(a) d = Conv(h, v) b = HardSwish(d) y = Conv(b, v)
    }"""
    graph, _ = compiled(program(text, {**CONV, "k": k}))
    turned = ir.clone(graph)
    Pipeline([TablesChannelsLast()]).run(turned, PassContext(TARGET))
    found = fused.optimize(turned).histogram()
    assert found[tables.OPERATOR] == 2 and found["Transpose"] == 2 and found["QLinearConv"] == 3
    given = feed(graph)
    np.testing.assert_array_equal(outputs(turned, given)["y"], outputs(graph, given)["y"])
