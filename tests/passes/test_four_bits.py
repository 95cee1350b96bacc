"""Codes of four bits in their packed layout, and what reads them becoming operators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import feed, ops, outputs, program, refusals

from qcompiler import ir, native, numerics
from qcompiler.four_bits import Codes, Scratch
from qcompiler.passes.fuse_int4 import FuseInt4
from qcompiler.passes.fuse_nbits import FuseNBits
from qcompiler.pipeline import Pass, PassContext, Pipeline
from qcompiler.plan import TensorQuant
from qcompiler.scheme import PerAxis, PerBlock, Scheme

NATIVE = pytest.mark.skipif(not native.available(), reason="no native library")
PASSES = [pytest.param(FuseInt4(), marks=NATIVE), FuseNBits(everything=True)]


def random_codes(shape: tuple[int, int], scheme: Scheme, seed: int = 0, change: bool = False) -> Codes:
    random = np.random.default_rng(seed)
    values = random.normal(size=shape).astype(np.float32)
    scale, zero_point = numerics.scale_and_zero_point(*numerics.weight_range(values, scheme), scheme)
    moved = random.integers(-1, 2, shape).astype(np.int8) if change else None
    return Codes(values, TensorQuant(scheme).solved(scale, zero_point, "weights"), moved)


def unpacked(packed: np.ndarray) -> np.ndarray:
    """uint8 [outputs, inputs]."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 4), st.sampled_from([16, 32, 64]), st.sampled_from([0, 1]), st.booleans(),
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_parts_make_the_codes_of_the_whole(
    others: int, blocks: int, block: int, axis: int, symmetric: bool, change: bool, seed: int
) -> None:
    shape = (blocks * block, others) if axis == 0 else (others, blocks * block)
    scheme = Scheme("int4" if symmetric else "uint4", symmetric, PerBlock(axis, block))
    codes = random_codes(shape, scheme, seed, change)
    expected = numerics.quantize(codes.source, codes.quant.scale, codes.quant.zero_point, scheme)
    if codes.change is not None:
        expected = np.clip(expected + codes.change, *scheme.storage_range)
    assert np.array_equal(codes.load().astype(np.int32), expected)
    rows = expected if axis == 1 else expected.T
    assert np.array_equal(unpacked(codes.packed().load()), rows - scheme.storage_range[0])


def test_one_scale_an_output_and_an_odd_depth() -> None:
    codes = random_codes((7, 5), Scheme("int4", True, PerAxis(1)))
    packed = codes.packed().load()
    assert packed.shape == (5, 1, 4)
    assert np.array_equal(unpacked(packed)[:, :7].astype(int) - 8, codes.load().astype(int).T)


def test_what_is_kept_is_found_by_the_same_codes_and_no_others() -> None:
    scheme, scratch = Scheme("int4", True, PerBlock(0, 16)), Scratch()
    first, second = (random_codes((32, 8), scheme, seed) for seed in (1, 2))
    for one in (first, second):
        scratch.keep(one, one.packed().load())
    turned = TensorQuant(Scheme("int4", True, PerBlock(1, 16))).solved(
        first.quant.scale.T, first.quant.zero_point.T, "weights"
    )
    transposed = Codes(first.source.T, turned, scratch=scratch)
    assert np.array_equal(scratch.find(transposed), first.packed().load())
    assert np.array_equal(scratch.find(second), second.packed().load())
    coarser = replace(first.quant, scale=first.quant.scale * 2)
    assert scratch.find(Codes(first.source, coarser)) is None


PRODUCT = "(float[2,3,64] x) => (float y) { w = DequantizeLinear <axis = 0, block_size = 32> (c, s) y = MatMul(x, w) }"
BIASED = PRODUCT.replace("y = MatMul(x, w)", "m = MatMul(x, w) y = Add(b, m)")
GEMM = """(float[3,64] x) => (float y) {
    w = DequantizeLinear <axis = 1, block_size = 32> (c, s) y = Gemm <transB = 1> (x, w, b) }"""
GATHER = "(int64[2,3] i) => (float y) { w = DequantizeLinear <axis = 1, block_size = 32> (c, s) y = Gather(w, i) }"
CHANNEL = "(float[3,64] x) => (float y) { w = DequantizeLinear <axis = 1> (c, s) y = MatMul(x, w) }"
OFFSET = PRODUCT.replace("(c, s)", "(c, s, z)")


def constants(text: str, kind: str = "int4") -> dict[str, np.ndarray]:
    import ml_dtypes

    random, dtype = np.random.default_rng(3), np.dtype(getattr(ml_dtypes, kind))
    low = -8 if kind == "int4" else 0
    along = "axis = 1, block" in text
    shape, scales = ((24, 64), (24, 2)) if along else ((64, 24), (2, 24))
    made = {
        "c": random.integers(low, low + 16, shape).astype(dtype),
        "s": random.uniform(0.5, 1.5, (24,) if text == CHANNEL else scales).astype(np.float32),
    }
    if "b)" in text or "(b" in text:
        made["b"] = random.normal(size=24).astype(np.float32)
    if text == OFFSET:
        made["z"] = random.integers(low, low + 16, scales).astype(dtype)
    return made


def fused(graph: ir.Graph, one: Pass) -> tuple[ir.Graph, list[str]]:
    result, pipeline = ir.clone(graph), Pipeline([one])
    pipeline.run(result, PassContext())
    return result, refusals(pipeline.diagnostics)


@pytest.mark.parametrize("one", PASSES)
@pytest.mark.parametrize("kind", ["int4", "uint4"])
@pytest.mark.parametrize("text", [PRODUCT, BIASED, GEMM, GATHER, CHANNEL, OFFSET])
def test_operators_compute_the_same(text: str, kind: str, one: Pass) -> None:
    graph = program(text, constants(text, kind), 21, 10)
    result, refused = fused(graph, one)
    assert not refused and "DequantizeLinear" not in ops(result)
    values = feed(graph)
    for name, value in outputs(graph, values).items():
        found = outputs(result, values)[name]
        assert found.shape == value.shape and found.dtype == value.dtype
        assert numerics.sqnr(value, found) > (65.0 if "Gather" in text else 35.0)  # products round x to 8 bits


@NATIVE
@pytest.mark.parametrize("scale", [6.2e-5, 1.0, 65504.0])
@pytest.mark.parametrize("text", [PRODUCT, GATHER])
def test_scales_take_16_bits(text: str, scale: float) -> None:
    given = constants(text)
    given["s"][...] = scale
    result, _ = fused(program(text, given, 21, 10), FuseInt4())
    assert next(tensor for tensor in result.nodes[0].inputs if "scales" in tensor.name).dtype == np.float16
    assert ops(result) == (["MatMulInt4"] if text == PRODUCT else ["GatherInt4", "Cast"])


@NATIVE
@pytest.mark.parametrize("scale", [6.0e-5, -6.0e-5, 65505.0])
@pytest.mark.parametrize("text", [PRODUCT, GATHER])
def test_scales_that_16_bits_do_not_hold_keep_32(text: str, scale: float) -> None:
    given = constants(text)
    given["s"][0, 0] = scale
    graph = program(text, given, 21, 10)
    result, _ = fused(graph, FuseInt4())
    assert next(tensor for tensor in result.nodes[0].inputs if "scales" in tensor.name).dtype == np.float32
    values = feed(graph)
    for name, value in outputs(graph, values).items():
        assert numerics.sqnr(value, outputs(result, values)[name]) > 35.0


@NATIVE
def test_a_bias_is_part_of_the_product() -> None:
    for text in (BIASED, GEMM):
        result, _ = fused(program(text, constants(text), 21, 10), FuseInt4())
        assert ops(result) == ["MatMulInt4"] and result.nodes[0].inputs[4].name == "b"


@pytest.mark.parametrize(
    ("text", "change", "reason"),
    [
        (PRODUCT, {"s": np.zeros((2, 24), np.float32)}, "a scale of 's' is zero, subnormal or not finite"),
        (PRODUCT, {"s": np.full((2, 24), 1e-40, np.float32)}, "a scale of 's' is zero, subnormal or not finite"),
        (PRODUCT, {"s": np.full((2, 24), np.nan, np.float32)}, "a scale of 's' is zero, subnormal or not finite"),
        (PRODUCT.replace("size = 32", "size = 48"), {}, "its 64 terms are no multiple of its blocks of 48"),
        (PRODUCT.replace("axis = 0", "axis = 1").replace("32>", "12>"), {"s": np.ones((64, 2), np.float32)},
         "its blocks run across what it sums over"),
        (GEMM.replace("transB = 1", "transB = 1, alpha = 2.0"), {}, "it has factors, a transposed input"),
        (GATHER.replace("Gather(w, i)", "Gather <axis = 1> (w, i)"), {},
         "it does not take whole rows"),
    ],
)  # fmt: skip
def test_what_no_kernel_could_use_is_left_alone(text: str, change: dict[str, np.ndarray], reason: str) -> None:
    given = constants(PRODUCT if "c, s) y = MatMul" in text else GEMM) | change
    if "Gather" not in text and "Gemm" not in text:
        given.pop("b", None)
    if "Gather" in text:
        given.pop("b", None)
    graph = program(text, given, 21, 10)
    result, refused = fused(graph, FuseInt4())
    assert len(refused) == 1 and reason in refused[0]
    assert ops(result) == ops(graph)


def test_what_the_runtime_makes_of_a_product_itself_is_left_to_it() -> None:
    graph = program(PRODUCT, constants(PRODUCT), 21, 10)
    assert ops(fused(graph, FuseNBits())[0]) == ["DequantizeLinear", "MatMul"]
