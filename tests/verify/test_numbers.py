"""Agreement of outputs, held against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pass_helpers import program

from qcompiler.runtime import session
from qcompiler.verify import numbers
from qcompiler.verify.numbers import OutputError

NAN, INF = math.nan, math.inf


def error(*pairs: tuple[object, object]) -> OutputError:
    """Of one float output over samples (wanted, found)."""
    found = numbers.Comparison(["y"])
    for wanted, actual in pairs:
        found.add([np.asarray(wanted, np.float32)], [np.asarray(actual, np.float32)])
    (one,) = found.errors()
    return one


def test_by_hand() -> None:
    """Signal 9 + 16 = 25, noise 1, products 9 + 20 = 29, power of the found 9 + 25 = 34."""
    found = error(([3.0, 4.0], [3.0, 5.0]))
    assert found.sqnr == pytest.approx(10 * math.log10(25))
    assert found.cosine == pytest.approx(29 / math.sqrt(25 * 34))
    assert (found.largest, found.top1) == (1.0, None)


def test_samples_add_up() -> None:
    assert error(([3.0], [3.0]), ([4.0], [5.0])).sqnr == pytest.approx(10 * math.log10(25))


def test_equal_outputs() -> None:
    assert error(([1.0, 2.0], [1.0, 2.0])) == OutputError("y", INF, pytest.approx(1.0), None, 0.0)
    zeros = error(([0.0], [0.0]))
    assert (zeros.sqnr, zeros.cosine) == (INF, 1.0)


def test_noise_where_there_is_no_signal() -> None:
    found = error(([0.0], [1.0]))
    assert (found.sqnr, found.cosine) == (-INF, 0.0)


@pytest.mark.parametrize(
    "wanted, found",
    [
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, 2.0], [1.0, INF]),
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),  # another shape
        ([1.0, 2.0], [[1.0, 2.0]]),
    ],
)
def test_what_is_broken_is_no_agreement(wanted: object, found: object) -> None:
    assert error((wanted, found)).sqnr == -INF
    assert error((wanted, found), ([1.0], [1.0])).sqnr == -INF


def test_masks_in_the_same_places_do_not_count() -> None:
    assert error(([3.0, 4.0, -INF, NAN], [3.0, 5.0, -INF, NAN])).sqnr == pytest.approx(10 * math.log10(25))


def test_an_infinity_of_the_other_sign_is_broken() -> None:
    assert error(([1.0, -INF], [1.0, INF])).sqnr == -INF


def test_scores_agree_where_the_largest_is_the_same_one() -> None:
    wanted = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]]
    found = [[1.0, 2.0, 4.0], [2.0, 3.0, 1.0], [0.0, 2.0, 0.0], [6.0, 0.0, 0.0]]
    assert error((wanted, found)).top1 == 0.75


def test_what_looks_unlike_scores_has_no_top1() -> None:
    assert error(([[1.0, 2.0]], [[1.0, 2.0]])).top1 is None  # two columns
    assert error(([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])).top1 is None  # one axis
    many = error((np.ones((2, 3)), np.ones((2, 3))), (np.ones((2, 4)), np.ones((2, 4))))
    assert many.top1 is None  # columns that vary are no classes


def test_two_models() -> None:
    one = program("(float[2,3] x) => (float[2,3] y, int64[3] s) { y = Neg(x) s = Shape(x) }")
    two = program("(float[2,3] x) => (float[2,3] y, int64[3] s) { z = Neg(x) y = Mul(z, k) s = Shape(x) }",
                  {"k": np.float32(1.1)})  # fmt: skip
    with session(one) as a, session(two) as b:
        found = numbers.compare(a, b, [{"x": np.ones((2, 3), np.float32)}])
    assert [(e.name, round(e.sqnr, 3)) for e in found] == [("y", 20.0), ("s", INF)]
