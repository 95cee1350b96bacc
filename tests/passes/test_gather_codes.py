"""Rows of tables in 8 bits, taken before they are dequantized."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import outputs, program

from qcompiler import ir
from qcompiler.passes.gather_codes import GatherCodes
from qcompiler.pipeline import PassContext, Pipeline

RANDOM = np.random.default_rng(0)
CODES = {"c": RANDOM.integers(-127, 128, (40, 6)).astype(np.int8)}
BY_ROW = {**CODES, "s": RANDOM.uniform(0.01, 0.1, 40).astype(np.float32), "z": np.zeros(40, np.int8)}
IN_ONE = {**CODES, "s": np.float32(0.05), "z": np.int8(0)}
TEXT = "(int64[2,3] i) => (float y) { t = DequantizeLinear <axis = 0> (c, s, z) y = Gather(t, i) }"
TWICE = TEXT.replace("(float y)", "(float y, float u)").replace("i) }", "i) u = Gather(t, k) }")
INDICES = {"i": np.array([[0, 39, -1], [-40, 7, 7]])}


def rewritten(graph: ir.Graph) -> ir.Graph:
    result = ir.clone(graph)
    Pipeline([GatherCodes()]).run(result, PassContext())
    return result


@pytest.mark.parametrize("constants", [BY_ROW, IN_ONE], ids=["by row", "in one"])
@pytest.mark.parametrize("text", [TEXT, TEXT.replace(", z)", ")"), TWICE])
def test_the_same_to_the_bit(constants: dict[str, np.ndarray], text: str) -> None:
    graph = program(text, {**constants, "k": np.array([3, -3])}, 20, 9)
    found = rewritten(graph)
    assert "DequantizeLinear" not in {node.op for node in found.nodes}
    for name, value in outputs(graph, INDICES).items():
        assert np.array_equal(outputs(found, INDICES)[name], value)


@pytest.mark.parametrize(
    "text, changed",
    [
        (TEXT.replace("Gather(t", "Gather <axis = 1> (t"), {}),
        (TEXT.replace("<axis = 0>", "<axis = 1>"), {"s": np.full(6, 0.1, np.float32), "z": np.zeros(6, np.int8)}),
        (TEXT, {"z": np.full(40, 3, np.int8)}),
        (TEXT.replace("(c, s, z)", "(n, s, z)").replace("{ t", "{ n = Neg(c) t"), {}),
    ],
    ids=["columns", "a scale a column", "zero points", "computed codes"],
)
def test_what_is_left_alone(text: str, changed: dict[str, np.ndarray]) -> None:
    graph = program(text, {**BY_ROW, **changed}, 20, 9)
    assert [node.op for node in rewritten(graph).nodes] == [node.op for node in graph.nodes]
