"""Depthwise convolutions take any channel's reach: their weights have a scale a channel."""

from __future__ import annotations

import numpy as np
from pass_helpers import assert_same, program
from planned import weights

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._smoothing import MOST_RAISED
from qcompiler.passes.place import Place
from qcompiler.passes.smooth_conv import SmoothConv, smoothable
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.target_files import load_target

TARGET = load_target("tensorrt")
TEXT = "(float[1,8,8,8] x) => (float y) { h = HardSwish(x) y = Conv<group = 8, pads = [1,1,1,1]>(h, w) }"


def uneven() -> Rows:
    """Rows of eight channels, the first of which reaches a hundred times as far as the others."""
    values = np.random.default_rng(2).normal(size=(256, 8)).astype(np.float32)
    values[:, 0] *= 100
    return Rows(values, np.abs(values).max(axis=0))


def smoothed(graph: ir.Graph, one: SmoothConv) -> tuple[ir.Graph, Plan]:
    result = ir.clone(graph)
    plan = Pipeline([Place()]).run(result, PassContext(TARGET, Plan())).plan
    ctx = Pipeline([one]).run(result, PassContext(TARGET, plan, rows={"h": uneven()}))
    assert ctx.plan is not None
    return result, ctx.plan


def test_channels_are_made_to_reach_alike_and_the_function_stays() -> None:
    graph = program(TEXT, weights(w=(8, 1, 3, 3)))
    after, plan = smoothed(graph, SmoothConv(depthwise=True))
    factor = plan.smoothing["h"]
    assert factor.shape == (8,) and np.allclose(factor[1:] / factor[0], MOST_RAISED)
    assert_same(graph, after, rtol=1e-4, atol=1e-4)


def test_a_plan_that_has_it_repeats_it() -> None:
    graph = program(TEXT, weights(w=(8, 1, 3, 3)))
    once, plan = smoothed(graph, SmoothConv(depthwise=True))
    again = ir.clone(graph)
    Pipeline([SmoothConv(depthwise=True)]).run(again, PassContext(TARGET, plan))
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(once).SerializeToString()


def test_it_is_left_alone_unless_it_is_asked_for() -> None:
    graph = program(TEXT, weights(w=(8, 1, 3, 3)))
    assert smoothable(graph) == {} and len(smoothable(graph, depthwise=True)) == 1
