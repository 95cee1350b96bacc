"""qcompiler::DepthwiseConvInt8 in ONNX Runtime sessions, against QLinearConv, for every instruction set here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import DepthwiseConvolution, random_depthwise
from native_sessions import isas_here, session

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def codes(shape: tuple[int, ...], of: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).view(of)


def both(filters: DepthwiseConvolution, shape: tuple[int, ...], threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What the operator gives, and QLinearConv."""
    x = codes(shape, filters.codes)
    ours, theirs = (session(filters.model(name), threads) for name in ("DepthwiseConvInt8", "QLinearConv"))
    return ours.run(None, {"X": x})[0], theirs.run(None, {"X": x})[0]


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


@pytest.mark.parametrize("channels", [1, 7, 16, 24, 32, 48, 64, 96, 120, 200])
@pytest.mark.parametrize("taps, strides", [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((5, 5), (1, 1)), ((5, 3), (2, 1))])
def test_is_qlinearconv(isa: str, channels: int, taps: tuple[int, int], strides: tuple[int, int]) -> None:
    pads = (taps[0] // 2, taps[1] // 2) * 2
    filters = random_depthwise(channels, taps, channels, strides=strides, pads=pads)
    ours, theirs = both(filters, (2, channels, 15, 18))
    assert ours.shape == theirs.shape and len(np.unique(theirs)) > 50
    assert np.array_equal(ours, theirs)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([np.uint8, np.int8]), st.integers(1, 150), st.booleans())
def test_any_convolution(data: st.DataObject, of: type, channels: int, biased: bool) -> None:
    def pair(least: int, most: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    filters = random_depthwise(
        channels, pair(1, 7), data.draw(st.integers(0, 99)), codes=of, strides=pair(1, 3), dilations=pair(1, 2),
        pads=(*pair(0, 4), *pair(0, 4)),
    )  # fmt: skip
    filters = replace(filters, x=(0.02, data.draw(st.integers(0, 127))), bias=filters.bias if biased else None)
    ours, theirs = both(filters, (data.draw(st.integers(1, 2)), channels, *pair(13, 40)))
    assert np.array_equal(ours, theirs)


def test_one_row_of_samples() -> None:
    filters = random_depthwise(40, (1, 9), pads=(0, 4, 0, 4))
    assert np.array_equal(*both(filters, (1, 40, 1, 300)))


def test_one_scale_for_all_weights() -> None:
    filters = replace(random_depthwise(24, (3, 3)), w_scale=np.full(1, 0.01, np.float32))
    assert np.array_equal(*both(filters, (1, 24, 9, 9)))


@pytest.mark.parametrize("shape", [(3, 72, 61, 53), (1, 200, 7, 7)])
def test_threads_change_nothing(shape: tuple[int, ...]) -> None:
    filters = random_depthwise(shape[1], (3, 3), pads=(1, 1, 1, 1))
    for threads in (1, 2, 3):
        assert np.array_equal(*both(filters, shape, threads))


@pytest.mark.parametrize("shape", [(0, 16, 5, 5), (1, 16, 2, 5)])
def test_nothing_gives_nothing(shape: tuple[int, ...]) -> None:
    filters = random_depthwise(16, (3, 3))
    y = session(filters.model()).run(None, {"X": codes(shape, np.uint8)})[0]
    assert y.size == 0 and y.shape[:2] == shape[:2]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"W": np.zeros((16, 2, 3, 3), np.int8)}, r"W has the shape \[16, 2, 3, 3\]; it must be \[C, 1, kH, kW\]"),
        ({"W": np.zeros((16, 3, 3), np.int8)}, r"W has the shape \[16, 3, 3\]; it must be"),
        ({"W": np.zeros((0, 1, 3, 3), np.int8)}, r"W has the shape \[0, 1, 3, 3\]; it must be"),
        ({"w_scale": np.ones(15, np.float32)}, r"w_scale has the shape \[15\] where W makes it \[16\], or one for all"),
        ({"B": np.ones(3, np.int32)}, r"B has the shape \[3\] where W makes it \[16\]"),
        ({"x_scale": np.array(np.nan, np.float32)}, "x_scale is not a finite number greater than zero"),
        ({"y_scale": np.array(0, np.float32)}, "y_scale is not a finite number greater than zero"),
        ({"y_zero_point": np.zeros(2, np.uint8)}, r"y_zero_point has the shape \[2\]; make it one value"),
        ({"y_scale": np.array(1e-12, np.float32)}, "of channel 0 times .* do not fit 32 bits; y_scale is too small"),
        ({"w_scale": np.full(16, np.inf, np.float32)}, "the sums of channel 0 times .* do not fit 32 bits"),
        ({"strides": (0, 1)}, r"strides is \[0, 1\]; make it 2 numbers from 1 to 65536"),
        ({"pads": (1, 1)}, r"pads is \[1, 1\]; make it 4 numbers from 0 to 65536"),
        ({"dilations": (1, 70000)}, r"dilations is \[1, 70000\]; make it 2 numbers from 1 to 65536"),
    ],
    ids=str,
)
def test_what_is_no_convolution_is_refused(replaced: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=f"DepthwiseConvInt8, node 'filter': .*{message}"):
        session(random_depthwise(16, (3, 3)).model(**replaced))


def test_weights_that_are_not_constant_are_refused() -> None:
    with pytest.raises(Exception, match="node 'filter': W is not a constant of the model; make it an initializer"):
        session(random_depthwise(16, (3, 3)).model(constants=False))


def test_other_channels_are_refused() -> None:
    with pytest.raises(Exception, match=r"X has the shape \[1, 5, 5, 17\]; it must be \[N, H, W, 16\]"):
        session(random_depthwise(16, (3, 3)).model()).run(None, {"X": codes((1, 17, 5, 5), np.uint8)})
