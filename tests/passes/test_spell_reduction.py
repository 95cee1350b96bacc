from __future__ import annotations

import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.spell_reduction import SpellReduction


def reduced(shape: str, axes: str, op: str = "ReduceMean", opset: int = 17, keepdims: int = 1) -> ir.Graph:
    if op == "ReduceSum" or opset >= 18:
        axes_list = [int(axis) for axis in axes.split(",")]
        body, constants = f"y = {op} <keepdims = {keepdims}> (x, a)", {"a": axes_list}
    else:
        body, constants = f"y = {op} <axes = [{axes}], keepdims = {keepdims}> (x)", {}
    graph = program(f"(float[{shape}] x) => (float y) {{ {body} }}", constants, opset)
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize("op, opset", [("ReduceMean", 17), ("ReduceSum", 17), ("ReduceMean", 20)])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    "shape, axes",
    [("2,9,5", "1"), ("n,9,k", "1"), ("2,9,5", "-2"), ("n,3,4,5", "1,2"), ("n,4,3,5", "2,1"), ("n,12,3,5", "1"),
     ("2,n,9,5", "2"), ("9,5", "0"), ("3,4,5,2", "0,1,2")],
)  # fmt: skip
def test_it_computes_the_same(op: str, opset: int, keepdims: int, shape: str, axes: str) -> None:
    before = reduced(shape, axes, op, opset, keepdims)
    after, rewrites, _ = run_pass(SpellReduction(), before)
    assert rewrites == 1 and "MatMul" in ops(after) and op not in ops(after)
    assert_same(before, after, rtol=1e-5, atol=1e-5, n=3, k=4)


@pytest.mark.parametrize(
    "shape, axes, opset",
    [("2,9,5", "2", 17), ("2,4,5", "1", 17), ("2,n,5", "1", 17), ("2,9,h,w", "1", 17), ("2,3,9,5", "1,3", 17),
     ("2,9,5", "0,1,2", 17), ("2,9,5", "1", 12), ("2,1099511627776,5", "1", 17)],
)  # fmt: skip
def test_what_is_left_alone(shape: str, axes: str, opset: int) -> None:
    assert run_pass(SpellReduction(), reduced(shape, axes, opset=opset))[1] == 0


def test_no_axes_are_left_alone() -> None:
    graph = program("(float[2,9,5] x) => (float y) { y = ReduceSum(x) }")
    ir.infer_shapes(graph)
    assert run_pass(SpellReduction(), graph)[1] == 0
