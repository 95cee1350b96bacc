"""Ranges by what they do to the outputs."""

from __future__ import annotations

import numpy as np
from pass_helpers import program

import qcompiler
from qcompiler import ir


def test_tied_tensors_are_given_another_range_together() -> None:
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(8, 8, 3, 3)).astype(np.float32) for name in "vw"}
    weights["u"] = random.normal(size=(8, 16, 1, 1)).astype(np.float32)
    weights["u"][:, 0] = 0.0
    weights["w"][0] *= 50.0  # what nobody reads takes most codes
    text = """(float[1,8,8,8] x) => (float y) {
        a = Conv(x, v) b1 = Conv(x, w) c = Concat<axis = 1>(b1, a) y = Conv(c, u)
    }"""
    graph = program(text, weights)
    feeds = [{"x": random.normal(size=(1, 8, 8, 8)).astype(np.float32)} for _ in range(16)]
    options = qcompiler.Options(timing=False, observer="minmax", passes=("-smooth-conv",))
    plan = qcompiler.compile(ir.to_proto(graph), feeds, options=options).plan
    assert plan is not None and frozenset({"a", "b1", "c"}) in plan.ties
    assert {"a", "b1", "c"} <= plan.ranges.keys()
    assert plan.ranges["a"] == plan.ranges["b1"] == plan.ranges["c"]
