from __future__ import annotations

import pytest
from pass_helpers import assert_same, ops, program, run_pass
from planned import lowered, solved, weights

from qcompiler import ir
from qcompiler.passes.spell_average_pool import SpellAveragePool
from qcompiler.verify import fused


def spelled(text: str) -> tuple[ir.Graph, ir.Graph, int]:
    before = program(text)
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(SpellAveragePool(), before)
    return before, after, rewrites


@pytest.mark.parametrize(
    "shape, attributes",
    [
        ("2,6,9,8", "kernel_shape = [2, 2], strides = [2, 2]"),
        ("N,6,H,W", "kernel_shape = [2, 1]"),
        ("2,6,9,8", "kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1"),
        ("2,6,9,8", 'kernel_shape = [3, 2], auto_pad = "VALID"'),
        ("2,6,9", "kernel_shape = [3], strides = [2]"),
        ("2,6,8,6", "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"),
    ],
)
def test_windows_that_weigh_alike_are_a_convolution(shape: str, attributes: str) -> None:
    before, after, rewrites = spelled(f"(float[{shape}] x) => (float y) {{ y = AveragePool<{attributes}>(x) }}")
    assert rewrites == 1 and ops(after) == ["Conv"]
    assert_same(before, after, rtol=1e-5, atol=1e-6, H=7, W=5)


@pytest.mark.parametrize(
    "shape, attributes",
    [
        ("2,6,9,8", "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"),
        ("2,6,9,8", "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"),
        ("2,6,H,8", "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"),
        ("2,6,9,8", 'kernel_shape = [2, 2], auto_pad = "SAME_UPPER"'),
        ("2,6,30,30", "kernel_shape = [10, 10]"),
        ("2,C,9,8", "kernel_shape = [2, 2]"),
        ("2,6,5,5,5", "kernel_shape = [2, 2, 2]"),
    ],
)
def test_others_stay(shape: str, attributes: str) -> None:
    _, after, rewrites = spelled(f"(float[{shape}] x) => (float y) {{ y = AveragePool<{attributes}>(x) }}")
    assert rewrites == 0 and ops(after) == ["AveragePool"]


def test_between_convolutions_it_runs_on_codes() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,3,3] y) {
        c = Conv(x, w) p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(c) y = Conv(p, u) }"""
    before = program(text, weights(w=(6, 3, 3, 3), u=(4, 6, 1, 1)))
    ir.infer_shapes(before)
    graph, _, _ = run_pass(SpellAveragePool(), before)
    ir.infer_shapes(graph)
    runs = fused.optimize(lowered(graph, solved(graph))).histogram()
    assert runs.get("QLinearConv") == 3 and not {"QLinearAveragePool", "AveragePool", "Conv"} & runs.keys()
