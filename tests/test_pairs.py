"""Weights whose pairs fit the 16 bits that x86 without VNNI sums two products in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import outputs, program
from planned import feeds, lowered, placed, solved, weights

import qcompiler
from qcompiler import ir, numerics, runtime
from qcompiler.passes.align_channels import AlignChannels
from qcompiler.scheme import MOST_OF_A_PAIR, PerAxis, PerTensor, Scheme
from qcompiler.target_files import load_target

TARGET = load_target("ort-cpu", "avx2")
SHAPES = ((8, 8, 3, 3), (4, 3, 3, 3), (4, 1, 5, 5), (6, 4, 1, 1), (5, 8, 3), (7, 9), (16, 4))


def scheme(axis: int | None) -> Scheme:
    return Scheme("int8", True, PerTensor() if axis is None else PerAxis(axis), paired=True)


def neighbours(shape: tuple[int, ...], axis: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Places of the two of each pair of a weight: along K, which is channels last."""
    inner = [d for d in range(len(shape)) if d != axis]
    order = [*inner[1:], inner[0]] if axis == 0 else inner
    places = [[0] * len(shape)]
    for output in range(shape[axis]):
        for flat in range(int(np.prod([shape[d] for d in order]))):
            place = [0] * len(shape)
            place[axis] = output
            for d, index in zip(order, np.unravel_index(flat, [shape[d] for d in order])):
                place[d] = int(index)
            places.append(place)
    found = [tuple(place) for place in places[1:]]
    terms = len(found) // shape[axis]
    rows = [found[start : start + terms] for start in range(0, len(found), terms)]
    return [(row[index], row[index + 1]) for row in rows for index in range(0, terms - 1, 2)]


@given(st.sampled_from(SHAPES), st.sampled_from([0, -1]), st.integers(0, 999))
def test_no_pair_is_too_large(shape: tuple[int, ...], axis: int, seed: int) -> None:
    if axis == -1 and len(shape) > 2:
        axis = 0
    values = np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)
    own = scheme(axis)
    scale, zero_point = numerics.scale_and_zero_point(*numerics.weight_range(values, own), own)
    codes = numerics.quantize(values, scale, zero_point, own).astype(np.int32)
    room = numerics.pair_room(codes, own)
    largest = np.abs(codes) + room
    for a, b in neighbours(shape, axis % len(shape)):
        assert largest[a] + largest[b] <= MOST_OF_A_PAIR
    assert room.min() >= 0 and np.abs(codes).max() > 63, "neighbours that are small leave room"


def test_without_an_axis_any_two_may_be_neighbours() -> None:
    values = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, -2.0]], np.float32)
    assert numerics.pair_sums(values, scheme(None)) == 5.0


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("y = Conv(x, w)", (8, 8, 3, 3)),
        ("y = Conv<group = 2>(x, g)", (8, 4, 3, 3)),
        ("y = Conv<group = 8>(x, d)", (8, 1, 3, 3)),
        ("y = Conv<strides = [2,2], pads = [1,1,1,1]>(p, s)", (8, 3, 3, 3)),
    ],
    ids=["dense", "grouped", "each channel alone", "a picture"],
)
def test_the_runtimes_kernels_are_exact_at_the_largest_codes(text: str, shape: tuple[int, ...]) -> None:
    made = weights(w=(8, 8, 3, 3), g=(8, 4, 3, 3), d=(8, 1, 3, 3), s=(8, 3, 3, 3))
    read = "p" if "(p" in text else "x"
    graph = program(f"(float[1,{3 if read == 'p' else 8},8,8] {read}) => (float y) {{ {text} }}", made)
    ir.infer_shapes(graph)
    plan = solved(graph, placed(graph, target=TARGET), target=TARGET)
    coded = lowered(graph, plan, AlignChannels())
    for feed in feeds(graph, 4):
        high = {name: np.where(values > 0, np.float32(9.0), np.float32(-9.0)) for name, values in feed.items()}
        high[read][...] = 9.0
        expected = outputs(coded, high)["y"]
        with runtime.session(coded) as model:
            np.testing.assert_allclose(runtime.run(model, high)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("text", ["y = MatMul(x, m)", "y = Gemm<transB = 1>(x, t, b)"])
def test_products_are_exact_at_the_largest_codes(text: str, rows: int) -> None:
    graph = program(f"(float[{rows},33] x) => (float y) {{ {text} }}", weights(m=(33, 17), t=(17, 33), b=(17,)))
    ir.infer_shapes(graph)
    coded = lowered(graph, solved(graph, placed(graph, target=TARGET), target=TARGET))
    for value in (9.0, -9.0):
        feed = {"x": np.full((rows, 33), value, np.float32)}
        with runtime.session(coded) as model:
            np.testing.assert_allclose(runtime.run(model, feed)[0], outputs(coded, feed)["y"], rtol=1e-5, atol=1e-5)


def test_rounding_with_the_others_in_mind_keeps_pairs_small() -> None:
    made = weights(w=(64, 64, 3, 3), v=(8, 64, 1, 1))
    graph = program("(float[1,64,6,6] x) => (float y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }", made)
    feed = [{"x": np.random.default_rng(i).normal(size=(1, 64, 6, 6)).astype(np.float32)} for i in range(24)]
    for one in feed:
        one["x"][:, 1:] = 0.9 * one["x"][:, :-1] + 0.3 * one["x"][:, 1:]  # channels that go together
    result = qcompiler.compile(graph, feed, options=qcompiler.Options(timing=False, cpu="avx2"))
    assert result.plan is not None and result.plan.rounding
    for tensor in ir.all_tensors(result.graph).values():
        if ir.is_constant(tensor) and tensor.values.dtype == np.int8 and tensor.values.ndim == 4:
            assert numerics.pair_sums(tensor.values.astype(np.int32), scheme(0)).max() <= MOST_OF_A_PAIR
