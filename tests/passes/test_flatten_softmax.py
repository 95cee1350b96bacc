from __future__ import annotations

import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.flatten_softmax import FlattenSoftmax


def flattened(shape: str, op: str = "Softmax", axis: str = "axis = 1", opset: int = 17) -> tuple[ir.Graph, ir.Graph]:
    before = program(f"(float[{shape}] x) => (float y) {{ y = {op}<{axis}>(x) }}", opset=opset)
    after, rewrites, _ = run_pass(FlattenSoftmax(), before)
    assert rewrites == ("Reshape" in ops(after))
    return before, after


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    "shape, axis",
    [("2,5,4,3", "axis = 1"), ("2,5,4,3", "axis = -3"), ("2,5,4,3", "axis = 0"), ("5,4,3", "axis = 0"),
     ("2,3,5,4,3", "axis = 2"), ("2,5,1,3", "axis = 1")],
)  # fmt: skip
def test_it_computes_the_same(op: str, shape: str, axis: str) -> None:
    before, after = flattened(shape, op, axis)
    assert ops(after) == ["Reshape", op, "Reshape"]
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("shape, axis", [("n,5,h,w", "axis = 1"), ("n,c,4,w", "axis = 1"), ("n,5,h,3", "axis = 0")])
def test_sizes_that_are_not_known(shape: str, axis: str) -> None:
    before, after = flattened(shape, axis=axis)
    assert ops(after).count("Reshape") == 2 and ops(after).count("Shape") == 1
    assert_same(before, after, rtol=1e-6, n=2, c=3, h=7, w=4)
    assert_same(before, after, n=0, c=3, h=7, w=4)


@pytest.mark.parametrize(
    "shape, axis, opset",
    [("2,5,4,3", "axis = 2", 17), ("2,5,4,3", "axis = -1", 17), ("2,5,1,1", "axis = 1", 17), ("5,4", "axis = 0", 17),
     ("2,5,4,3", "axis = 1", 12), ("0,5,4,3", "axis = 1", 17)],
)  # fmt: skip
def test_what_is_left_alone(shape: str, axis: str, opset: int) -> None:
    assert ops(flattened(shape, axis=axis, opset=opset)[1]) == ["Softmax"]
