"""Placement by the rules of TensorRT: on inputs only, shortcuts alone, attention whole."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program, refusals
from planned import uses, weights

from qcompiler import ir
from qcompiler.passes.place import Place
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.scheme import PerAxis, PerBlock, PerTensor
from qcompiler.target_files import load_target

TARGET = load_target("tensorrt")
CONV = weights(w=(8, 3, 3, 3), v=(8, 8, 1, 1), b=(8,))


def placed(graph: ir.Graph, precision: str = "int8") -> Plan:
    plan = Pipeline([Place(precision)]).run(graph, PassContext(TARGET.at(precision), Plan())).plan
    assert plan is not None
    return plan


def remarks(graph: ir.Graph, precision: str = "int8") -> list[str]:
    pipeline = Pipeline([Place(precision)])
    pipeline.run(graph, PassContext(TARGET.at(precision), Plan()))
    return refusals(pipeline.diagnostics)


def test_inputs_are_quantized_outputs_and_biases_are_not() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w, b) y = Tanh(c) }", CONV)
    plan = placed(graph)
    assert uses(plan) == {"x": ["Conv_0:0"], "w": ["Conv_0:1"]}
    schemes = {site.tensor: quant.scheme for site, quant in plan.sites.items()}
    assert schemes["x"].dtype == "int8" and schemes["x"].granularity == PerTensor()
    assert schemes["w"].granularity == PerAxis(0)


def test_nothing_is_quantized_between_a_convolution_and_its_relu() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }", CONV)
    assert set(uses(placed(graph))) == {"x", "w", "r", "v"}


def test_of_a_residual_addition_the_shortcut_alone_is_quantized() -> None:
    text = "(float[1,8,8,8] x) => (float y) { a = Conv(x, v) r = Relu(a) c = Conv(r, v) s = Add(c, r) y = Tanh(s) }"
    plan = placed(program(text, CONV))
    assert uses(plan)["r"] == ["Add_3:1", "Conv_2:0"] and "c" not in uses(plan)
    assert "Add_3" in plan.intended


def test_an_addition_of_two_convolutions_reads_one_of_them_in_codes() -> None:
    text = "(float[1,8,8,8] x) => (float y) { a = Conv(x, v) c = Conv(x, v) s = Add(a, c) y = Tanh(s) }"
    assert uses(placed(program(text, CONV)))["c"] == ["Add_2:1"]


def test_a_plain_addition_stays_in_float() -> None:
    plan = placed(program("(float[1,8,8,8] x) => (float y) { r = Relu(x) y = Add(x, r) }", CONV))
    assert plan.sites == {}


def test_max_pooling_passes_codes_on() -> None:
    text = """(float[1,8,8,8] x) => (float y) {
        c = Conv(x, v) r = Relu(c) p = MaxPool<kernel_shape = [2,2]>(r) y = Conv(p, v)
    }"""
    plan = placed(program(text, CONV))
    assert plan.ties == (frozenset({"p", "r"}),)


ATTENTION = """(float[1,4,32,32] q, float[1,4,32,32] k, float[1,4,32,32] v) => (float y) {
    a = MatMul(q, k) d = Div(a, root) e = Add(d, mask) p = Softmax<axis = -1>(e) y = MatMul(p, v)
}"""
MASK = {"root": np.float32(5), "mask": np.zeros((1, 1, 1, 32), np.float32)}


def test_both_products_of_attention_read_codes() -> None:
    plan = placed(program(ATTENTION, MASK))
    assert uses(plan) == {"q": ["MatMul_0:0"], "k": ["MatMul_0:1"], "p": ["MatMul_4:0"], "v": ["MatMul_4:1"]}


def test_a_product_of_two_tensors_elsewhere_stays_in_float() -> None:
    assert placed(program("(float[32,32] a, float[32,32] b) => (float y) { y = MatMul(a, b) }")).sites == {}


REFUSED = {
    "vector": ("(float[1,64] x) => (float y) { y = MatMul(x, w) }", (64, 64), "a product of a vector"),
    "vector a sample": ("(float[n,64] x) => (float y) { y = MatMul(x, w) }", (64, 64), "a product of a vector"),
    "few channels": ("(float[9,64] x) => (float y) { y = MatMul(x, w) }", (64, 4), "64 x 4 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_pay_stays_in_float_with_the_reason(name: str) -> None:
    text, shape, reason = REFUSED[name]
    (remark,) = remarks(program(text, weights(w=shape)))
    assert remark.startswith("MatMul_0: stays in float: ") and reason in remark


def test_int4_is_for_weights_in_blocks() -> None:
    graph = program("(float[9,128] x) => (float y) { m = MatMul(x, w) y = Tanh(m) }", weights(w=(128, 64)))
    plan = placed(graph, "int4")
    assert uses(plan) == {"w": ["MatMul_0:1"]}
    ((_, quant),) = plan.sites.items()
    assert quant.scheme.dtype == "int4" and quant.scheme.granularity == PerBlock(0, 64)


def test_fp4_is_for_products_with_weights() -> None:
    text = "(float[4,3,64] x) => (float y) { m = MatMul(x, w) r = Relu(m) y = Add(r, r) }"
    plan = placed(program(text, weights(w=(64, 64))), "nvfp4")
    assert uses(plan) == {"x": ["MatMul_0:0"], "w": ["MatMul_0:1"]}
    blocks = {site.tensor: quant.scheme.granularity for site, quant in plan.sites.items()}
    assert blocks == {"x": PerBlock(-1, 16), "w": PerBlock(0, 16)}
    assert placed(program(ATTENTION, MASK), "nvfp4").sites == {}
    assert placed(program("(float[1,3,8,8] x) => (float y) { y = Conv(x, w) }", CONV), "nvfp4").sites == {}


def test_blocks_are_scaled_in_a_run_for_two_or_three_axes() -> None:
    graph = program("(float[1,2,3,64] x) => (float y) { y = MatMul(x, w) }", weights(w=(64, 64)))
    (remark,) = remarks(graph, "nvfp4")
    assert remark == "MatMul_0: stays in float: blocks of 'x' cannot be scaled in a run: it has 4 axes"


def test_int4_blocks_must_fit() -> None:
    graph = program("(float[9,100] x) => (float y) { y = MatMul(x, w) }", weights(w=(100, 64)))
    assert remarks(graph, "int4") == ["MatMul_0: stays in float: its 100 terms are no multiple of 64"]


def test_weights_alone_leave_attention_alone() -> None:
    plan = placed(program(ATTENTION, MASK), "int4")
    assert plan.sites == {} and plan.intended == frozenset()


def around_zero(text: str, precision: str = "int8", **shapes: tuple[int, ...]) -> dict[str, bool]:
    """Whether each computed tensor that is read in codes has them around zero."""
    plan = placed(program(text, {**CONV, **weights(**shapes)}), precision)
    return {site.tensor: quant.scheme.symmetric for site, quant in plan.sites.items() if site.index == 0}


def test_what_products_with_constants_read_may_have_a_zero_point() -> None:
    text = "(float[1,3,8,8] x) => (float y) { c = Conv(x, w, b) r = Relu(c) d = Conv(r, v) y = Tanh(d) }"
    assert around_zero(text) == {"x": False, "r": False}
    assert around_zero(text, "fp8") == {"x": True, "r": True}


def test_what_one_reader_cannot_take_back_has_none() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv<auto_pad = "SAME_UPPER">(x, w, b) r = Relu(c) d = Conv(r, v) y = Tanh(d) }"""
    assert around_zero(text) == {"x": True, "r": False}
    text = """(float[1,8,8,8] x) => (float y) {
        r = Relu(x) c = Conv(r, v) u = ConvTranspose(r, v) s = Add(c, u) y = Tanh(s) }"""
    assert around_zero(text)["r"]


def test_what_is_tied_to_it_has_none_either() -> None:
    text = """(float[1,8,8,8] x) => (float y) { a = Conv(x, v) r = Relu(a) m = MaxPool<kernel_shape = [1, 1]>(r)
        c = OP(m, v) y = Tanh(c) }"""
    assert around_zero(text.replace("OP", "Conv")) == {"x": False, "r": False, "m": False}
    assert around_zero(text.replace("OP", "ConvTranspose")) == {"x": False, "r": True, "m": True}


def test_an_attentions_result_has_none() -> None:
    text = ATTENTION.replace("y) {", "z) {").rstrip()[:-1] + " r = Reshape(y, merged) z = MatMul(r, o) }"
    shapes = {"merged": np.array([0, -1, 64], np.int64), **weights(o=(64, 64))}
    plan = placed(program(text, {**MASK, **shapes}))
    assert {site.tensor for site, quant in plan.sites.items() if quant.scheme.symmetric} >= {"r", "p", "v"}
