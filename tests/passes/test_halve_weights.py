"""Weights that stay in float32 where others have codes, stored in 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import weights

from qcompiler import ir, numerics
from qcompiler.passes.halve_weights import HalveWeights
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import BY_USER, Plan
from qcompiler.verify import fused

CONV = "(float[1,16,6,6] x) => (float y) { y = Conv(x, w) }"
CONSTANTS = weights(w=(32, 16, 3, 3))
PLAN = Plan(intended=frozenset({"another"}))


def halved(graph: ir.Graph, plan: Plan = PLAN) -> ir.Graph:
    result = ir.clone(graph)
    Pipeline([HalveWeights()]).run(result, PassContext(plan=plan))
    return result


@pytest.mark.parametrize(
    "text, constants",
    [
        (CONV, CONSTANTS),
        ("(float[1,16,6,6] x) => (float y) { a = Conv(x, w) b = ConvTranspose(x, w2) y = Conv(x, w) }",
         weights(w=(32, 16, 3, 3), w2=(16, 32, 3, 3))),
        ("(float[4,64] x) => (float y) { y = Gemm(x, w) }", weights(w=(64, 64))),
        ("(float[3,1,32] x) => (float y, float h) { y, h = GRU <hidden_size = 24> (x, w, r) }",
         weights(w=(1, 72, 32), r=(1, 72, 24))),
        ("(float[4,64] x, bool c) => (float y) { y = If (c) <then_branch = g1 () => (t) { t = MatMul(x, w) }, "
         "else_branch = g2 () => (e) { e = MatMul(x, w) }> }", weights(w=(64, 64))),
    ],
    ids=["Conv", "two", "Gemm", "GRU", "bodies"],
)  # fmt: skip
def test_half_the_bytes_and_the_same_runs(text: str, constants: dict[str, np.ndarray]) -> None:
    graph = program(text, constants, 20, 9)
    result = halved(graph)
    large = sum(values.nbytes for values in constants.values() if values.nbytes >= 4 * 4096)
    assert ir.weight_bytes(graph) - ir.weight_bytes(result) == large / 2
    assert fused.optimize(result).histogram() == fused.optimize(graph).histogram()  # no Cast is left to run
    given = feed(graph)
    for name, value in outputs(graph, given).items():
        assert numerics.sqnr(value, outputs(result, given)[name]) > 65.0


@pytest.mark.parametrize(
    "text, constants",
    [
        (CONV.replace("y = Conv", "y = Conv(x, w) s = Abs(w) z = Conv"), CONSTANTS),
        (CONV, weights(w=(8, 16, 3, 3))),
        (CONV, {"w": np.full((32, 16, 3, 3), 1e5, np.float32)}),
        (CONV, {"w": np.full((32, 16, 3, 3), np.nan, np.float32)}),
        ("(float[1,4096] x) => (float y) { y = Add(x, w) }", weights(w=(1, 4096))),
    ],
    ids=["read by others", "small", "too large", "not finite", "no product"],
)
def test_what_is_left_alone(text: str, constants: dict[str, np.ndarray]) -> None:
    graph = program(text, constants, 20, 9)
    assert "Cast" not in {node.op for _, node in ir.all_nodes(halved(graph))}


@pytest.mark.parametrize("plan", [Plan(), Plan(intended=PLAN.intended, kept={"Conv_0": f"{BY_USER}: --exclude"})])
def test_where_nothing_is_quantized_or_the_user_says_so_all_stays(plan: Plan) -> None:
    graph = program(CONV, CONSTANTS, 20, 9)
    assert [node.op for node in halved(graph, plan).nodes] == ["Conv"]
