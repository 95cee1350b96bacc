from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, ops, outputs, program, run_pass

from qcompiler import ir
from qcompiler.passes.merge_slices import MergeSlices

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 6)).astype(np.float32)
CONSTANTS = {
    **{f"i{place}": np.array([place]) for place in range(5)}, **{f"s{place}": np.array(place) for place in range(5)},
    "w": WEIGHT, **{f"w{place}": WEIGHT.copy() for place in range(3)}, "t": WEIGHT.T.copy(), "n0": WEIGHT,
    "n1": WEIGHT, "n2": np.nextafter(WEIGHT, np.float32(1)), "b": RANDOM.normal(size=6).astype(np.float32),
    "row": RANDOM.normal(size=(1, 6)).astype(np.float32), "column": RANDOM.normal(size=(2, 1)).astype(np.float32),
    "two": np.array(2, np.float32), "last": np.array([-1]), "table": RANDOM.normal(size=(2, 6)).astype(np.float32),
}  # fmt: skip


def steps(step: str, axis: int, shape: str, places: tuple[int, ...] = (0, 1, 2), also: str = "") -> ir.Graph:
    """``step`` from x to e0, e1, …, which are put together: ``@`` is the place, ``#`` the next one."""
    text = " ".join(step.replace("@", str(place)).replace("#", str(place + 1)) for place in places)
    joined = ", ".join(f"e{place}" for place in places)
    text += f" y = Concat <axis = {axis}> ({joined})"
    graph = program(f"(float[{shape}] x) => (float y{also}) {{ {text} }}", CONSTANTS)
    ir.infer_shapes(graph)
    return graph


def apart(step: str) -> str:
    """From p@ to q@, of slices that lose their axis, the first."""
    return f"c@ = Slice(x, i@, i#, i0) p@ = Squeeze(c@, i0) {step} e@ = Unsqueeze(q@, i0)"


@pytest.mark.parametrize(
    "step, axis, shape, left",
    [
        (apart("m@ = MatMul(p@, w) q@ = Add(m@, b)"), 0, "3,2,4", ["MatMul", "Add"]),
        (apart("m@ = MatMul(p@, w) q@ = Add(m@, b)"), -3, "3,n,4", ["MatMul", "Add"]),
        (apart("q@ = MatMul(p@, w)"), 0, "3,4", ["MatMul"]),
        (apart("q@ = MatMul(p@, w@)"), 0, "3,2,4", ["MatMul"]),
        (apart("m@ = MatMul(p@, w) r@ = Relu(m@) q@ = Mul(two, r@)"), 0, "3,2,5,4", ["MatMul", "Relu", "Mul"]),
        (apart("m@ = MatMul(p@, w) q@ = Add(m@, table)"), 0, "3,2,4", ["MatMul", "Add"]),
        (apart("q@ = Gemm(p@, w, row)"), 0, "3,2,4", ["MatMul", "Add"]),
        (apart("q@ = Gemm <transB = 1> (p@, t, two)"), 0, "3,2,4", ["MatMul", "Add"]),
        (apart("q@ = Gemm <transB = 1> (p@, t)"), 0, "3,2,4", ["MatMul"]),
        (apart("q@ = Softmax <axis = 1> (p@)"), 0, "3,2,4", ["Softmax"]),
        ("p@ = Gather <axis = 1> (x, s@) q@ = MatMul(p@, w) e@ = Unsqueeze(q@, i1)", 1, "2,3,4", ["MatMul"]),
        ("p@ = Gather <axis = 1> (x, s@) q@ = Relu(p@) e@ = Unsqueeze(q@, last)", 1, "n,3", ["Relu"]),
        ("p@ = Gather <axis = 1> (x, i@) e@ = MatMul(p@, w)", 1, "2,3,4", ["MatMul"]),
        ("p@ = Slice(x, i@, i#, i1) m@ = MatMul(p@, w) e@ = Tanh(m@)", 1, "n,3,4", ["MatMul", "Tanh"]),
        ("p@ = Slice(x, i@, i#, i0) e@ = Gemm(p@, w, row)", 0, "3,4", ["Gemm"]),
        ("p@ = Slice(x, i@, i#, i1) e@ = Mul(p@, column)", 1, "2,3", ["Mul"]),
    ],
)
def test_slices_become_one(step: str, axis: int, shape: str, left: list[str]) -> None:
    before = steps(step, axis, shape)
    after, rewrites, _ = run_pass(MergeSlices(), before)
    assert rewrites == 1 and ops(after) == left
    given = feed(before)
    np.testing.assert_allclose(*(outputs(graph, given)["y"] for graph in (before, after)), rtol=1e-6, atol=1e-6)


def test_parts_of_a_split_become_one() -> None:
    before = program(
        "(float[2,5,4] x, float[2,7,4] z) => (float y) { p, q = Split <axis = 1> (x, sizes) a = MatMul(p, w) "
        "c = MatMul(q, w) y = Concat <axis = 1> (a, c) }",
        {**CONSTANTS, "sizes": np.array([2, 3])},
    )
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(MergeSlices(), before)
    assert rewrites == 1 and ops(after) == ["MatMul"]
    np.testing.assert_allclose(*(outputs(graph, feed(before))["y"] for graph in (before, after)), rtol=1e-6, atol=1e-6)


def test_some_steps_are_one_slice() -> None:
    before = steps(apart("q@ = MatMul(p@, w)"), 0, "5,2,4", places=(1, 2, 3))
    after, rewrites, _ = run_pass(MergeSlices(), before)
    assert rewrites == 1 and ops(after) == ["Slice", "MatMul"]
    np.testing.assert_allclose(*(outputs(graph, feed(before))["y"] for graph in (before, after)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "step, axis, shape, places, also",
    [
        (apart("q@ = MatMul(p@, w)"), 0, "3,2,4", (0, 2, 1), ""),  # in another order
        (apart("q@ = MatMul(p@, w)"), 0, "3,2,4", (0, 2), ""),  # with a gap
        (apart("q@ = MatMul(p@, w)"), 0, "3,2,4", (0, 1, 2), ", float q1"),  # one of them is an output
        (apart("q@ = MatMul(p@, n@)"), 0, "3,2,4", (0, 1, 2), ""),  # one bit of one weight differs
        (apart("q@ = MatMul(p@, w)"), 1, "3,2,4", (0, 1, 2), ""),  # put together along another axis
        (apart("q@ = Mul(p@, p@)"), 0, "3,2,4", (0, 1, 2), ""),  # twice the slice
        (apart("q@ = Identity(p@)"), 0, "3,2,4", (0, 1, 2), ""),  # nothing in between that is known
        (apart("q@ = Gemm <alpha = 0.5> (p@, w)"), 0, "3,2,4", (0, 1, 2), ""),
        (apart("q@ = Gemm(p@, w, table)"), 0, "3,2,4", (0, 1, 2), ""),  # a bias for each row
        (apart("q@ = Softmax <axis = 0> (p@)"), 0, "3,2,4", (0, 1, 2), ""),
        ("p@ = Slice(x, i@, i#, i1) e@ = Mul(p@, table)", 1, "2,3", (0, 1, 2), ""),  # more than was sliced
        ("p@ = Slice(x, i@, i#, i1) e@ = Softmax(p@)", 1, "2,3", (0, 1, 2), ""),  # of the sliced axis itself
    ],
)
def test_what_is_left_alone(step: str, axis: int, shape: str, places: tuple[int, ...], also: str) -> None:
    assert run_pass(MergeSlices(), steps(step, axis, shape, places, also))[1] == 0


def test_a_concat_without_an_axis_is_for_the_runtime_to_refuse() -> None:
    before = steps(apart("q@ = MatMul(p@, w)"), 0, "3,2,4")
    del next(node for node in before.nodes if node.op == "Concat").attrs["axis"]
    assert run_pass(MergeSlices(), before)[1] == 0
