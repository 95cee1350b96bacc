"""Ranges by what they do to the outputs."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program

import qcompiler
from qcompiler import ir
from qcompiler.search.ranges import least


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


@pytest.mark.parametrize(
    ("noise", "best", "measured"),
    [
        ({"halfway": 0.5, "far": 0.7}, "halfway", 3),
        ({"closer": 0.7, "much closer": 0.4}, "much closer", 7),
        ({"halfway": 0.99, "closer": 0.7, "much closer": 0.4}, "much closer", 7),  # it hardly helps: the other way
        ({"closer above": 0.6, "much closer": 0.1}, "closer above", 5),
        ({"own": 0.0, "far": 0.0}, "own", 1),
    ],
)
def test_a_way_is_followed_where_its_first_step_helps(noise: dict[str, float], best: str, measured: int) -> None:
    asked: list[str] = []

    def told(name: str) -> float:
        asked.append(name)
        return noise.get(name, 1.0)

    found, left = least(told)
    assert (found, left, len(asked)) == (best, noise.get(best, 1.0) or 1.0, measured)
