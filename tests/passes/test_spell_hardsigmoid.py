from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass
from planned import TARGET, lowered, solved, weights

from qcompiler import ir
from qcompiler.passes.fold_scale_into_dequantize import FoldScaleIntoDequantize
from qcompiler.passes.recognize_hardsigmoid import RecognizeHardSigmoid
from qcompiler.passes.recognize_hardswish import RecognizeHardSwish
from qcompiler.passes.spell_hardsigmoid import SpellHardSigmoid
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.verify import fused

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))
BACK = (FoldScaleIntoDequantize(), RecognizeHardSigmoid(), RecognizeHardSwish())


def spelled(graph: ir.Graph) -> ir.Graph:
    ir.infer_shapes(graph)
    after, _, _ = run_pass(SpellHardSigmoid(), graph)
    ir.infer_shapes(after)
    return after


@pytest.mark.parametrize("op", ["HardSigmoid", "HardSigmoid<alpha = 0.125, beta = 0.75>", "HardSwish"])
def test_it_computes_the_same(op: str) -> None:
    name, _, attributes = op.partition("<")
    text = f"(float[2,50] x) => (float[2,50] y) {{ y = {name}{'<' + attributes if attributes else ''}(x) }}"
    before = program(text)
    after, rewrites, _ = run_pass(SpellHardSigmoid(), before)
    assert rewrites == 1
    assert ops(after) == (["Mul", "Add", "Clip", "Mul"] if op == "HardSwish" else ["Mul", "Add", "Clip"])
    assert_same(before, after, rtol=1e-6, atol=1e-7)


def test_a_falling_gate_stays() -> None:
    before = program("(float[2,5] x) => (float[2,5] y) { y = HardSigmoid<alpha = -0.5>(x) }")
    assert run_pass(SpellHardSigmoid(), before)[1] == 0


def test_half_precision_stays() -> None:
    before = program("(float16[2,5] x) => (float16[2,5] y) { y = HardSwish(x) }")
    assert run_pass(SpellHardSigmoid(), before)[1] == 0


def test_between_convolutions_it_runs_on_codes() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) h = HardSwish(c) y = Conv(h, v) }"
    graph = spelled(program(text, CONV))
    runs = fused.optimize(lowered(graph, solved(graph), *BACK)).histogram()
    assert {op: n for op, n in runs.items() if op != "Transpose"} == {
        "DequantizeLinear": 1, "QLinearAdd": 1, "QLinearConv": 2, "QLinearMul": 1, "QuantizeLinear": 1,
    }  # fmt: skip


def test_where_it_stays_in_float_the_node_comes_back() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) h = HardSwish(c) s = Tanh(h) y = Conv(s, v) }"
    graph = spelled(program(text, CONV))
    after = lowered(graph, solved(graph), *BACK)
    assert "HardSwish" in ops(after) and "Clip" not in ops(after)
    Pipeline(list(BACK)).run(graph, PassContext(TARGET, Plan()))
    assert ops(graph) == ["Conv", "HardSwish", "Tanh", "Conv"]


def test_its_last_codes_are_the_gates_ends() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,6,6] y) { c = Conv(x, w) h = HardSwish(c) y = Conv(h, v) }"
    graph = spelled(program(text, {**CONV, "w": 9 * CONV["w"]}))
    gate = next(node for node in graph.nodes if node.op == "Clip").outputs[0].name
    (quant,) = set(solved(graph).tensors()[gate].values())
    assert quant.zero_point == 0 and float(quant.scale) * 255 == pytest.approx(1.0)  # type: ignore[arg-type]
    assert float(np.float64(quant.scale) * 255) <= 1.0  # type: ignore[arg-type]
