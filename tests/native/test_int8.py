"""qcompiler::MatMulInt8 in ONNX Runtime sessions, against numpy, for every instruction set there is."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import matmul_int8_model
from native_sessions import isas_here, session
from onnx import TensorProto, helper

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def run(model: bytes, a: np.ndarray, threads: int = 1) -> np.ndarray:
    return session(model, threads).run(None, {"A": a})[0]


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


def random_weights(depth: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(-128, 128, (depth, columns)).astype(np.int8)
    return codes, random.uniform(0.001, 0.01, columns).astype(np.float32)


def rounded_rows(a: np.ndarray) -> np.ndarray:
    """The values, in float64, that A has after the operator has quantized it to 8 bits."""
    low, high = a.min(-1, keepdims=True), a.max(-1, keepdims=True)
    span = (high - low).astype(np.float64)
    steps = np.where(span == 0, 1, span / 255)
    return np.round((a - low) / steps) * steps + low


def relative_error(y: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


SHAPES = [(1, 1, 1), (1, 64, 33), (2, 97, 7), (5, 160, 64), (6, 32, 128), (7, 223, 97), (13, 384, 101), (31, 67, 37)]


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_products(isa: str, rows: int, depth: int, columns: int, with_bias: bool) -> None:
    codes, scales = random_weights(depth, columns)
    a = np.random.default_rng(1).normal(0.3, size=(rows, depth)).astype(np.float32)
    bias = np.random.default_rng(2).normal(size=columns).astype(np.float32) if with_bias else None
    before = native.int8_runs()[isa]
    y = run(matmul_int8_model(codes, scales, bias), a)
    expected = rounded_rows(a) @ (codes * scales.astype(np.float64)) + (0 if bias is None else bias)
    assert relative_error(y, expected) < 1e-3  # a tie may be rounded otherwise in float32
    assert native.int8_runs()[isa] == before + 1


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 20), depth=st.integers(1, 300), columns=st.integers(1, 150), seed=st.integers(0, 99))
def test_any_shape(rows: int, depth: int, columns: int, seed: int) -> None:
    codes, scales = random_weights(depth, columns, seed)
    a = np.random.default_rng(seed).normal(size=(rows, depth)).astype(np.float32)
    exact = a.astype(np.float64) @ (codes * scales.astype(np.float64))
    steps = (a.max(-1) - a.min(-1)) / 255.0
    allowed = 0.501 * steps[:, None] * np.abs(codes * scales).sum(axis=0) + 1e-4
    assert (np.abs(run(matmul_int8_model(codes, scales), a) - exact) <= allowed).all()


def test_one_scale_for_all_columns() -> None:
    codes, _ = random_weights(48, 70)
    a = np.random.default_rng(3).normal(size=(5, 48)).astype(np.float32)
    for one in (np.array(0.5, np.float32), np.array([0.5], np.float32)):
        assert np.array_equal(
            run(matmul_int8_model(codes, one), a), run(matmul_int8_model(codes, np.full(70, 0.5, np.float32)), a)
        )


def test_a_computed_bias() -> None:
    codes, scales = random_weights(64, 45)
    a = np.random.default_rng(6).normal(size=(3, 64)).astype(np.float32)
    bias = np.random.default_rng(7).normal(size=45).astype(np.float32)
    constant = matmul_int8_model(codes, scales, bias)
    computed = onnx.load_from_string(constant)
    computed.graph.initializer.remove(next(i for i in computed.graph.initializer if i.name == "bias"))
    computed.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, None))
    model = computed.SerializeToString()
    assert np.array_equal(session(model).run(None, {"A": a, "bias": bias})[0], run(constant, a))
    with pytest.raises(Exception, match=r"node 'product': bias has the shape \[44\] where B makes it \[45\]"):
        session(model).run(None, {"A": a, "bias": bias[1:]})


def test_leading_dimensions_are_kept() -> None:
    codes, scales = random_weights(32, 5)
    model = matmul_int8_model(codes, scales)
    a = np.random.default_rng(8).normal(size=(2, 3, 4, 32)).astype(np.float32)
    y = run(model, a)
    assert y.shape == (2, 3, 4, 5)
    assert np.array_equal(run(model, a[1, 2, 3]), y[1, 2, 3])
    assert run(model, np.empty((0, 32), np.float32)).shape == (0, 5)


@pytest.mark.parametrize("rows", [1, 3, 40, 200])
def test_threads_change_nothing(rows: int) -> None:
    codes, scales = random_weights(512, 700)
    model = matmul_int8_model(codes, scales)
    a = np.random.default_rng(9).normal(size=(rows, 512)).astype(np.float32)
    assert np.array_equal(run(model, a, threads=1), run(model, a, threads=2))
    together = session(model, threads=2)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(together.run(None, {"A": a})[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(isa: str, bad: float) -> None:
    codes, scales = random_weights(64, 20)
    a = np.random.default_rng(10).normal(size=(3, 64)).astype(np.float32)
    model = matmul_int8_model(codes, scales)
    expected = run(model, a)
    a[1, 5] = bad
    y = run(model, a)
    assert np.isnan(y[1]).all()
    assert np.array_equal(y[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e-30, 1e30])
def test_magnitudes_from_nothing_to_huge(isa: str, magnitude: float) -> None:
    codes, scales = random_weights(64, 20)
    a = np.random.default_rng(11).uniform(-1, 1, size=(3, 64)) * magnitude
    exact = a @ (codes * scales.astype(np.float64))
    y = run(matmul_int8_model(codes, scales), a.astype(np.float32))
    assert np.abs(y - exact).max() <= 0.02 * np.abs(exact).max() + 1e-33


def test_a_row_of_one_value_is_exact(isa: str) -> None:
    codes, scales = random_weights(64, 20)
    y = run(matmul_int8_model(codes, scales), np.full((1, 64), 1.7, np.float32))
    assert relative_error(y, np.full((1, 64), 1.7, np.float32) @ (codes * scales)) < 1e-5


CODES, SCALES = random_weights(8, 3)


@pytest.mark.parametrize(
    ("codes", "scales", "bias", "message"),
    [
        (CODES, np.ones(2, np.float32), None, r"scales has the shape \[2\] where B makes it \[3\], or one for all"),
        (CODES, np.array([1, np.nan, 1], np.float32), None, "the scale of column 1 is not finite"),
        (CODES, SCALES, np.ones(4, np.float32), r"bias has the shape \[4\] where B makes it \[3\]"),
        (CODES[0], SCALES, None, r"B has the shape \[3\]; it must be \[K, N\]"),
        (np.ones((0, 3), np.int8), SCALES, None, r"B has the shape \[0, 3\]"),
        (np.ones((65537, 1), np.int8), SCALES[:1], None, "K = 65537 is more than 65536"),
    ],
)
def test_what_no_kernel_could_use_is_refused(
    codes: np.ndarray, scales: np.ndarray, bias: np.ndarray | None, message: str
) -> None:
    with pytest.raises(Exception, match=f"qcompiler::MatMulInt8, node 'product': .*{message}"):
        session(matmul_int8_model(codes, scales, bias))


def test_weights_must_be_constants() -> None:
    model = onnx.load_from_string(matmul_int8_model(CODES, SCALES))
    model.graph.initializer.remove(next(i for i in model.graph.initializer if i.name == "B"))
    model.graph.input.append(helper.make_tensor_value_info("B", TensorProto.INT8, None))
    with pytest.raises(Exception, match="node 'product': B is not a constant of the model; make it an initializer"):
        session(model.SerializeToString())


def test_rows_of_another_length() -> None:
    with pytest.raises(Exception, match=r"A has the shape \[2, 9\], whose last size is not K = 8"):
        run(matmul_int8_model(CODES, SCALES), np.ones((2, 9), np.float32))
