"""Quantization arithmetic in numpy: the oracle that every kernel and every emitted model is held against.

Formulas are those of ONNX's QuantizeLinear and DequantizeLinear: ``code = saturate(round_half_even(x / scale) +
zero_point)`` and ``x = (code - zero_point) * scale``, in float32.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qcompiler.scheme import MOST_OF_A_PAIR, PerAxis, PerBlock, Scheme

SMALLEST_SCALE = np.float32(2.0**-100)
"""Scales below this are raised to it: products of two scales must stay normal float32 numbers."""


def spread(parameter: np.ndarray, scheme: Scheme, shape: tuple[int, ...]) -> np.ndarray:
    """Reshapes a scale or zero point (``[]``, ``[C]`` or blocks) so that it broadcasts against ``shape``."""
    granularity = scheme.granularity
    if isinstance(granularity, PerAxis):
        axis = granularity.axis % len(shape)
        return np.reshape(parameter, [-1 if d == axis else 1 for d in range(len(shape))])
    if isinstance(granularity, PerBlock):
        axis = granularity.axis % len(shape)
        return np.repeat(parameter, granularity.size, axis=axis).take(range(shape[axis]), axis=axis)
    return np.reshape(parameter, [1] * len(shape))


def quantize(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Float array to codes of ``scheme.dtype`` (int32 for four-bit integers, which numpy lacks). NaN is an error."""
    values = np.asarray(values, dtype=np.float32)
    if values.size and np.isnan(values.min()):
        raise ValueError("cannot quantize NaN")
    step = spread(np.asarray(scale, dtype=np.float32), scheme, values.shape)
    offset = spread(np.asarray(zero_point), scheme, values.shape)
    low, high = scheme.storage_range if scheme.four_bits else scheme.code_range
    if not scheme.spaced_evenly:
        with np.errstate(over="ignore"):
            return np.clip(values / step, low, high).astype(getattr(ml_dtypes, scheme.dtype))
    with np.errstate(over="ignore"):
        steps = np.asarray(values / step)
    np.rint(steps, out=steps)
    exact = _exact_for(scheme)
    codes = steps.astype(exact, copy=False)
    codes += offset.astype(exact)
    np.clip(codes, low, high, out=codes)
    return codes.astype(np.int32 if scheme.four_bits else scheme.dtype)


def dequantize(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Codes to float32."""
    step = spread(np.asarray(scale, dtype=np.float32), scheme, codes.shape)
    offset = spread(np.asarray(zero_point), scheme, codes.shape)
    if not scheme.spaced_evenly:
        return np.asarray(codes.astype(np.float32) * step, dtype=np.float32)
    exact = _exact_for(scheme)
    steps = np.asarray(np.subtract(codes, offset, dtype=exact), np.float32)
    steps *= step
    return steps


def _exact_for(scheme: Scheme) -> type[np.floating]:
    """A type that holds all differences of the scheme's codes; the narrower one, for weights may be large."""
    return np.float32 if max(map(abs, scheme.storage_range)) < 1 << 22 else np.float64


def scale_and_zero_point(low: np.ndarray, high: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Parameters that cover ``[low, high]`` (same shape each), widened to contain zero so that zero is exact.

    Returns float32 scales and int64 zero points of the same shape. A range of width zero gets scale 1.
    """
    first, last = scheme.code_range
    low = np.minimum(np.asarray(low, dtype=np.float64), 0.0)
    high = np.maximum(np.asarray(high, dtype=np.float64), 0.0)
    if scheme.symmetric:
        reach = np.maximum(-low, high)
        middle = 0 if first < 0 else (scheme.storage_range[0] + scheme.storage_range[1] + 1) // 2
        scale = reach / (last - middle)
        zero_point = np.broadcast_to(np.int64(middle), scale.shape)
    else:
        scale = (high - low) / (last - first)
        with np.errstate(divide="ignore", invalid="ignore"):
            offset = np.where(scale > 0, first - low / np.where(scale > 0, scale, 1.0), 0 if first <= 0 else first)
        zero_point = np.clip(np.rint(offset), first, last).astype(np.int64)
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST_SCALE), 1.0)
    return scale.astype(np.float32), zero_point


def weight_range(values: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each group of a constant, shaped as its scale will be. Of a ``paired`` scheme what
    the two of a pair reach together, either way: rounded, they are then ``MOST_OF_A_PAIR`` together at most."""
    granularity = scheme.granularity
    if scheme.paired:
        reach = pair_sums(values, scheme)
        return -reach, reach
    if isinstance(granularity, PerAxis):
        axis = granularity.axis % values.ndim
        others = tuple(d for d in range(values.ndim) if d != axis)
        return values.min(axis=others), values.max(axis=others)
    if isinstance(granularity, PerBlock):
        axis = granularity.axis % values.ndim
        # Along a first axis this is twenty times as fast as reduceat.
        if axis < values.ndim - 1 and values.shape[axis] % granularity.size == 0:
            split = values.reshape(*values.shape[:axis], -1, granularity.size, *values.shape[axis + 1 :])
            return split.min(axis=axis + 1), split.max(axis=axis + 1)
        starts = np.arange(0, values.shape[axis], granularity.size)
        return np.minimum.reduceat(values, starts, axis=axis), np.maximum.reduceat(values, starts, axis=axis)
    return values.min(), values.max()


def pair_sums(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The largest sum of the magnitudes of a pair of weights, for each scale.

    Kernels of x86 without VNNI multiply two neighbours by two codes and sum that in 16 bits (vpmaddubsw). Neighbours
    are those along K, in convolutions along positions and then channels, as ONNX Runtime gathers windows. Where these
    are no multiple of four, ``align-channels`` may put zeros between: then any two may be neighbours.
    """
    sums = _pairs(np.abs(values), scheme).max(axis=1)
    return sums if isinstance(scheme.granularity, PerAxis) else sums[0]


def pair_room(codes: np.ndarray, scheme: Scheme) -> np.ndarray:
    """By how much each code may grow, whatever the others do within theirs, for no pair to be too large: int32."""
    room = (MOST_OF_A_PAIR - _pairs(np.abs(codes.astype(np.int32)), scheme)) // 2
    places = _summed_rows(np.arange(codes.size).reshape(codes.shape), scheme)
    found = np.empty(codes.size, np.int32)
    found[places] = np.repeat(room, -(-places.shape[1] // room.shape[1]), axis=1)[:, : places.shape[1]]
    return found.reshape(codes.shape)


def _pairs(magnitudes: np.ndarray, scheme: Scheme) -> np.ndarray:
    """``[rows, pairs]``: the sum of each pair; of the two largest where any two may be one."""
    rows = _summed_rows(magnitudes, scheme)
    along, step = (-2, 2) if _outputs_last(magnitudes, scheme) else (1, 4)
    ordered = magnitudes.ndim < 3 or magnitudes.shape[along] % step == 0
    if not isinstance(scheme.granularity, PerAxis) or not ordered:
        return np.sort(rows, axis=1)[:, -2:].sum(axis=1, keepdims=True)
    both = rows[:, 0::2].copy()
    both[:, : rows.shape[1] // 2] += rows[:, 1::2]
    return both


def _summed_rows(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """``[rows, K]``: what is summed up, in the order in which it is; a row for each scale."""
    if not isinstance(scheme.granularity, PerAxis) or values.ndim < 2:
        return values.reshape(1, -1)
    if _outputs_last(values, scheme):
        return np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)
    return np.moveaxis(values, 1, -1).reshape(len(values), -1)


def _outputs_last(values: np.ndarray, scheme: Scheme) -> bool:
    granularity = scheme.granularity
    return isinstance(granularity, PerAxis) and granularity.axis % values.ndim == values.ndim - 1 > 0


def sqnr(reference: np.ndarray, actual: np.ndarray) -> float:
    """Signal to quantization noise ratio in dB, ``10 log10(sum(ref^2) / sum((ref - act)^2))``; inf when equal.

    A NaN or an infinity in both is no difference, in one of them everything."""
    reference, actual = np.asarray(reference, np.float64), np.asarray(actual, np.float64)
    alike = ~np.isfinite(reference) & ((reference == actual) | (np.isnan(reference) & np.isnan(actual)))
    reference, actual = np.where(alike, 0.0, reference), np.where(alike, 0.0, actual)
    noise = float(np.sum((reference - actual) ** 2))
    signal = float(np.sum(reference**2))
    if noise == 0.0:
        return float("inf")
    if signal == 0.0 or not np.isfinite(noise):
        return float("-inf")
    return float(10.0 * np.log10(signal / noise))


def cosine(reference: np.ndarray, actual: np.ndarray) -> float:
    """Cosine similarity of two arrays read as vectors; 1 when both are zero."""
    a, b = np.ravel(reference).astype(np.float64), np.ravel(actual).astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if length == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b / length)
