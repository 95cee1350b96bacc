"""The arithmetic that everything else is held against: its own laws, and ONNX Runtime bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from qcompiler import numerics
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme

DTYPES = ["uint8", "int8", "uint16", "int16", "uint4", "int4"]
SCHEMES = [Scheme(dtype, symmetric) for dtype in DTYPES for symmetric in (True, False)]  # type: ignore[arg-type]
SCHEMES.append(Scheme("int8", True, bits=7))
reals = st.floats(-(2.0**60), 2.0**60, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=reals)
schemes = st.sampled_from(SCHEMES)


def parameters(values: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    return numerics.scale_and_zero_point(*numerics.weight_range(values, scheme), scheme)


def round_trip(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, scheme: Scheme) -> np.ndarray:
    return numerics.dequantize(numerics.quantize(values, scale, zero_point, scheme), scale, zero_point, scheme)


@given(arrays, schemes)
def test_in_range_the_error_is_at_most_half_a_step(values: np.ndarray, scheme: Scheme) -> None:
    scale, zero_point = parameters(values, scheme)
    low, high = (np.float64(scale) * (code - zero_point) for code in scheme.code_range)
    inside = np.clip(values.astype(np.float64), low, high).astype(np.float32)
    error = np.abs(round_trip(inside, scale, zero_point, scheme).astype(np.float64) - inside)
    steps = np.float64(scheme.code_range[1] - scheme.code_range[0])
    assert error.max() <= float(scale) * (0.5 + steps * 2.0**-22)  # float32 has 24 bits, the steps take up to 16


@given(arrays, schemes)
def test_the_range_itself_is_covered_up_to_the_rounding_of_the_zero_point(values: np.ndarray, scheme: Scheme) -> None:
    scale, zero_point = parameters(values, scheme)
    first, last = (float(scale) * (code - float(zero_point)) for code in scheme.code_range)
    slack = float(scale) * 0.5 * (1 + 1e-3)
    assert first - slack <= min(values.min(), 0) and max(values.max(), 0) <= last + slack


@given(arrays, schemes)
def test_zero_is_exact(values: np.ndarray, scheme: Scheme) -> None:
    scale, zero_point = parameters(values, scheme)
    low, high = scheme.storage_range if scheme.four_bits else scheme.code_range
    assert low <= zero_point <= high
    assert round_trip(np.zeros(3, np.float32), scale, zero_point, scheme).tolist() == [0, 0, 0]


@given(arrays, schemes)
def test_codes_stay_in_their_range_and_keep_order(values: np.ndarray, scheme: Scheme) -> None:
    codes = numerics.quantize(
        np.sort(values, axis=None), np.float32(0.125), np.array(scheme.code_range[1] // 2), scheme
    )
    low, high = scheme.storage_range if scheme.four_bits else scheme.code_range
    assert low <= codes.min() and codes.max() <= high
    assert (np.diff(codes.astype(np.int64)) >= 0).all()


@given(arrays, schemes)
def test_quantizing_again_changes_nothing(values: np.ndarray, scheme: Scheme) -> None:
    scale, zero_point = parameters(values, scheme)
    codes = numerics.quantize(values, scale, zero_point, scheme)
    again = numerics.quantize(numerics.dequantize(codes, scale, zero_point, scheme), scale, zero_point, scheme)
    assert again.dtype == codes.dtype and again.tolist() == codes.tolist()


@given(reals, reals, schemes)
def test_parameters_are_usable_whatever_the_range(a: float, b: float, scheme: Scheme) -> None:
    scale, zero_point = numerics.scale_and_zero_point(np.array([min(a, b)]), np.array([max(a, b)]), scheme)
    assert scale.dtype == np.float32 and zero_point.dtype == np.int64
    assert scale[0] >= numerics.SMALLEST_SCALE and np.isfinite(scale[0])
    if scheme.symmetric:
        assert zero_point[0] == (0 if scheme.storage_range[0] < 0 else (scheme.storage_range[1] + 1) // 2)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_range_of_no_width_gets_scale_one(scheme: Scheme) -> None:
    scale, zero_point = numerics.scale_and_zero_point(np.array(0.0), np.array(0.0), scheme)
    assert scale == 1 and scheme.code_range[0] <= zero_point <= scheme.code_range[1]


@given(hnp.arrays(np.float32, (3, 5, 4), elements=reals), schemes, st.integers(-3, 2))
def test_each_channel_is_its_own_tensor(values: np.ndarray, scheme: Scheme, axis: int) -> None:
    whole = Scheme(scheme.dtype, scheme.symmetric, PerAxis(axis), scheme.bits)
    scale, zero_point = parameters(values, whole)
    assert scale.shape == (values.shape[axis],)
    together = round_trip(values, scale, zero_point, whole)
    for index in range(values.shape[axis]):
        alone = np.take(values, index, axis)
        s, z = parameters(alone, scheme)
        np.testing.assert_array_equal(np.take(together, index, axis), round_trip(alone, s, z, scheme))


@given(hnp.arrays(np.float32, (2, 7, 3), elements=reals), schemes, st.integers(1, 8), st.integers(-3, 2))
def test_each_block_is_its_own_tensor(values: np.ndarray, scheme: Scheme, size: int, axis: int) -> None:
    blocks = Scheme(scheme.dtype, scheme.symmetric, PerBlock(axis, size), scheme.bits)
    scale, zero_point = parameters(values, blocks)
    length = values.shape[axis]
    assert scale.shape[axis] == -(-length // size)
    together = np.moveaxis(round_trip(values, scale, zero_point, blocks), axis, 0)
    for place in np.ndindex(*np.moveaxis(values, axis, 0).shape[1:]):
        line = np.moveaxis(values, axis, 0)[(slice(None), *place)]
        for start in range(0, length, size):
            s, z = parameters(line[start : start + size], scheme)
            expected = round_trip(line[start : start + size], s, z, scheme)
            np.testing.assert_array_equal(together[(slice(start, start + size), *place)], expected)


def test_not_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        numerics.quantize(np.array([np.nan], np.float32), np.float32(1), np.array(0), SCHEMES[0])


def test_infinities_saturate() -> None:
    codes = numerics.quantize(
        np.array([-np.inf, np.inf], np.float32), np.float32(1), np.array(0), Scheme("int8", False)
    )
    assert codes.tolist() == [-128, 127]


def test_ties_go_to_even() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert numerics.quantize(values, np.float32(1), np.array(0), Scheme("int8", True)).tolist() == [0, 2, 2, 0, -2]


# --- ONNX Runtime ---

KINDS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint16": TensorProto.UINT16, "int16": TensorProto.INT16,
         "int32": TensorProto.INT32}  # fmt: skip


@functools.cache
def operator(op: str, dtype: str, axis: int | None) -> ort.InferenceSession:
    source, result = (TensorProto.FLOAT, KINDS[dtype]) if op == "QuantizeLinear" else (KINDS[dtype], TensorProto.FLOAT)
    rank = None if axis is None else ["C"]
    inputs = [
        helper.make_tensor_value_info("x", source, None),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, rank or []),
        helper.make_tensor_value_info("zero_point", KINDS[dtype], rank or []),
    ]
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node(op, ["x", "scale", "zero_point"], ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", result, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def onnx_runtime(op: str, dtype: str, axis: int | None, **feeds: Any) -> np.ndarray:
    return operator(op, dtype, axis).run(None, feeds)[0]


scales = st.floats(2.0**-30, 2.0**30, width=32)


def parameters_for(draw: Any, dtype: str, shape: tuple[int, ...], axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    count = () if axis is None else (shape[axis],)
    limits = np.iinfo(dtype)
    scale = draw(hnp.arrays(np.float32, count, elements=scales))
    if dtype == "int32":
        return scale, np.zeros(count, np.int32)
    return scale, draw(hnp.arrays(dtype, count, elements=st.integers(int(limits.min), int(limits.max))))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("axis", [None, 0, 1])
@settings(deadline=None)
@given(data=st.data())
def test_quantizing_as_onnx_runtime_does(dtype: Any, axis: int | None, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=6))
    scale, zero_point = parameters_for(data.draw, dtype, shape, axis)
    # Kernels turn the rounded quotient into an integer before they add: beyond 2^31 they differ by machine.
    steps = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-(2.0**24), 2.0**24, width=32)))
    scheme = Scheme(dtype, False, PerTensor() if axis is None else PerAxis(axis))
    values = (steps * numerics.spread(scale, scheme, shape)).astype(np.float32)
    assume(np.isfinite(values).all())
    expected = onnx_runtime("QuantizeLinear", dtype, axis, x=values, scale=scale, zero_point=zero_point)
    codes = numerics.quantize(values, scale, zero_point, scheme)
    assert codes.dtype == expected.dtype and codes.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("axis", [None, 0, 1])
@settings(deadline=None)
@given(data=st.data())
def test_dequantizing_as_onnx_runtime_does(dtype: Any, axis: int | None, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=6))
    scale, zero_point = parameters_for(data.draw, dtype, shape, axis)
    limits = np.iinfo(dtype)
    codes = data.draw(hnp.arrays(dtype, shape, elements=st.integers(int(limits.min), int(limits.max))))
    expected = onnx_runtime("DequantizeLinear", dtype, axis, x=codes, scale=scale, zero_point=zero_point)
    scheme = Scheme(dtype, False, PerTensor() if axis is None else PerAxis(axis))
    values = numerics.dequantize(codes, scale, zero_point, scheme)
    assert values.dtype == np.float32 and values.tobytes() == expected.tobytes()


# --- measures ---


def test_sqnr_of_known_noise() -> None:
    reference = np.full(1000, 10.0)
    assert numerics.sqnr(reference, reference + 1) == pytest.approx(20.0)
    assert numerics.sqnr(reference, reference) == float("inf")
    assert numerics.sqnr(np.zeros(3), np.ones(3)) == float("-inf")
    assert numerics.sqnr(reference, np.full(1000, np.nan)) == float("-inf")
    odd = np.array([np.nan, np.inf, -np.inf, 10.0])
    assert numerics.sqnr(odd, odd) == float("inf")
    assert numerics.sqnr(odd, odd + np.array([0, 0, 0, 1])) == pytest.approx(20.0)
    assert numerics.sqnr(odd, np.array([np.nan, np.inf, np.inf, 10.0])) == float("-inf")


def test_cosine_of_known_angles() -> None:
    assert numerics.cosine(np.array([1, 0]), np.array([3, 0])) == 1
    assert numerics.cosine(np.array([1, 0]), np.array([0, 2])) == 0
    assert numerics.cosine(np.array([1, 0]), np.array([-1, 0])) == -1
    assert numerics.cosine(np.zeros(2), np.zeros(2)) == 1 and numerics.cosine(np.zeros(2), np.ones(2)) == 0



def test_fp8_codes_are_floats() -> None:
    scheme = Scheme("float8_e4m3fn", True)
    values = np.array([-1e9, -3.0, 0.0, 0.3, 1.0, 447.0], np.float32)
    codes = numerics.quantize(values, np.float32(1.0), np.int64(0), scheme)
    assert codes.dtype == "float8_e4m3fn"
    assert numerics.dequantize(codes, np.float32(1.0), np.int64(0), scheme).tolist() == [-448, -3, 0, 0.3125, 1, 448]
