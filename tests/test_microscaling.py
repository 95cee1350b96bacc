"""NVFP4's arithmetic: codes, scales that are codes, and what rounding leaves."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompiler import microscaling, numerics
from qcompiler.scheme import PerBlock, Scheme

NVFP4 = Scheme("float4_e2m1fn", True, PerBlock(0, 16))
CODES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
"""OCP Microscaling Formats 1.0, table 5."""
weights = hnp.arrays(np.float32, st.tuples(st.sampled_from([16, 32, 64]), st.integers(1, 4)),
                     elements=st.floats(-(2.0**10), 2.0**10, width=32))  # fmt: skip


@given(st.floats(2.0**-20, 2.0**20))
def test_a_tensors_scale_is_a_float16_that_covers_it(reach: float) -> None:
    scale = microscaling.tensor_scale(reach)
    assert np.float32(np.float16(scale)) == scale >= 2.0**-14
    assert reach <= 6.0 * 448.0 * float(scale) <= max(reach * (1 + 2.0**-10), 6.0 * 448.0 * 2.0**-14)


@given(weights)
def test_scales_split_into_the_codes_they_are_made_of(values: np.ndarray) -> None:
    scale = microscaling.weight_scales(values, NVFP4)
    codes, tensor = microscaling.split(scale)
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    assert np.array_equal(codes.astype(np.float32) * tensor, scale) and (scale > 0).all()


def left(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    zero = np.zeros(scale.shape, np.int64)
    return numerics.dequantize(numerics.quantize(values, scale, zero, NVFP4), scale, zero, NVFP4)


@given(weights)
def test_a_block_loses_no_more_than_with_the_scale_of_its_reach(values: np.ndarray) -> None:
    reach = np.maximum(*(np.abs(end) for end in numerics.weight_range(values, NVFP4)))
    plain = microscaling.block_scales(reach, microscaling.tensor_scale(float(reach.max())))
    found = microscaling.weight_scales(values, NVFP4)
    errors = [np.square(left(values, scale) - values, dtype=np.float64).sum() for scale in (found, plain)]
    assert errors[0] <= errors[1] * (1 + 1e-5)


def test_a_block_between_4_and_6_takes_the_denser_codes() -> None:
    values = np.zeros((32, 1), np.float32)
    values[0], values[16:21, 0] = 6.0 * 448.0, 64.0 * np.float32([4, 3, 2, 1.5, 1])
    assert np.array_equal(left(values, microscaling.weight_scales(values, NVFP4)), values)


def test_codes_are_those_of_e2m1_and_ties_go_to_the_even_one() -> None:
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.int64)
    values = np.float32([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0])
    given = np.zeros((16, 1), np.float32)
    given[:8, 0], given[8:, 0] = values, -values
    codes = numerics.quantize(given, one, zero, NVFP4).astype(np.float32)[:, 0]
    assert codes.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, -0.0, -1.0, -1.0, -2.0, -2.0, -4.0, -4.0, -6.0]
    assert set(np.abs(codes)) <= set(CODES)


@pytest.mark.parametrize("axis", [0, 1])
def test_activations_are_rounded_by_block(axis: int) -> None:
    values = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    values[0] *= 100
    scheme = Scheme("float4_e2m1fn", True, PerBlock(axis, 16))
    found = microscaling.rounded(values, microscaling.tensor_scale(float(np.abs(values).max())), scheme)
    apart = axis == 1  # along axis 0 every block has a value of the loud row
    quiet = numerics.sqnr(values[16:], found[16:])
    assert quiet > 18.0 and (numerics.sqnr(values[1:16], found[1:16]) > 18.0) == apart
