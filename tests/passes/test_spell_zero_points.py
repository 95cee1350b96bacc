"""Zero points as arithmetic: the same values, and what takes the offset back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, outputs, program, run_pass
from planned import weights

from qcompiler import ir
from qcompiler.passes.spell_zero_points import SpellZeroPoints

QUANT = {"s": np.float32(0.015625), "z": np.int8(-128), "m": np.int8(-40), "t": np.float32(0.03125)}
CONV = {**weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1), u=(4, 4, 3, 3), d=(4, 1, 3, 3), b=(4,)), **QUANT}
PRODUCT = {**weights(w=(6, 5), b=(5,)), **QUANT}


def spelled(text: str, constants: dict[str, np.ndarray]) -> ir.Graph:
    """After the pass, with no zero point left and the same outputs as before, but for rounding of float32."""
    graph = program(text, constants)
    after, count, _ = run_pass(SpellZeroPoints(), graph)
    assert count > 0
    for node in after.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            assert not node.inputs[2].values.any()
    assert_same(graph, after, atol=1e-4)
    return after


def count(graph: ir.Graph, op: str) -> int:
    return ops(graph).count(op)


def test_a_relu_between_convolutions_is_done_by_q_and_the_biases_take_the_offset() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w, b) r = Relu(c)
        q = QuantizeLinear(r, s, z) e = DequantizeLinear(q, s, z) y = Conv(e, v) }"""
    after = spelled(text, CONV)
    assert ops(after) == ["Conv", "QuantizeLinear", "DequantizeLinear", "Conv"]
    first, last = (node for node in after.nodes if node.op == "Conv")
    assert np.allclose(first.inputs[2].values, CONV["b"] - 2.0)
    assert np.allclose(last.inputs[2].values, 2.0 * CONV["v"].sum((1, 2, 3)), atol=1e-6)


def test_a_clip_that_cuts_off_more_than_q_does_stays() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w, b) r = Clip(c, zero, HIGH)
        q = QuantizeLinear(r, s, z) e = DequantizeLinear(q, s, z) y = Conv(e, v) }"""
    bounds = {"zero": np.float32(0), "two": np.float32(2), "six": np.float32(6)}
    assert "Clip" not in ops(spelled(text.replace("HIGH", "six"), {**CONV, **bounds}))
    after = spelled(text.replace("HIGH", "two"), {**CONV, **bounds})
    assert ops(after)[:4] == ["Conv", "Clip", "Sub", "QuantizeLinear"]


def test_a_relu_whose_zero_is_not_the_lowest_code_stays() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w, b) r = Relu(c)
        q = QuantizeLinear(r, s, m) e = DequantizeLinear(q, s, m) y = Conv(e, v) }"""
    assert ops(spelled(text, CONV))[:4] == ["Conv", "Relu", "Sub", "QuantizeLinear"]


def test_what_another_node_reads_as_well_is_not_shifted_in_a_bias() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,4,6,6] o) { c = Conv(x, w, b) r = Relu(c) o = Exp(c)
        q = QuantizeLinear(r, s, z) e = DequantizeLinear(q, s, z) y = Conv(e, v) }"""
    after = spelled(text, CONV)
    assert count(after, "Sub") == 1 and count(after, "Relu") == 1


def test_a_convolution_that_pads_reads_what_is_padded_before_q() -> None:
    text = """(float[1,4,8,8] x) => (float[1,4,8,7] y) {
        q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m) y = Conv<pads = [1, 0, 1, 1]>(e, u, b) }"""
    after = spelled(text, CONV)
    assert ops(after) == ["Sub", "Pad", "QuantizeLinear", "DequantizeLinear", "Conv"]


def test_readers_that_pad_differently_have_codes_of_their_own() -> None:
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] o) { q = QuantizeLinear(x, s, m)
        e = DequantizeLinear(q, s, m) y = Conv<group = 4, pads = [1, 1, 1, 1]>(e, d)
        f = DequantizeLinear(q, s, m) o = Conv(f, v) }"""
    after = spelled(text, CONV)
    assert (count(after, "Sub"), count(after, "Pad"), count(after, "QuantizeLinear")) == (1, 1, 2)


def test_a_product_takes_the_offset_back_behind_it() -> None:
    text = """(float[2,6] x) => (float[2,5] y) {
        q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m) p = MatMul(e, w) y = Add(b, p) }"""
    assert ops(spelled(text, PRODUCT)) == ["Sub", "QuantizeLinear", "DequantizeLinear", "MatMul", "Add"]
    alone = text.replace("p = MatMul(e, w) y = Add(b, p)", "y = MatMul(e, w)")
    assert ops(spelled(alone, PRODUCT)) == ["Sub", "QuantizeLinear", "DequantizeLinear", "MatMul", "Add"]


def test_a_gemm_does_in_its_bias() -> None:
    text = """(float[2,5] x) => (float[2,6] y) {
        q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m) y = Gemm<transB = 1>(e, w) }"""
    assert ops(spelled(text, PRODUCT)) == ["Sub", "QuantizeLinear", "DequantizeLinear", "Gemm"]


def test_a_weight_in_codes_counts_as_it_is_after_rounding() -> None:
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y) { q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m)
        k = DequantizeLinear<axis = 0>(codes, steps, zeros) y = Conv(e, k) }"""
    codes = np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8)
    steps, zeros = np.float32([0.01, 0.02, 0.03, 0.04]), np.zeros(4, np.int8)
    spelled(text, {**QUANT, "codes": codes, "steps": steps, "zeros": zeros})


def test_a_shortcut_is_given_back_by_the_convolution_beside_it() -> None:
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y) { q = QuantizeLinear(x, s, m)
        e = DequantizeLinear(q, s, m) c = Conv(e, v, b) f = DequantizeLinear(q, s, m) y = Add(f, c) }"""
    assert count(spelled(text, CONV), "Add") == 1


def test_what_moves_values_moves_shifted_ones() -> None:
    text = """(float[1,4,8,8] x, float[1,4,4,4] w0) => (float[1,4,4,4] y) {
        q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)
        a = QuantizeLinear(p, s, m) f = DequantizeLinear(a, s, m) g = QuantizeLinear(w0, s, m)
        h = DequantizeLinear(g, s, m) i = Concat<axis = 1>(f, h)
        j = QuantizeLinear(i, s, m) k = DequantizeLinear(j, s, m) y = Conv(k, wide) }"""
    after = spelled(text, {**CONV, **weights(wide=(4, 8, 1, 1))})
    assert (count(after, "Sub"), count(after, "Add")) == (2, 0)


def test_a_concat_of_differently_rounded_values_joins_them_as_they_are() -> None:
    text = """(float[1,4,4,4] x, float[1,4,4,4] w0) => (float[1,8,4,4] y) {
        q = QuantizeLinear(x, s, m) e = DequantizeLinear(q, s, m)
        g = QuantizeLinear(w0, t, m) h = DequantizeLinear(g, t, m) i = Concat<axis = 1>(e, h)
        j = QuantizeLinear(i, t, m) y = DequantizeLinear(j, t, m) }"""
    after = spelled(text, QUANT)
    assert (count(after, "Sub"), count(after, "Add")) == (3, 3) and after.outputs[0].name == "y"


def test_values_around_zero_are_left_alone() -> None:
    text = "(float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, n) y = DequantizeLinear(q, s, n) }"
    graph = program(text, {"s": np.float32(0.5), "n": np.int8(0)})
    assert run_pass(SpellZeroPoints(), graph)[1] == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(-128, 127), st.integers(0, 1), st.booleans(), st.integers(0, 99))
def test_any_zero_point_leaves_the_same_values(zero: int, pad: int, relu: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    text = f"""(float[1,3,5,5] x) => (float y) {{ c = Conv(x, one, b) r = {"Relu" if relu else "Identity"}(c)
        q = QuantizeLinear(r, s, k) e = DequantizeLinear(q, s, k)
        y = Conv<pads = [{pad}, {pad}, {pad}, {pad}]>(e, w) }}"""
    step = np.float32(0.03125)
    arrays = {"one": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w": random.normal(size=(2, 3, 2, 2))}
    arrays["b"] = step * random.integers(-20, 20, 3)
    graph = program(text, {**{n: a.astype(np.float32) for n, a in arrays.items()}, "s": step, "k": np.int8(zero)})
    after, _, _ = run_pass(SpellZeroPoints(), graph)
    values = {"x": (step * (random.integers(-200, 200, (1, 3, 5, 5)) + 0.25)).astype(np.float32)}  # no ties
    assert np.allclose(outputs(graph, values)["y"], outputs(after, values)["y"], atol=1e-4)
