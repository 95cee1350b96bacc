from __future__ import annotations

import numpy as np
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.scale_before_product import ScaleBeforeProduct

TEXT = """(float[1,2,8,8] q, float[1,2,8,8] k) => (float[1,2,8,8] y) {
    a = QuantizeLinear(q, s, z) b = DequantizeLinear(a, s, z) c = QuantizeLinear(k, s, z) d = DequantizeLinear(c, s, z)
    m = MatMul(b, d) SCALE y = Softmax<axis = -1>(n)
}"""
CONSTANTS = {"s": np.float32(0.03125), "z": np.int8(0)}


def attention(scale: str, **constants: np.ndarray) -> ir.Graph:
    return program(TEXT.replace("SCALE", scale), {**CONSTANTS, **constants})


def test_a_division_moves_before_the_product_and_its_codes_stay() -> None:
    graph = attention("n = Div(m, c4)", c4=np.float32(4))
    after, count, _ = run_pass(ScaleBeforeProduct(), graph)
    assert count == 1
    assert ops(after) == [
        "QuantizeLinear", "DequantizeLinear", "Mul", "QuantizeLinear", "DequantizeLinear", "MatMul", "Softmax",
    ]  # fmt: skip
    assert_same(graph, after, rtol=1e-6, atol=1e-7)
    steps = sorted(float(n.inputs[1].values) for n in after.nodes if n.op == "QuantizeLinear")
    assert steps == [0.0078125, 0.03125]


def test_a_multiplication_does_too() -> None:
    graph = attention("n = Mul(m, quarter)", quarter=np.array([0.25], np.float32))
    after, count, _ = run_pass(ScaleBeforeProduct(), graph)
    assert count == 1
    assert_same(graph, after, rtol=1e-6, atol=1e-7)


def test_another_reader_of_the_product_keeps_it() -> None:
    graph = attention("r = Relu(m) e = Div(m, c4) n = Add(r, e)", c4=np.float32(4))
    assert run_pass(ScaleBeforeProduct(), graph)[1] == 0


def test_a_factor_that_is_not_positive_stays() -> None:
    assert run_pass(ScaleBeforeProduct(), attention("n = Mul(m, minus)", minus=np.float32(-1)))[1] == 0


def test_codes_that_others_read_are_refused() -> None:
    graph = attention("e = DequantizeLinear(a, s, z) o = Div(m, c4) n = Add(o, e)", c4=np.float32(4))
    _, count, diagnostics = run_pass(ScaleBeforeProduct(), graph)
    assert count == 0 and refusals(diagnostics) == ["Div_6: other products read the same codes"]
