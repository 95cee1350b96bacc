from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass
from planned import TARGET

from qcompiler import ir
from qcompiler.passes.merge_groups import MergeGroups, merged
from qcompiler.pipeline import PassContext, Pipeline


def coded(channels: int, groups: int, outputs: int = 0, zero_point: int = 0) -> ir.Graph:
    """A convolution of codes, 3 x 3 taps."""
    random, outputs = np.random.default_rng(0), outputs or channels
    constants = {
        "w": random.integers(-127, 128, (outputs, channels // groups, 3, 3)).astype(np.int8),
        "s": random.uniform(0.001, 0.01, outputs).astype(np.float32),
        "z": np.full(outputs, zero_point, np.int8),
        "step": np.float32(0.02),
        "middle": np.uint8(128),
        "b": random.normal(size=outputs).astype(np.float32),
    }
    text = f"""(float[1,{channels},6,6] x) => (float[1,{outputs},6,6] y) {{
        q = QuantizeLinear(x, step, middle) d = DequantizeLinear(q, step, middle)
        v = DequantizeLinear<axis = 0>(w, s, z) y = Conv<group = {groups}, pads = [1, 1, 1, 1]>(d, v, b) }}"""
    return program(text, constants)


def group_of(graph: ir.Graph) -> int:
    return next(int(node.attrs["group"]) for node in graph.nodes if node.op == "Conv")


@pytest.mark.parametrize(
    "channels, groups, outputs, left",
    [(64, 16, 64, 2), (64, 8, 64, 2), (64, 4, 64, 2), (48, 3, 48, 3), (120, 5, 120, 5), (32, 16, 64, 2),
     (64, 32, 32, 2)],
)  # fmt: skip
def test_groups_are_merged_until_they_fill_a_kernel(channels: int, groups: int, outputs: int, left: int) -> None:
    before = coded(channels, groups, outputs)
    after, rewrites, _ = run_pass(MergeGroups(), before)
    assert rewrites == (left != groups) and group_of(after) == left
    assert sorted(ops(after)) == sorted(ops(before))
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels, groups, zero_point", [(64, 64, 0), (64, 1, 0), (64, 2, 0), (64, 16, 3)])
def test_others_stay(channels: int, groups: int, zero_point: int) -> None:
    after, rewrites, _ = run_pass(MergeGroups(), coded(channels, groups, zero_point=zero_point))
    assert rewrites == 0 and group_of(after) == groups


def test_floats_stay() -> None:
    weight = {"w": np.ones((16, 2, 3, 3), np.float32)}
    text = "(float[1,16,6,6] x) => (float[1,16,4,4] y) { y = Conv<group = 8>(x, w) }"
    assert run_pass(MergeGroups(), program(text, weight))[1] == 0


@pytest.mark.parametrize("groups, left", [(16, 2), (64 // 3, 21)])
def test_neighbours_that_share_bits_stay_neighbours(groups: int, left: int) -> None:
    target = replace(TARGET, weight=replace(TARGET.weight, paired=True))
    graph = coded(groups * (4 if groups == 16 else 3), groups)
    Pipeline([MergeGroups()]).run(graph, PassContext(target))
    assert group_of(graph) == left


@pytest.mark.parametrize(
    "groups, channels, count", [(32, 4, 8), (64, 4, 8), (10, 24, 1), (30, 8, 3), (7, 5, 7), (13, 5, 1)]
)
def test_how_many_become_one(groups: int, channels: int, count: int) -> None:
    assert merged(groups, channels) == count
