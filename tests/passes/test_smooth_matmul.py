from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import assert_same, ops, outputs
from pass_helpers import program as read
from planned import TARGET, lowered, placed, solved, weights

from qcompiler import ir
from qcompiler.calibrate import sample_rows
from qcompiler.errors import PassError
from qcompiler.passes.place import Place
from qcompiler.passes.smooth_matmul import SmoothMatMul
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.runtime import Feed
from qcompiler.target_files import load_target

WEIGHTS = weights(w=(64, 32), v=(64, 16))
ONE = "(float[N,64] x) => (float[N,32] y) { h = Neg(x) y = MatMul(h, w) }"
DEEP = "(float[N,512] x) => (float[N,32] y) { h = Neg(x) y = MatMul(h, w) }"


def program(text: str, constants: dict[str, np.ndarray]) -> ir.Graph:
    graph = read(text, constants)
    ir.infer_shapes(graph)
    return graph


def samples(channels: dict[int, float], count: int = 64) -> list[Feed]:
    """Normal values, some channels of which reach farther."""
    random = np.random.default_rng(0)
    scale = np.ones(count, np.float32)
    for channel, factor in channels.items():
        scale[channel] = factor
    return [{"x": (random.normal(size=(16, count)) * scale).astype(np.float32)} for _ in range(4)]


def smoothed(graph: ir.Graph, feeds: list[Feed], plan: Plan | None = None) -> tuple[ir.Graph, Plan]:
    """The graph after smoothing by what the feeds show, and the plan of what came of it."""
    result, one = ir.clone(graph), SmoothMatMul()
    plan = plan or placed(graph)
    rows = sample_rows(graph, one.wanted(graph, plan), feeds)
    found = Pipeline([one]).run(result, PassContext(TARGET, plan, rows=rows)).plan
    assert found is not None
    return result, found


def row_noise(graph: ir.Graph, after: ir.Graph, plan: Plan, feeds: list[Feed]) -> float:
    """Decibels of the quantized graph against the float one, each row judged against its own size."""
    coded = lowered(after, solved(after, replace(placed(after), smoothing=plan.smoothing), feeds))
    shares = []
    for feed in feeds:
        wanted = outputs(graph, feed)["y"].astype(np.float64)
        shares.append(np.sum((outputs(coded, feed)["y"] - wanted) ** 2, axis=1) / np.sum(wanted**2, axis=1))
    return float(-10 * np.log10(np.mean(shares)))


def test_the_float_model_computes_the_same() -> None:
    graph = program(ONE, WEIGHTS)
    after, plan = smoothed(graph, samples({3: 20.0, 9: 5.0}))
    assert ops(after).count("MatMul") == 1 and plan.smoothing["h"].shape == (64,)
    assert_same(graph, after, rtol=1e-4, atol=1e-5)


def test_an_outlying_channel_makes_less_noise() -> None:
    graph, feeds = program(ONE, WEIGHTS), samples({3: 20.0})
    after, plan = smoothed(graph, feeds)
    assert plan.smoothing["h"][3] < 0.5 * np.median(plan.smoothing["h"])
    assert row_noise(graph, after, plan, feeds) > row_noise(graph, graph, Plan(), feeds) + 2.0


def test_a_channel_far_beyond_all_others_stays_in_float_beside_the_product() -> None:
    """It is far beyond in a few rows only, the others would be rounded away: no factor helps against that."""
    graph, feeds = program(DEEP, weights(w=(512, 32))), samples({}, 512)
    for feed in feeds:
        feed["x"][0, 3] = 3000.0
    after, plan = smoothed(graph, feeds)
    assert plan.smoothing["h"][3] == 0.0 and np.count_nonzero(plan.smoothing["h"]) >= 504
    assert [op for op in ops(after) if op in ("Gather", "MatMul", "Add")].count("MatMul") == 2
    assert_same(graph, after, rtol=1e-4, atol=1e-4)
    assert row_noise(graph, after, plan, feeds) > row_noise(graph, graph, Plan(), feeds) + 10.0


def test_a_product_of_few_channels_is_not_split_for_what_float_would_cost_less() -> None:
    graph, feeds = program(ONE, WEIGHTS), samples({})
    for feed in feeds:
        feed["x"][0, 3] = 3000.0
    after, plan = smoothed(graph, feeds)
    assert ops(after).count("MatMul") == 1 and plan.smoothing["h"].all()


def test_all_readers_share_the_factors() -> None:
    text = "(float[N,64] x) => (float[N,32] y, float[N,16] z) { h = Neg(x) y = MatMul(h, w) z = MatMul(h, v) }"
    graph = program(text, WEIGHTS)
    after, _ = smoothed(graph, samples({3: 20.0}))
    assert ops(after) == ["Neg", "Mul", "MatMul", "MatMul"]
    assert_same(graph, after, rtol=1e-4, atol=1e-5)


def test_even_channels_are_left_alone() -> None:
    even = {"w": np.random.default_rng(0).uniform(-1, 1, (64, 32)).astype(np.float32)}
    feeds = [{"x": np.random.default_rng(1).uniform(-1, 1, (64, 64)).astype(np.float32)}]
    after, plan = smoothed(program(ONE, even), feeds)
    assert plan.smoothing == {} and ops(after) == ["Neg", "MatMul"]


def test_a_plan_is_applied_as_it_is() -> None:
    graph = program(ONE, WEIGHTS)
    after, plan = smoothed(graph, samples({3: 20.0}))
    again = ir.clone(graph)
    Pipeline([SmoothMatMul()]).run(again, PassContext(TARGET, Plan(smoothing=plan.smoothing)))
    assert ir.to_proto(again).SerializeToString(deterministic=True) == ir.to_proto(after).SerializeToString(
        deterministic=True
    )


def test_what_is_in_codes_already_is_not_wanted() -> None:
    text = "(float[N,64] x) => (float y) { m = MatMul(x, s) r = Relu(m) y = MatMul(r, w) }"
    graph = program(text, {**WEIGHTS, **weights(s=(64, 64))})
    plan = placed(graph)
    assert set(SmoothMatMul().wanted(graph, plan)) == {"x"}
    assert set(SmoothMatMul().wanted(graph, Plan())) == set()


def test_factors_of_another_model_are_refused() -> None:
    graph = program(ONE, WEIGHTS)
    other = Plan(smoothing={"h": np.ones(32, np.float32)})
    with pytest.raises(PassError, match="the plan or the statistics are of another model"):
        Pipeline([SmoothMatMul()]).run(graph, PassContext(TARGET, other))


def test_a_weight_that_layers_share_is_not_copied_for_each() -> None:
    text = "(float[N,64] x) => (float[N,64] y) { h = Neg(x) a = MatMul(h, w) b = Tanh(a) y = MatMul(b, w) }"
    graph = program(text, weights(w=(64, 64)))
    _, plan = smoothed(graph, samples({3: 20.0}))
    assert not plan.smoothing


@pytest.mark.parametrize("behind, wanted", [(True, {"r": -1}), (False, {})])
def test_what_attention_returns_is_left_alone_where_a_product_would_split_its_kernel(
    behind: bool, wanted: dict[str, int]
) -> None:
    text = """(float[2,8,32] q, float[2,32,8] k, float[2,8,64] u) => (float[8,2,32] y) {
        a = MatMul(q, k) p = Softmax<axis = -1>(a) c = MatMul(p, u)
        r = Transpose<perm = [1, 0, 2]>(c) y = MatMul(r, w) }"""
    graph = program(text, WEIGHTS)
    context = PassContext(load_target("tensorrt").at("int8"), Plan())
    plan = Pipeline([Place()]).run(graph, context).plan
    assert plan is not None
    assert SmoothMatMul(behind_attention=behind).wanted(graph, plan) == wanted
