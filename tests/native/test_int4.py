"""qcompiler::MatMulInt4 and GatherInt4 in ONNX Runtime sessions, against numpy, for every instruction set there is."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import (
    Int4Weights,
    gather_int4_model,
    matmul_int4_model,
    pack_pairs,
    random_int4_weights,
)
from native_sessions import isas_here, session
from onnx import TensorProto, helper, numpy_helper

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def run(model: bytes, a: np.ndarray, threads: int = 1) -> np.ndarray:
    return session(model, threads).run(None, {"A": a})[0]


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


def test_the_scalar_reference_is_always_here() -> None:
    assert isas_here()[-1] == "scalar"


def quantized_rows(a: np.ndarray, block: int) -> np.ndarray:
    """The values, in float64, that A has after the operator has quantized it to 8 bits."""
    blocks = a.astype(np.float64).reshape(*a.shape[:-1], -1, block)
    high, low = np.maximum(blocks.max(-1), 0), np.maximum(-blocks.min(-1), 0)
    magnitude, other = np.maximum(high, low), np.minimum(high, low)
    steps = np.where(other * 128 > magnitude * 127.5, 127, np.where(high > low, -128, 128))
    scale = np.where(magnitude == 0, 1, magnitude / steps)[..., None]
    return (np.round(blocks / scale) * scale).reshape(a.shape)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits of significand, to the even one of two."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


def relative_error(y: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


# From so many rows on, `amx` multiplies numbers of 16 bits.
MANY_ROWS = {"amx": 24}

SHAPES = [
    (1, 32, 1), (1, 64, 33), (2, 96, 7), (3, 64, 31), (5, 160, 64), (6, 32, 32), (7, 224, 97), (13, 96, 101),
    (31, 64, 37), (150, 96, 1200),
]


def product_of(a: np.ndarray, weights: Int4Weights, isa: str, block: int = 32) -> np.ndarray:
    """What the operator makes of ``activations="int8"``, in float64."""
    if len(a) >= MANY_ROWS.get(isa, len(a) + 1):
        return bfloat16(a) @ bfloat16(weights.values)
    return quantized_rows(a, block) @ weights.values


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("zero_points", [False, True])
def test_products_in_8_bits(isa: str, rows: int, depth: int, columns: int, zero_points: bool) -> None:
    weights = random_int4_weights(depth, columns, 32, zero_points)
    a = np.random.default_rng(1).normal(size=(rows, depth)).astype(np.float32)
    before = native.int4_runs()[isa]
    y = run(matmul_int4_model(weights), a)
    assert relative_error(y, product_of(a, weights, isa)) < 1e-3  # a tie may be rounded otherwise in float32
    assert native.int4_runs()[isa] == before + 1


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("scales", [np.float32, np.float16])
def test_blocks_of_every_size(isa: str, block: int, activations: str, scales: type) -> None:
    weights = random_int4_weights(512, 40, block, zero_points=True, scales=scales)
    a = np.random.default_rng(2).normal(size=(5, 512)).astype(np.float32)
    expected = (a.astype(np.float64) if activations == "float" else quantized_rows(a, block)) @ weights.values
    y = run(matmul_int4_model(weights, activations=activations), a)
    assert relative_error(y, expected) < (1e-6 if activations == "float" else 1e-3)


@pytest.mark.parametrize("depth", [1, 2, 7, 31, 32, 33, 64, 97, 128, 288, 509])
@pytest.mark.parametrize("zero_points", [False, True])
def test_one_scale_a_column_takes_any_depth(isa: str, depth: int, zero_points: bool) -> None:
    weights = random_int4_weights(depth, 35, 0, zero_points)
    a = np.random.default_rng(3).normal(size=(4, depth)).astype(np.float32)
    exact = a.astype(np.float64) @ weights.values
    assert relative_error(run(matmul_int4_model(weights, activations="float"), a), exact) < 1e-6
    assert np.abs(run(matmul_int4_model(weights), a) - exact).max() < 0.02 * np.abs(exact).max() + 1e-3


@pytest.mark.parametrize("scales", [np.float32, np.float16])
@pytest.mark.parametrize("rows", [7, 40])
def test_float16_in_and_out(isa: str, scales: type, rows: int) -> None:
    weights = random_int4_weights(128, 45, 32, scales=scales)
    a = np.random.default_rng(4).normal(size=(rows, 128)).astype(np.float16)
    bias = np.random.default_rng(5).normal(size=45).astype(np.float16)
    y = run(matmul_int4_model(weights, bias, TensorProto.FLOAT16), a)
    assert y.dtype == np.float16
    expected = product_of(a, weights, isa) + bias.astype(np.float64)
    assert relative_error(y.astype(np.float64), expected) < 2e-3


def test_bias_constant_or_computed(isa: str) -> None:
    weights = random_int4_weights(64, 45, 32)
    a = np.random.default_rng(6).normal(size=(3, 64)).astype(np.float32)
    bias = np.random.default_rng(7).normal(size=45).astype(np.float32)
    without = run(matmul_int4_model(weights), a)
    constant = matmul_int4_model(weights, bias)
    assert np.array_equal(run(constant, a), without + bias)
    computed = onnx.load_from_string(constant)
    computed.graph.initializer.remove(next(i for i in computed.graph.initializer if i.name == "bias"))
    computed.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [45]))
    y = session(computed.SerializeToString()).run(None, {"A": a, "bias": bias})[0]
    assert np.array_equal(y, without + bias)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20), blocks=st.integers(1, 9), columns=st.integers(1, 70), block=st.sampled_from([16, 32, 64]),
    zero_points=st.booleans(), half=st.booleans(), activations=st.sampled_from(["int8", "float"]),
    seed=st.integers(0, 99),
)
def test_any_shape(
    rows: int, blocks: int, columns: int, block: int, zero_points: bool, half: bool, activations: str, seed: int
) -> None:
    weights = random_int4_weights(
        blocks * block, columns, block, zero_points, np.float16 if half else np.float32, seed
    )
    a = np.random.default_rng(seed).normal(size=(rows, blocks * block)).astype(np.float32)
    expected = (a.astype(np.float64) if activations == "float" else quantized_rows(a, block)) @ weights.values
    y = run(matmul_int4_model(weights, activations=activations), a)
    scale = np.abs(a).astype(np.float64) @ np.abs(weights.values)
    assert (np.abs(y - expected) <= (1e-6 if activations == "float" else 2e-3) * scale + 1e-30).all()


def test_leading_dimensions_are_kept() -> None:
    weights = random_int4_weights(32, 5, 32)
    model = matmul_int4_model(weights)
    a = np.random.default_rng(8).normal(size=(2, 3, 2, 32)).astype(np.float32)
    y = run(model, a)
    assert y.shape == (2, 3, 2, 5)
    assert np.array_equal(run(model, a[1, 2, 1]), y[1, 2, 1])
    assert run(model, np.empty((0, 32), np.float32)).shape == (0, 5)
    assert run(model, np.empty((2, 0, 32), np.float32)).shape == (2, 0, 5)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_threads_change_nothing(rows: int) -> None:
    weights = random_int4_weights(512, 700, 32)
    model = matmul_int4_model(weights)
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
@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("rows", [3, 35])
def test_what_is_not_finite_stays_in_its_row(isa: str, bad: float, activations: str, rows: int) -> None:
    weights = random_int4_weights(64, 20, 32)
    a = np.random.default_rng(10).normal(size=(rows, 64)).astype(np.float32)
    model = matmul_int4_model(weights, activations=activations)
    expected = run(model, a)
    a[1, 5] = bad
    y = run(model, a)
    assert not np.isfinite(y[1]).any()
    others = np.arange(rows) != 1
    assert np.array_equal(y[others], expected[others])


@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e-30, 1e30])
def test_magnitudes_from_nothing_to_huge(isa: str, magnitude: float) -> None:
    weights = random_int4_weights(64, 20, 32)
    a = np.random.default_rng(11).uniform(-1, 1, size=(3, 64)) * magnitude
    y = run(matmul_int4_model(weights), a.astype(np.float32))
    assert np.abs(y - a @ weights.values).max() <= 0.02 * np.abs(a @ weights.values).max() + 1e-34


def test_flushing_denormals_changes_nothing() -> None:
    weights = random_int4_weights(64, 20, 32)
    a = np.random.default_rng(12).normal(size=(3, 64)).astype(np.float32)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    native.register_custom_ops(options)
    model = matmul_int4_model(weights)
    runner = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert np.array_equal(runner.run(None, {"A": a})[0], run(model, a))


def as_matmul_nbits(weights: Int4Weights) -> bytes:
    node = helper.make_node(
        "MatMulNBits", ["A", *weights.initializers], ["Y"], domain="com.microsoft", bits=4, accuracy_level=4,
        **weights.attributes,
    )
    graph = helper.make_graph(
        [node],
        "nbits",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.initializers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("block", [32, 128])
def test_the_weights_are_those_of_matmulnbits_and_no_less_exact(isa: str, block: int, zero_points: bool) -> None:
    weights = random_int4_weights(1024, 256, block, zero_points)
    a = np.random.default_rng(13).normal(size=(1024, 1024)).astype(np.float32)  # many: both errors are sums of chances
    exact = a.astype(np.float64) @ weights.values
    theirs = run(as_matmul_nbits(weights), a)
    assert relative_error(theirs, exact) < 0.02
    assert relative_error(run(matmul_int4_model(weights), a), exact) <= relative_error(theirs, exact)


@pytest.mark.parametrize("block", [0, 16, 32])
@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("scales", [np.float32, np.float16])
@pytest.mark.parametrize("indices", [np.int32, np.int64])
def test_gather(block: int, zero_points: bool, scales: type, indices: type) -> None:
    weights = random_int4_weights(96, 11, block, zero_points, scales)
    which = np.array([[0, 10, 3], [-1, -11, 5]], indices)
    y = run(gather_int4_model(weights, helper.np_dtype_to_tensor_dtype(np.dtype(indices))), which)
    assert y.dtype == scales
    assert np.array_equal(y, weights.values.T[which].astype(scales))


def test_gather_takes_no_indices_and_an_odd_depth() -> None:
    weights = random_int4_weights(7, 5, 0)
    assert run(gather_int4_model(weights), np.empty((2, 0), np.int64)).shape == (2, 0, 7)
    assert np.array_equal(run(gather_int4_model(weights), np.array(3)), weights.values.T[3].astype(np.float32))


def test_an_embedding_and_its_tied_product_share_initializers() -> None:
    weights = random_int4_weights(64, 50, 32)
    gather = helper.make_node("GatherInt4", ["I", "B", "scales"], ["X"], domain=native.DOMAIN, **weights.attributes)
    product = helper.make_node("MatMulInt4", ["X", "B", "scales"], ["Y"], domain=native.DOMAIN, **weights.attributes)
    graph = helper.make_graph(
        [gather, product],
        "tied",
        [helper.make_tensor_value_info("I", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 50])],
        [numpy_helper.from_array(value, name) for name, value in weights.initializers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    y = session(model).run(None, {"I": np.arange(50)})[0]
    assert relative_error(y, weights.values.T @ weights.values) < 0.02


@pytest.mark.parametrize("index", [-12, 11, 2**40])
def test_an_index_outside_of_the_table_is_refused(index: int) -> None:
    with pytest.raises(Exception, match=rf"node 'embedding': the index {index} is outside of a table of 11 rows"):
        run(gather_int4_model(random_int4_weights(32, 11, 32)), np.array([0, index]))


def with_scale(value: float, scales: type = np.float32) -> Int4Weights:
    weights = random_int4_weights(64, 3, 32, scales=scales)
    weights.scales[2, 1] = value
    return weights


def without_last_byte(weights: Int4Weights) -> Int4Weights:
    return Int4Weights(**{**vars(weights), "packed": weights.packed[..., :-1]})


GOOD = random_int4_weights(64, 3, 32)
REFUSED = [
    ({"K": 65}, GOOD, "K = 65 is not a multiple of block_size = 32; quantize with a block that divides K"),
    ({"K": 0}, GOOD, r"K = 0 is not between 1 and 2\^31"),
    ({"K": -64}, GOOD, "K = -64 is not between"),
    ({"K": 2**40}, GOOD, "K = 1099511627776 is not between"),
    ({"N": 0}, GOOD, "N = 0 is not between"),
    ({"block_size": 48}, GOOD, "block_size = 48; use 16, 32, 64, 128, 256, or 0 for one scale a column"),
    ({"block_size": 16}, GOOD, r"B has the shape \[3, 2, 16\] where K, N and block_size make it \[3, 4, 8\]"),
    ({"N": 4}, GOOD, r"B has the shape \[3, 2, 16\] where K, N and block_size make it \[4, 2, 16\]"),
    ({}, without_last_byte(GOOD), r"B has the shape \[3, 2, 15\]"),
    ({}, with_scale(0.0), "the scale of column 2, block 1 is zero; a block of zeros can have the scale 1"),
    ({}, with_scale(1e-40), "the scale of column 2, block 1 is subnormal"),
    ({}, with_scale(1e-6, np.float16), "the scale of column 2, block 1 is subnormal"),
    ({}, with_scale(np.nan), "the scale of column 2, block 1 is NaN; the weights it was made from were not finite"),
    ({}, with_scale(-np.inf), "the scale of column 2, block 1 is infinite"),
]


@pytest.mark.parametrize(("attributes", "weights", "message"), REFUSED)
def test_bad_weights_are_refused_with_the_nodes_name(attributes: dict, weights: Int4Weights, message: str) -> None:
    with pytest.raises(Exception, match=f"qcompiler::MatMulInt4, node 'product': {message}"):
        session(matmul_int4_model(weights, **attributes))
    with pytest.raises(Exception, match=f"qcompiler::GatherInt4, node 'embedding': {message}"):
        session(gather_int4_model(weights, **attributes))


def test_an_unknown_kind_of_activations_is_refused() -> None:
    with pytest.raises(Exception, match="node 'product': activations = 'int4'; use int8 or float"):
        session(matmul_int4_model(GOOD, activations="int4"))


def test_a_missing_attribute_is_refused() -> None:
    model = onnx.load_from_string(matmul_int4_model(GOOD))
    del model.graph.node[0].attribute[:]
    with pytest.raises(Exception, match="node 'product': the attribute K is missing"):
        session(model.SerializeToString())


def test_a_node_without_a_name_is_found_by_its_output() -> None:
    model = onnx.load_from_string(matmul_int4_model(with_scale(0.0)))
    model.graph.node[0].name = ""
    with pytest.raises(Exception, match=r"qcompiler::MatMulInt4, .*: the scale of column 2, block 1 is zero"):
        session(model.SerializeToString())


def test_weights_that_are_not_constant_are_refused() -> None:
    with pytest.raises(Exception, match="node 'product': B is not a constant of the model; make it an initializer"):
        session(matmul_int4_model(GOOD, constants=False))


def test_zero_points_and_bias_of_other_sizes_are_refused() -> None:
    weights = Int4Weights(**{**vars(GOOD), "zero_points": np.zeros((3, 2), np.uint8)})
    with pytest.raises(Exception, match=r"zero_points has the shape \[3, 2\] where .* make it \[3, 1\]"):
        session(matmul_int4_model(weights))
    with pytest.raises(Exception, match=r"bias has the shape \[4\] where N makes it \[3\]"):
        session(matmul_int4_model(GOOD, bias=np.zeros(4, np.float32)))


def test_another_depth_of_a_is_refused() -> None:
    with pytest.raises(Exception, match=r"node 'product': A has the shape \[2, 63\], whose last size is not K = 64"):
        run(matmul_int4_model(GOOD), np.zeros((2, 63), np.float32))


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.INT8])
def test_other_types_are_refused(element: int) -> None:
    with pytest.raises(Exception, match=r"MatMulInt4|product"):
        session(matmul_int4_model(GOOD, element=element))


def test_pack_pairs_puts_even_neighbours_low() -> None:
    assert pack_pairs(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]
