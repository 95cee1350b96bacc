from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass
from planned import TARGET, lowered, solved, weights

from qcompiler import ir
from qcompiler.passes.spell_prelu import SpellPRelu
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.verify import fused

SLOPES = np.array([0.25, -0.5, 1.0, 0.0, 0.9, 0.1], np.float32)
CONSTANTS = {
    "a": SLOPES.reshape(6, 1, 1),
    "b": SLOPES.reshape(1, 6, 1, 1),
    "c": SLOPES.reshape(6, 1),
    "one": np.array([0.25], np.float32),
    "same": np.full((6, 1, 1), 0.2, np.float32),
    "steep": (SLOPES + 0.5).reshape(6, 1, 1),
    "rows": np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32),
    "places": np.linspace(-1, 1, 210, dtype=np.float32).reshape(1, 6, 5, 7),
    "none": np.where(SLOPES == 1.0, np.nan, SLOPES).astype(np.float32).reshape(6, 1, 1),
}
PICTURES = "(float[2,6,5,7] x) => (float[2,6,5,7] y)"


def spelled(text: str) -> tuple[ir.Graph, ir.Graph, int, list[str]]:
    before = program(text, CONSTANTS)
    ir.infer_shapes(before)
    after, rewrites, diagnostics = run_pass(SpellPRelu(), before)
    return before, after, rewrites, refusals(diagnostics)


@pytest.mark.parametrize("slope", ["one", "same"])
def test_one_slope_for_all_is_an_attribute(slope: str) -> None:
    before, after, rewrites, _ = spelled(f"{PICTURES} {{ y = PRelu(x, {slope}) }}")
    assert rewrites == 1 and ops(after) == ["LeakyRelu"]
    assert_same(before, after)


@pytest.mark.parametrize("shape, slope", [("2,6,5,7", "a"), ("N,6,H,W", "b"), ("2,6,9", "c")])
def test_a_slope_for_each_channel_is_a_convolution(shape: str, slope: str) -> None:
    before, after, rewrites, _ = spelled(f"(float[{shape}] x) => (float[{shape}] y) {{ y = PRelu(x, {slope}) }}")
    assert rewrites == 1 and ops(after) == ["Conv", "Relu", "Add"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["2,6,5,7", "N,6,5,7"])
def test_a_slope_for_each_place_is_a_product(shape: str) -> None:
    before, after, rewrites, _ = spelled(f"(float[{shape}] x) => (float[{shape}] y) {{ y = PRelu(x, places) }}")
    assert rewrites == 1 and ops(after) == ["Mul", "Relu", "Add"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "slope, why", [("steep", "above 1"), ("none", "above 1"), ("rows", "neither one for each channel")]
)
def test_what_it_refuses(slope: str, why: str) -> None:
    _, after, rewrites, refused = spelled(f"{PICTURES} {{ y = PRelu(x, {slope}) }}")
    assert rewrites == 0 and ops(after) == ["PRelu"] and why in refused[0]


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,6,5,7] x, float[6,1,1] s) => (float[2,6,5,7] y) { y = PRelu(x, s) }",
        f"{PICTURES} {{ y = PRelu(x) }}",
        "(float[2,6] x) => (float[2,6] y) { s = Constant<value = float[6] {1,0,0,0,0,1}>() y = PRelu(x, s) }",
    ],
)
def test_what_stays(text: str) -> None:
    before, after, rewrites, _ = spelled(text)
    assert rewrites == 0 and ops(after) == ops(before)


def test_where_it_is_a_table_it_stays() -> None:
    graph = program(f"{PICTURES} {{ y = PRelu(x, a) }}", CONSTANTS)
    Pipeline([SpellPRelu()]).run(graph, PassContext(TARGET.at("int8", "native")))
    assert ops(graph) == ["PRelu"]


@pytest.mark.parametrize(
    "slope, expected", [("a", {"QLinearConv": 3}), ("places", {"QLinearConv": 2, "QLinearMul": 1})]
)
def test_between_convolutions_all_runs_on_codes(slope: str, expected: dict[str, int]) -> None:
    constants = {**weights(w=(6, 3, 3, 3), u=(4, 6, 1, 1)), **CONSTANTS}
    text = f"(float[1,3,7,9] x) => (float[1,4,5,7] y) {{ d = Conv(x, w) p = PRelu(d, {slope}) y = Conv(p, u) }}"
    before = program(text, constants)
    ir.infer_shapes(before)
    graph, _, _ = run_pass(SpellPRelu(), before)
    ir.infer_shapes(graph)
    runs = fused.optimize(lowered(graph, solved(graph))).histogram()
    assert {op: runs.get(op) for op in expected} == expected and runs.get("QLinearAdd") == 1
    assert not {"PRelu", "Relu", "Conv", "Add", "Mul"} & runs.keys()
