"""Scales of blocks that are codes themselves: NVFP4.

A value is ``code * block scale * tensor scale``: an E2M1 code (OCP Microscaling Formats 1.0, section 5.3.3), an E4M3
number for each 16 values, and one float for the tensor, so that the largest block scale is E4M3's largest number
(Pretraining Large Language Models with NVFP4, NVIDIA 2025, appendix C).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qcompiler import numerics
from qcompiler.scheme import PerBlock, Scheme

LARGEST_CODE = 6.0
"""Of E2M1."""
LARGEST_SCALE = 448.0
"""Of E4M3."""
SMALLEST_SCALE = 2.0**-9
"""Of E4M3, above zero."""
SMALLEST_TENSOR_SCALE = 2.0**-14
"""The smallest float16 of full precision."""
_REACHED = (6.0, 5.0, 4.0)
"""Which code the largest value of a block may become: below 4 codes are denser (4 and 6 have nothing between them)."""


def tensor_scale(reach: float) -> np.float32:
    """The smallest scale of a tensor, a float16, with which some block scale covers values up to ``reach``."""
    exact = max(reach / (LARGEST_CODE * LARGEST_SCALE), SMALLEST_TENSOR_SCALE)
    near = np.float16(exact)
    return np.float32(near if float(near) >= exact else np.nextafter(near, np.float16(np.inf)))


def block_scales(reach: np.ndarray, tensor: np.float32, reached: float = LARGEST_CODE) -> np.ndarray:
    """float32 scales that are E4M3 numbers times ``tensor``, with which values of about ``reach`` become the code
    ``reached``. Values of a reach below that of the smallest scale become zero."""
    exact = np.asarray(reach, np.float32) / (np.float32(reached) * tensor)
    codes = np.clip(exact, SMALLEST_SCALE, LARGEST_SCALE).astype(ml_dtypes.float8_e4m3fn)
    return np.asarray(codes.astype(np.float32) * tensor)


def weight_scales(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """float32 scales of a weight's blocks: for each the one of a few that makes the smallest squared error."""
    low, high = numerics.weight_range(values, scheme)
    reach = np.maximum(-low, high)
    tensor = tensor_scale(float(reach.max(initial=0.0)))
    found, least = np.empty_like(reach, np.float32), np.full(reach.shape, np.inf, np.float32)
    for scale in (block_scales(reach, tensor, reached) for reached in _REACHED):
        error = _squared_errors(values, scale, scheme)
        found, least = np.where(error < least, scale, found), np.minimum(error, least)
    return found


def split(scale: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """The E4M3 numbers and the tensor scale whose products the scales of a weight's blocks are."""
    tensor = tensor_scale(LARGEST_CODE * float(scale.max()))
    return (scale / tensor).astype(ml_dtypes.float8_e4m3fn), tensor


def rounded(values: np.ndarray, tensor: np.float32, scheme: Scheme) -> np.ndarray:
    """What is left of an activation whose blocks get their scales when they are there: float32, of its shape."""
    low, high = numerics.weight_range(values, scheme)
    scale = block_scales(np.maximum(-low, high), tensor)
    zero = np.zeros(scale.shape, np.int64)
    return numerics.dequantize(numerics.quantize(values, scale, zero, scheme), scale, zero, scheme)


def _squared_errors(values: np.ndarray, scale: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Of each block."""
    granularity = scheme.granularity
    assert isinstance(granularity, PerBlock)
    zero = np.zeros(scale.shape, np.int64)
    left = numerics.dequantize(numerics.quantize(values, scale, zero, scheme), scale, zero, scheme) - values
    starts = np.arange(0, values.shape[granularity.axis], granularity.size)
    return np.add.reduceat(np.square(left), starts, axis=granularity.axis)
