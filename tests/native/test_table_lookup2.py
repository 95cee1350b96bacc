"""qcompiler::TableLookup2 in ONNX Runtime sessions, against numpy and QLinearMul, for every instruction set here."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import QuantizedProduct
from native_sessions import isas_here, session

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")

UNSIGNED = QuantizedProduct((0.02, 100), (1 / 256, 0), (0.015, 90))
SIGNED = QuantizedProduct((0.02, -7), (1 / 256, -128), (0.015, 5), np.int8)


def run(product: QuantizedProduct, x: np.ndarray, s: np.ndarray, operator: str = "TableLookup2") -> np.ndarray:
    return session(product.model(operator)).run(None, {"X": x, "S": s})[0]


def codes(shape: tuple[int, ...], of: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).view(of)


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


@pytest.mark.parametrize("product", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("inner", [1, 3, 37, 256, 319, 320, 321, 1009])
def test_every_pair_of_codes(isa: str, product: QuantizedProduct, inner: int) -> None:
    x = np.tile(np.arange(256, dtype=np.uint8), (256, 5))[:, : max(inner, 256)].view(product.codes)
    x = np.concatenate([np.roll(x, shift, 1)[:, :inner] for shift in range(0, x.shape[1], inner)])
    s = np.tile(np.arange(256, dtype=np.uint8), len(x) // 256)[:, None].view(product.codes)
    assert np.array_equal(run(product, x, s), product.values(x, s))


@pytest.mark.parametrize("product", [UNSIGNED, SIGNED])
@pytest.mark.parametrize(
    ("x", "s"),
    [
        ((2, 5, 7, 11), (2, 5, 1, 1)), ((2, 5, 31, 37), (2, 5, 1, 1)), ((2, 5, 7, 11), (1, 5, 1, 1)),
        ((2, 5, 7, 11), (5, 1, 1)), ((2, 5, 7, 11), (2, 1, 1, 1)), ((2, 5, 7, 11), (2, 5, 7, 1)),
        ((2, 5, 7, 11), (1, 1, 1, 1)), ((2, 5, 7, 11), ()), ((2, 5), (5,)), ((3, 4), (3, 4)), ((), ()), ((7,), (1,)),
        ((0, 5, 7, 11), (0, 5, 1, 1)), ((2, 1, 7, 11), (2, 1, 1, 1)), ((2, 5, 7, 11), (2, 1, 1, 11)),
        ((2, 5, 7, 11), (1, 1, 1, 11)), ((2, 5, 7, 11), (11,)), ((2, 5, 7, 11), (1, 5, 1, 11)),
        ((2, 5, 7, 11), (2, 5, 1, 11)), ((2, 5, 7, 11), (7, 11)), ((2, 5, 7, 11), (2, 5, 7, 11)),
        ((2, 1, 5, 7), (2, 1, 5, 1)), ((3, 1, 5), (3, 1, 5)), ((2, 40, 41, 24), (2, 1, 1, 24)),
        ((3, 20, 7, 600), (3, 1, 1, 600)), ((2, 0, 3), (2, 1, 3)), ((2, 3, 0), (2, 1, 0)),
    ],
)
def test_shapes_that_can_be_repeated(
    isa: str, product: QuantizedProduct, x: tuple[int, ...], s: tuple[int, ...]
) -> None:
    given, other = codes(x, product.codes), codes(s, product.codes, 1)
    y = run(product, given, other)
    assert y.shape == x and y.dtype == product.codes
    assert np.array_equal(y, product.values(given, other))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([np.uint8, np.int8]), st.integers(1, 700))
def test_is_what_qlinearmul_makes_but_for_ties(data: st.DataObject, of: type, inner: int) -> None:
    limits = np.iinfo(of)
    scale = st.floats(2**-7, 4, width=32)  # farther apart, QLinearMul's sums leave 32 bits
    zero_point = st.integers(int(limits.min), int(limits.max))
    product = QuantizedProduct(*[(data.draw(scale), data.draw(zero_point)) for _ in range(3)], of)
    x, s = codes((2, 9, inner), of), codes((2, 9, 1), of, 1)
    ours, theirs = run(product, x, s), run(product, x, s, "QLinearMul")
    assert np.array_equal(ours, product.values(x, s))
    exact = (x.astype(np.float64) - product.x[1]) * (s.astype(np.float64) - product.s[1])
    exact = exact * product.x[0] * product.s[0] / product.y[0] + product.y[1]
    differ = ours != theirs
    for y in (ours, theirs):
        assert np.abs(y[differ] - exact[differ]).max(initial=0) < 0.501


def test_threads_change_nothing() -> None:
    x, s = codes((3, 37, 53, 67), np.uint8), codes((3, 37, 1, 1), np.uint8, 1)
    model = UNSIGNED.model("TableLookup2")
    last = [codes.transpose(0, 2, 3, 1).copy() for codes in (x, s)]
    for feeds in ({"X": x, "S": s}, dict(zip("XS", last))):
        for threads in (1, 2, 3):
            y = session(model, threads).run(None, feeds)[0]
            assert np.array_equal(y, UNSIGNED.values(feeds["X"], feeds["S"]))


@pytest.mark.parametrize("s", [(5, 7, 11, 1), (2, 1, 7, 1), (2, 4, 1, 1), (1, 2, 5, 7, 11), (11, 2), (2, 10, 1, 1)])
def test_shapes_that_cannot_be_repeated_are_refused(s: tuple[int, ...]) -> None:
    text = ", ".join(map(str, s))
    message = (
        r"TableLookup2, node 'product': X has the shape \[2, 5, 7, 11\], along whose axes S, of the shape "
        rf"\[{text}\], cannot be repeated"
    )
    with pytest.raises(Exception, match=message):
        run(UNSIGNED, codes((2, 5, 7, 11), np.uint8), codes(s, np.uint8))


@pytest.mark.parametrize("name", ["x_scale", "s_scale", "y_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(Exception, match=f"node 'product': {name} is not a finite number greater than zero"):
        session(UNSIGNED.model("TableLookup2", **{name: np.array(value, np.float32)}))


def test_scales_too_far_apart_are_refused() -> None:
    far = QuantizedProduct((1e20, 0), (1e10, 0), (1e-20, 0))
    with pytest.raises(Exception, match=r"node 'product': x_scale \* s_scale / y_scale is too large for float32"):
        session(far.model("TableLookup2"))


def test_parameters_of_several_values_are_refused() -> None:
    message = r"node 'product': y_zero_point has the shape \[2\]; make it one value"
    with pytest.raises(Exception, match=message):
        session(UNSIGNED.model("TableLookup2", y_zero_point=np.zeros(2, np.uint8)))


def test_parameters_that_are_not_constant_are_refused() -> None:
    with pytest.raises(Exception, match="node 'product': x_scale is not a constant of the model; make it an initia"):
        session(UNSIGNED.model("TableLookup2", constants=False))


def test_codes_of_two_types_are_refused() -> None:
    with pytest.raises(Exception, match="product"):
        session(UNSIGNED.model("TableLookup2", s_zero_point=np.zeros((), np.int8)))
