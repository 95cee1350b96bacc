from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import feed, ops, outputs, program
from planned import TARGET, branches, lowered, numbers, placed, solved, weights

from qcompiler import ir, numerics
from qcompiler.errors import PassError
from qcompiler.passes.lower import Lower
from qcompiler.passes.place import Place
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import Scheme
from qcompiler.target_files import load_target

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), b=(4,))
MATMUL = weights(w=(32, 8), b=(8,))


def rounded(values: np.ndarray, quant: TensorQuant) -> np.ndarray:
    scale, zero = numbers(quant)
    return numerics.dequantize(numerics.quantize(values, scale, zero, quant.scheme), scale, zero, quant.scheme)


def count(graph: ir.Graph, op: str) -> int:
    return ops(graph).count(op)


def test_an_empty_plan_changes_nothing() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w, b) y = Relu(c) }", CONV)
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    assert ir.to_proto(lowered(graph, Plan())).SerializeToString(deterministic=True) == before


def test_the_numbers_are_the_oracles() -> None:
    graph = program("(float[2,32] x) => (float[2,8] y) { y = Gemm(x, w, b) }", MATMUL)
    plan = solved(graph)
    values = feed(graph)
    quants = {site.tensor: quant for site, quant in plan.sites.items()}
    x, w, b = (rounded(v, quants[n]) for n, v in (("x", values["x"]), ("w", MATMUL["w"]), ("b", MATMUL["b"])))
    np.testing.assert_allclose(outputs(lowered(graph, plan), values)["y"], x @ w + b, rtol=1e-6, atol=1e-6)


def test_a_tensor_is_quantized_once_and_dequantized_for_each_consumer() -> None:
    text = "(float[1,3,8,8] x) => (float y) { a = Conv(x, w) s = Conv(a, v) y = Add(a, s) }"
    graph = program(text, CONV)
    after = lowered(graph, solved(graph))
    assert count(after, "QuantizeLinear") == 3  # x, a and s: the sum is an output that nothing reads in 8 bits
    readers = [[user.op for user in node.outputs[0].outputs] for node in after.nodes if node.op == "DequantizeLinear"]
    assert all(len(users) == 1 for users in readers)


def test_readers_in_float_share_what_is_dequantized() -> None:
    text = "(float[1,3,8,8] x) => (float y, float z, float u) { a = Conv(x, w) y = Tanh(a) z = Exp(a) u = Conv(a, v) }"
    graph = program(text, CONV)
    after = lowered(graph, solved(graph))
    readers = [sorted(r.op for r in n.outputs[0].outputs) for n in after.nodes if n.inputs[0].name == "a_quantized"]
    assert sorted(readers) == [["Conv"], ["Exp", "Tanh"]]


def test_two_nodes_that_share_a_weight_share_its_codes() -> None:
    text = "(float[1,4,8,8] x) => (float y) { a = Conv(x, v) y = Conv(a, v) }"
    graph = program(text, CONV)
    after = lowered(graph, solved(graph))
    codes = {node.inputs[0] for node in after.nodes if node.op == "DequantizeLinear" and ir.is_constant(node.inputs[0])}
    assert [tensor.name for tensor in codes] == ["v_quantized"]


def test_one_tensor_in_two_representations() -> None:
    graph = program("(float[2,32] x) => (float y, float z) { y = MatMul(x, w) z = MatMul(x, w) }", MATMUL)
    plan = solved(graph)
    coarse = plan.sites[Site("x", "MatMul_1", 0)].solved(np.float32(0.5), np.int64(128), "user")
    after = lowered(graph, replace(plan, sites={**plan.sites, Site("x", "MatMul_1", 0): coarse}))
    assert count(after, "QuantizeLinear") == 2
    values = feed(graph)
    found = outputs(after, values)
    w = rounded(MATMUL["w"], plan.sites[Site("w", "MatMul_1", 1)])
    np.testing.assert_allclose(found["z"], rounded(values["x"], coarse) @ w, rtol=1e-6, atol=1e-5)
    assert np.abs(found["y"] - found["z"]).max() > 0.01


def test_outputs_keep_their_names() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w, b) y = Relu(c) }", CONV)
    after = lowered(graph, solved(graph))
    assert [t.name for t in after.outputs] == ["y"]
    maker = ir.producer(after.outputs[0])
    assert maker is not None and maker.op == "DequantizeLinear"


def test_an_output_that_is_also_read() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] c, float[1,4,6,6] y) { c = Conv(x, w) y = Conv(c, v) }"
    graph = program(text, CONV)
    plan = solved(graph)
    after = lowered(graph, plan)
    values = feed(graph)
    assert [t.name for t in after.outputs] == ["c", "y"]
    # A convolution on rounded inputs, then rounded itself: at most half a step from the float one of those inputs.
    assert np.abs(outputs(after, values)["c"] - outputs(graph, values)["c"]).max() < 0.3


def test_bodies_read_an_outer_tensor() -> None:
    graph = branches()
    samples = [{"x": feed(graph)["x"], "flag": np.array(flag)} for flag in (True, False)]
    after = lowered(graph, solved(graph, samples=samples))
    assert [node.op for node in after.nodes] == ["Neg", "QuantizeLinear", "If"]  # quantized once, where it is computed
    for inner in list(ir.all_graphs(after))[1:]:
        products = [node for node in inner.nodes if node.op == "MatMul"]
        makers = [ir.producer(tensor) for product in products for tensor in product.inputs]
        assert products and all(maker is not None and maker.op == "DequantizeLinear" for maker in makers)
    for sample in samples:
        np.testing.assert_allclose(outputs(after, sample)["y"], outputs(graph, sample)["y"], atol=3.0)


@pytest.mark.parametrize(
    "site, why",
    [
        (Site("x", "nobody", 0), "tensor 'x': the model has no node 'nobody'; make the plan anew"),
        (Site("x", "MatMul_0", 1), "input 1 of node 'MatMul_0' is not 'x'; make the plan anew"),
        (Site("x", "MatMul_0", 7), "input 7 of node 'MatMul_0' is not 'x'; make the plan anew"),
        (Site("x", ""), "'x' is no output of the model; make the plan anew"),
    ],
)
def test_wrong_sites_are_refused(site: Site, why: str) -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    quant = TensorQuant(Scheme("uint8", False)).solved(np.float32(0.1), np.int64(3), "user")
    with pytest.raises(PassError, match=why) as raised:
        lowered(graph, Plan(sites={site: quant}))
    assert "\n" not in str(raised.value)


def test_an_unsolved_plan_is_refused() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL)
    with pytest.raises(PassError, match=r"tensor '.': has no scale yet; run solve before lower"):
        lowered(graph, placed(graph))
    with pytest.raises(PassError, match="needs a plan"):
        Pipeline([Lower()]).run(graph, PassContext(TARGET))


def test_an_old_operator_set_is_refused() -> None:
    graph = program("(float[2,32] x) => (float y) { y = MatMul(x, w) }", MATMUL, opset=11)
    with pytest.raises(PassError, match="needs opset 13, the model has 11"):
        lowered(graph, solved(graph))


def test_four_bit_weights_in_blocks() -> None:
    graph = program("(float[9,128] x) => (float y) { y = MatMul(x, w) }", weights(w=(128, 32)), 21, 10)
    target = load_target("tensorrt").at("int4")
    plan = Pipeline([Place("int4"), Solve()]).run(graph, PassContext(target, Plan())).plan
    assert plan is not None
    after = lowered(graph, plan)
    (node,) = [node for node in after.nodes if node.op == "DequantizeLinear"]
    assert node.attrs == {"axis": 0, "block_size": 64}
    assert node.inputs[0].values.dtype.name == "int4" and node.inputs[1].values.shape == (2, 32)
    x = feed(graph)
    step = np.abs(graph.nodes[0].inputs[1].values).max() / 7
    assert np.abs(outputs(after, x)["y"] - outputs(graph, x)["y"]).max() < step * np.abs(x["x"]).sum(1).max() / 2


def test_fp8_codes() -> None:
    graph = program("(float[9,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 32)), 19, 9)
    target = load_target("tensorrt").at("fp8")
    samples = [feed(graph)]
    plan = Pipeline([Place("fp8")]).run(graph, PassContext(target, Plan())).plan
    assert plan is not None
    after = lowered(graph, solved(graph, plan, samples, "mse"))
    kinds = {node.inputs[2].values.dtype.name for node in after.nodes if node.op.endswith("eLinear")}
    assert kinds == {"float8_e4m3fn"}
    expected, found = outputs(graph, samples[0])["y"], outputs(after, samples[0])["y"]
    assert 10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2)) > 25


def test_rounding_that_was_found_for_8_bits_is_for_8_bits() -> None:
    graph = program("(float[9,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 32)), 19, 9)
    plan = Pipeline([Place("fp8")]).run(graph, PassContext(load_target("tensorrt").at("fp8"), Plan())).plan
    assert plan is not None
    found = solved(graph, plan)
    moved = replace(found, rounding={"w": np.ones((64, 32), np.int8)})
    first, second = (ir.to_proto(lowered(graph, one)).SerializeToString() for one in (found, moved))
    assert first == second
