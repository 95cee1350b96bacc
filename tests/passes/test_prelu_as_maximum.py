from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, outputs, program, run_pass

from qcompiler.passes.prelu_as_maximum import PReluAsMaximum

SLOPES = {
    "gentle": np.float32([0.25, -0.5, 1.0, 0.0]).reshape(4, 1, 1),
    "steep": np.float32([1.25, 5.0, 1.0, 100.0]).reshape(4, 1, 1),
    "both": np.float32([0.25, 2.0, -3.0, 1.0]).reshape(4, 1, 1),
    "one": np.float32([0.1]),
    "none": np.float32([np.nan]),
}
TEXT = "(float[2,4,3,5] x) => (float[2,4,3,5] y)"


@pytest.mark.parametrize(
    "slope, expected",
    [
        ("gentle", ["Mul", "Max"]),
        ("one", ["Mul", "Max"]),
        ("steep", ["Mul", "Min"]),
        ("both", ["Min", "Mul", "Relu", "Add"]),
    ],
)
def test_it_computes_the_same(slope: str, expected: list[str]) -> None:
    before = program(f"{TEXT} {{ y = PRelu(x, {slope}) }}", SLOPES)
    after, rewrites, _ = run_pass(PReluAsMaximum(), before)
    assert rewrites == 1 and ops(after) == expected
    assert_same(before, after, rtol=0, atol=0)
    values = np.float32(
        [-np.inf, -3e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38, np.inf, np.nan, 2.0, 3.0, -2.0, -3.0]
    )
    feed = {"x": np.broadcast_to(values.reshape(1, 1, 3, 5), (2, 4, 3, 5)).copy()}
    if slope != "gentle":  # infinity times a slope of 0 is no number
        np.testing.assert_array_equal(outputs(after, feed)["y"], outputs(before, feed)["y"])


@pytest.mark.parametrize(
    "text",
    [
        f"{TEXT} {{ y = PRelu(x, none) }}",
        "(float[2,4,3,5] x, float[4,1,1] s) => (float[2,4,3,5] y) { y = PRelu(x, s) }",
        "(float16[4] x) => (float16[4] y) { s = Cast<to = 10>(one) y = PRelu(x, s) }",
        f"{TEXT} {{ y = PRelu(x) }}",
        f"{TEXT} {{ y = LeakyRelu(x) }}",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert run_pass(PReluAsMaximum(), program(text, SLOPES))[1] == 0
