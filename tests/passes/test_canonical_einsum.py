from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.canonical_einsum import CanonicalEinsum

SIZES = dict(zip("abcdefg", (2, 3, 4, 5, 6, 7, 8)))


def einsum(equation: str, *, constant: int | None = None, opset: int = 17) -> ir.Graph:
    """Of two operands, of which one may be constant, by number."""
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    shapes = [[SIZES[letter] for letter in axes] for axes in operands]
    names = ["x", "z"]
    inputs = ", ".join(
        f"float[{','.join(map(str, shape))}] {name}"
        for index, (name, shape) in enumerate(zip(names, shapes)) if index != constant
    )
    weights = {} if constant is None else {
        names[constant]: np.random.default_rng(0).normal(size=shapes[constant]).astype(np.float32)
    }  # fmt: skip
    text = f'({inputs}) => (float y) {{ y = Einsum <equation = "{equation}"> ({", ".join(names[: len(operands)])}) }}'
    graph = program(text, weights, opset)
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize(
    "equation, found",
    [
        ("abc,cd->abd", ["MatMul"]),
        ("abc,cde->abde", ["MatMul", "Reshape"]),
        ("abcd,cde->abe", ["Reshape", "MatMul"]),
        ("abcd,cdef->abef", ["Reshape", "MatMul", "Reshape"]),
        ("abc,dc->abd", ["MatMul"]),
        ("abc,cb->a", ["Reshape", "MatMul", "Reshape"]),
        ("abc,bd->adc", ["Transpose", "MatMul", "Transpose"]),
        ("abc,cde->adbe", ["MatMul", "Reshape", "Transpose"]),
        ("ab, bc -> ac", ["MatMul"]),
        ("ab,bc", ["MatMul"]),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_weight(equation: str, found: list[str], turned: bool) -> None:
    if turned:
        operands, arrow, result = equation.partition("->")
        equation = ",".join(reversed(operands.split(","))) + arrow + result
    before = einsum(equation, constant=0 if turned else 1)
    after, rewrites, _ = run_pass(CanonicalEinsum(), before)
    assert rewrites == 1 and ops(after) == found
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "equation, found",
    [
        ("abcd,abed->abce", ["Transpose", "MatMul"]),
        ("abce,abed->abcd", ["MatMul"]),
        ("aecd,abcd->acbe", ["Transpose", "Transpose", "MatMul", "Transpose"]),
        ("acbe,aecd->abcd", ["Transpose", "MatMul", "Transpose"]),
        ("ab,bc->ca", ["MatMul", "Transpose"]),
    ],
)
def test_two_computed_tensors(equation: str, found: list[str]) -> None:
    before = einsum(equation)
    after, rewrites, _ = run_pass(CanonicalEinsum(), before)
    assert rewrites == 1 and sorted(ops(after)) == sorted(found)
    assert_same(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "equation, constant, why",
    [
        ("aab,bc->ac", 1, "an axis is named twice in one operand"),
        ("abc,cd->ad", 1, "an axis of one operand alone is summed over"),
        ("ab,cd->abcd", None, "nothing is summed over"),
        ("abc,bcd->abd", 1, "an axis of both stays beside a constant weight"),
        ("abcd,cde->abe", None, "each has not one axis of its own and one that is summed over"),
        ("ab,bc->acd", 1, "the result has an axis that no operand has"),
        ("abc->acb", None, "it has not two operands"),
    ],
)
def test_what_is_refused(equation: str, constant: int | None, why: str) -> None:
    after, rewrites, diagnostics = run_pass(CanonicalEinsum(), einsum(equation, constant=constant))
    assert rewrites == 0 and ops(after) == ["Einsum"] and why in refusals(diagnostics)[0]


@pytest.mark.parametrize(
    "equation, shapes, found",
    [
        ("...c,cd->...d", ("2,3,4", "4,5"), 1),
        ("...hd,hdm->...m", ("2,3,4,5", "4,5,6"), 1),
        ("...id,...jd->...ij", ("2,3,4,5", "2,3,6,5"), 1),
        ("...c,cd", ("2,3,4", "4,5"), 1),
        ("...id,...jd->...ij", ("2,3,4,5", "3,6,5"), 0),
        ("...c,cd->d", ("2,3,4", "4,5"), 0),
    ],
)
def test_ellipses(equation: str, shapes: tuple[str, str], found: int) -> None:
    inputs = f"float[{shapes[0]}] x, float[{shapes[1]}] z"
    weight = np.random.default_rng(0).normal(size=[int(size) for size in shapes[1].split(",")]).astype(np.float32)
    constant = "..." not in equation.partition("->")[0].partition(",")[2]
    inputs = f"float[{shapes[0]}] x" if constant else inputs
    text = f'({inputs}) => (float y) {{ y = Einsum <equation = "{equation}"> (x, z) }}'
    before = program(text, {"z": weight} if constant else {})
    ir.infer_shapes(before)
    after, rewrites, _ = run_pass(CanonicalEinsum(), before)
    assert rewrites == found
    if found:
        assert_same(before, after, rtol=1e-4, atol=1e-5)


def test_an_axis_that_is_repeated_stays() -> None:
    weight = {"z": np.ones((3, 4), np.float32)}
    graph = program('(float[2,1] x) => (float y) { y = Einsum <equation = "ab,bc->ac"> (x, z) }', weight)
    _, rewrites, diagnostics = run_pass(CanonicalEinsum(), graph)
    assert rewrites == 0 and "an axis of both is not of one size" in refusals(diagnostics)[0]


def test_whole_numbers_stay() -> None:
    graph = program('(int64[2,3] x, int64[3,4] z) => (int64[2,4] y) { y = Einsum <equation = "ab,bc->ac"> (x, z) }')
    _, rewrites, diagnostics = run_pass(CanonicalEinsum(), graph)
    assert rewrites == 0 and "not known to be float32" in refusals(diagnostics)[0]
