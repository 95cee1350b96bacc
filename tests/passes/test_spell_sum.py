from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.spell_sum import SpellSum
from qcompiler.verify import fused

CONSTANTS = {
    "s": np.ones(384, np.float32), "b": np.zeros(384, np.float32), "c": np.ones(384, np.float32),
    "w": np.random.default_rng(0).normal(size=(384, 384)).astype(np.float32),
}  # fmt: skip


def normalized(body: str, outputs: str = "float[1,64,384] y") -> ir.Graph:
    return program(f"(float[1,64,384] x, float[1,64,384] r) => ({outputs}) {{ {body} }}", CONSTANTS)


def test_the_runtime_leaves_both_as_they_are() -> None:
    before = normalized("m = MatMul(x, w) a = Add(m, r) y = LayerNormalization <axis = -1> (a, s, b)")
    after, rewrites, _ = run_pass(SpellSum(), before)
    assert rewrites == 1 and ops(after) == ["MatMul", "Sum", "LayerNormalization"]
    assert_same(before, after)
    assert "SkipLayerNormalization" in fused.optimize(before).histogram()
    assert fused.optimize(after).histogram()["LayerNormalization"] == 1


def test_several_normalizations_of_one_sum() -> None:
    body = "a = Add(x, r) y = LayerNormalization <axis = -1> (a, s, b) z = LayerNormalization <axis = -1> (a, c)"
    before = normalized(body, "float y, float z")
    after, rewrites, _ = run_pass(SpellSum(), before)
    assert rewrites == 1
    assert_same(before, after)


@pytest.mark.parametrize(
    "body, outputs",
    [
        ("m = MatMul(x, w) a = Add(m, b) y = LayerNormalization <axis = -1> (a, s, b)", "float y"),
        ("a = Add(x, r) n = LayerNormalization <axis = -1> (a, s, b) y = Add(n, a)", "float y"),
        ("a = Add(x, r) y = LayerNormalization <axis = -1> (a, s, b)", "float y, float a"),
        ("a = Add(x, r) d = ReduceMean <keepdims = 0, axes = [0, 1]> (a) y = LayerNormalization <axis = -1> (x, d)",
         "float y"),
        ("a = Add(x, r) y = Relu(a)", "float y"),
    ],
)  # fmt: skip
def test_what_is_left_alone(body: str, outputs: str) -> None:
    assert run_pass(SpellSum(), normalized(body, outputs))[1] == 0


def test_halves_are_left_alone() -> None:
    body = "h = Cast <to = 10> (x) a = Add(h, h) y = LayerNormalization <axis = -1> (a, g)"
    graph = program(f"(float[2,384] x) => (float16[2,384] y) {{ {body} }}", {"g": np.ones(384, np.float16)})
    ir.infer_shapes(graph)
    assert run_pass(SpellSum(), graph)[1] == 0
