"""Additions that only move a zero point: the steps chosen for them, and the graph without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pass_helpers import assert_same, ops, outputs, program, run_pass
from planned import feeds, lowered, numbers, placed, quant_of, solved, weights

import qcompiler
from qcompiler import ir, runtime
from qcompiler.passes.fold_scale_into_dequantize import FoldScaleIntoDequantize
from qcompiler.passes.fold_shift_into_dequantize import FoldShiftIntoDequantize

CONV = {
    **weights(w=(4, 3, 1, 1), v=(4, 1, 3, 3), u=(4, 4, 3, 3)),
    "a": np.float32([0.7]), "up": np.float32([0.8]), "down": np.float32(-1.3),
}  # fmt: skip
TEXT = "c = Conv(x, w)  m = Mul(c, a)  t = Add(m, {b})  y = Conv<group=4,pads=[1,1,1,1]>(t, v)  {more}"


def graph_of(text: str, outputs: str = "float[1,4,6,6] y") -> ir.Graph:
    return program(f"(float[1,3,6,6] x) => ({outputs}) {{ {text} }}", CONV)


def written(graph: ir.Graph) -> tuple[ir.Graph, ir.Graph]:
    """The lowered graph with its additions, and without them."""
    plan = solved(graph)
    before = lowered(graph, plan, FoldScaleIntoDequantize())
    return before, run_pass(FoldShiftIntoDequantize(), before)[0]


@pytest.mark.parametrize("b", ["up", "down"])
@pytest.mark.parametrize(
    ("more", "returned"),
    [
        ("", "float[1,4,6,6] y"),
        ("z = Conv(t, u)", "float[1,4,6,6] y, float[1,4,4,4] z"),  # several readers of the sum
        ("z = Conv(c, u)", "float[1,4,6,6] y, float[1,4,4,4] z"),  # and of what is added to
        ("z = Neg(c)", "float[1,4,6,6] y, float[1,4,6,6] z"),
    ],
)
def test_the_same_numbers_without_the_addition(b: str, more: str, returned: str) -> None:
    before, after = written(graph_of(TEXT.format(b=b, more=more), returned))
    assert ops(before).count("Add") == 1 and "Add" not in ops(after)
    assert ops(after).count("QuantizeLinear") == ops(before).count("QuantizeLinear") - 1
    assert_same(before, after)  # codes are the same, the border included


def test_the_padding_is_zero_behind_the_shift() -> None:
    """A tensor that is constant after the shift: any other value in the padding shows at the border."""
    values = {**CONV, "v": np.ones((4, 1, 3, 3), np.float32)}
    graph = program(f"(float[1,3,6,6] x) => (float[1,4,6,6] y) {{ {TEXT.format(b='up', more='')} }}", values)
    plan = solved(graph)
    after = lowered(graph, plan, FoldScaleIntoDequantize(), FoldShiftIntoDequantize())
    feed = {"x": np.zeros((1, 3, 6, 6), np.float32)}
    expected = np.full((6, 6), 9.0)
    expected[[0, -1]] = expected[:, [0, -1]] = 6.0
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 4.0
    step = float(numbers(quant_of(plan, "t"))[0])
    for optimize in ("none", "all"):
        with runtime.session(after, optimize=optimize) as session:
            (found,) = runtime.run(session, feed)
        assert np.allclose(found[0, 0], 0.8 * expected, atol=step / 2 * 9 + step)
        assert np.allclose(found[0, 0] / found[0, 0, 0, 0], expected / 4, rtol=0.03)


def test_tensor_and_sum_have_the_same_codes() -> None:
    plan = solved(graph_of(TEXT.format(b="up", more="")))
    (step, zero), (sum_step, sum_zero) = numbers(quant_of(plan, "c")), numbers(quant_of(plan, "t"))
    assert sum_step == step * np.float32(0.7)
    assert float(np.float32(0.8) / sum_step) == pytest.approx(zero - sum_zero, abs=1e-4)
    assert 0 <= sum_zero < zero <= 255


def plain(graph: ir.Graph, monkeypatch: pytest.MonkeyPatch) -> qcompiler.Plan:
    with monkeypatch.context() as patch:
        patch.setattr("qcompiler.passes.solve.align", lambda *_: None)
        return solved(graph)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (TEXT.format(b="up", more=""), 0.4),  # less than a step
        (TEXT.format(b="up", more=""), 1.9),  # one step would be nearly twice as wide as it need be
        ("c = Conv(x, w)  r = Relu(c)  t = Add(r, up)  y = Conv(t, u)", 30.4),  # a Relu wants 0 for zero
        ("c = Conv(x, w)  t = Add(c, up)  p = Flatten<axis=4>(t)  q = Reshape(p, s)  y = Conv(q, u)", 30.4),  # tied
    ],
)
def test_steps_that_stay(text: str, steps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**CONV, "s": np.array([1, 4, 6, 6])}
    graph = program(f"(float[1,3,6,6] x) => (float y) {{ {text} }}", values)
    own = float(numbers(quant_of(plain(graph, monkeypatch), "r" if "Relu" in text else "c"))[0])
    values["up"] = np.float32(own * steps * (0.7 if "Mul" in text else 1.0))
    graph = program(f"(float[1,3,6,6] x) => (float y) {{ {text} }}", values)
    assert solved(graph) == plain(graph, monkeypatch)
    _, after = written(graph)
    assert ops(after).count("Add") == 1


def test_a_whole_compilation() -> None:
    text = "c = Conv(x, w)  h = HardSwish(c)  m = Mul(h, a)  t = Add(m, up)  y = Conv<group=4,pads=[1,1,1,1]>(t, v)"
    graph = graph_of(text)
    result = qcompiler.compile(graph, feeds(graph, 8), options=qcompiler.Options(timing=False))
    assert result.plan is not None and any(site.tensor == "t" for site in result.plan.sites)
    assert result.report.operators["QLinearConv"] == 2
    assert result.report.operators["QLinearAdd"] == 1  # inside of the HardSwish, with a Clip behind it
    assert result.report.outputs[0].sqnr > 25


CODES: dict[str, object] = {
    "s": np.float32(0.5), "z": np.uint8(10), "c": np.float32(2.5), "k": np.uint8(5), "moved": np.uint8(9),
    "wide": np.float32(0.51), "odd": np.float32(2.6), "cs": np.float32(0.25), "cz": np.uint8(0), "cq": np.uint8([10]),
    "rows": np.float32([2.5, 2.5]), "signed": np.int8(5),
}  # fmt: skip


def coded(steps: Sequence[str]) -> ir.Graph:
    text = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  " + "  ".join(steps)
    return program(f"(float[3,2] x) => (float[3,2] y) {{ {text} }}", CODES)


@pytest.mark.parametrize("add", ["Add(d, c)", "Add(c, d)", "Add(d, e)"])
def test_codes_are_handed_on(add: str) -> None:
    steps = [f"t = {add}", "r = QuantizeLinear(t, s, k)", "y = DequantizeLinear(r, s, k)"]
    graph = coded(["e = DequantizeLinear(cq, cs, cz)", *steps] if "e)" in add else steps)
    after, rewrites, _ = run_pass(FoldShiftIntoDequantize(), graph)
    assert rewrites == 1 and ops(after) == ["QuantizeLinear", "DequantizeLinear"]
    assert_same(graph, after)
    assert outputs(after, {"x": np.full((3, 2), 1000, np.float32)})["y"][0, 0] == 0.5 * (255 - 5)  # cut alike


@pytest.mark.parametrize(
    ("add", "quantize"),
    [
        ("Add(d, odd)", "s, k"),  # no whole number of steps
        ("Add(d, c)", "s, moved"),  # another zero point
        ("Add(d, c)", "wide, k"),  # another step
        ("Add(d, c)", "s, signed"),  # another type
        ("Add(d, rows)", "s, k"),  # not one number
        ("Add(d, d)", "s, k"),
        ("Sub(d, c)", "s, k"),
    ],
)
def test_left_alone(add: str, quantize: str) -> None:
    zero = quantize.split(", ")[1]
    graph = coded([f"t = {add}", f"r = QuantizeLinear(t, {quantize})", f"y = DequantizeLinear(r, s, {zero})"])
    after, rewrites, _ = run_pass(FoldShiftIntoDequantize(), graph)
    assert rewrites == 0 and ops(after) == ops(graph)


def test_the_plan_intends_the_addition() -> None:
    """Where numbers allow nothing else, the addition runs in 8 bits as any other."""
    graph = graph_of(TEXT.format(b="up", more=""))
    add = next(node.name for node in graph.nodes if node.op == "Add")
    assert add in placed(graph).intended
