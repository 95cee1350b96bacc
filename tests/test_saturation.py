from __future__ import annotations

import math

import numpy as np
import pytest
from pass_helpers import program

from qcompiler import ir
from qcompiler.saturation import FLAT, bounds, clip_bounds, guaranteed

LIMITS = {"zero": np.float32(0), "six": np.float32(6), "minus": np.float32(-1)}
EVERYTHING = (-math.inf, math.inf)


def tensor(body: str, name: str = "x") -> ir.Tensor:
    graph = program(f"(float[2,3] x, float k) => (float[2,3] y) {{ {body} }}", LIMITS)
    return ir.all_tensors(graph)[name]


@pytest.mark.parametrize(
    "body, expected",
    [
        ("y = Relu(x)", (0, math.inf)),
        ("y = Clip(x, zero, six)", (0, 6)),
        ("y = Clip(x, , six)", (-math.inf, 6)),
        ("y = Clip(x, zero)", (0, math.inf)),
        ("y = Clip(x, k, six)", EVERYTHING),  # a bound that is computed
        ("y = HardSigmoid(x)", (-2.5, 2.5)),
        ("y = HardSigmoid<alpha = 0.125, beta = 0.75>(x)", (-6, 2)),
        ("y = HardSigmoid<alpha = -1.0>(x)", EVERYTHING),
        ("y = HardSwish(x)", (-3, math.inf)),
        ("y = Sigmoid(x)", (-FLAT, FLAT)),
        ("y = Tanh(x)", EVERYTHING),
        ("s = Sigmoid(x) y = Mul(x, s)", (-FLAT, math.inf)),
        ("s = HardSigmoid(x) y = Mul(s, x)", (-2.5, math.inf)),
        ("r = Relu(x) c = Clip(x, minus, six) y = Add(r, c)", (-1, math.inf)),  # one of them still looks
        ("r = Relu(x) y = Add(x, r)", EVERYTHING),
    ],
)
def test_where_consumers_stop_looking(body: str, expected: tuple[float, float]) -> None:
    assert bounds(tensor(body)) == pytest.approx(expected)


def test_a_tensor_that_nobody_reads_keeps_everything() -> None:
    assert bounds(tensor("y = Relu(x)", "y")) == EVERYTHING


def test_a_sigmoid_beyond_its_bound_is_within_half_a_code_of_its_end() -> None:
    assert 1 / (1 + math.exp(-FLAT)) == pytest.approx(1 - 0.5 / 255.5)


@pytest.mark.parametrize(
    "body, expected",
    [
        ("y = Relu(x)", (0, math.inf)),
        ("y = Clip(x, minus, six)", (-1, 6)),
        ("y = Sigmoid(x)", (0, 1)),
        ("y = Softmax(x)", (0, 1)),
        ("y = Tanh(x)", EVERYTHING),
    ],
)
def test_what_a_definition_guarantees(body: str, expected: tuple[float, float]) -> None:
    assert guaranteed(tensor(body, "y")) == expected


def test_an_old_clip_has_its_bounds_in_attributes() -> None:
    graph = program("(float[2,3] x) => (float[2,3] y) { y = Clip<min = -2.0, max = 3.0>(x) }", opset=6)
    assert clip_bounds(graph.nodes[0]) == (-2.0, 3.0)
