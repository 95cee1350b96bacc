from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir
from qcompiler.passes.sequence_as_image import SequenceAsImage

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w": RANDOM.normal(size=(6, 1, 5)).astype(np.float32), "b": RANDOM.normal(size=6).astype(np.float32),
    "v": RANDOM.normal(size=(6, 6, 5)).astype(np.float32), "s": np.float32(0.1), "z": np.uint8(128),
}  # fmt: skip
CODES = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"


def sequence(body: str, shape: str = "2,6,50", opset: int = 17) -> ir.Graph:
    graph = program(f"(float[{shape}] x) => (float y) {{ {body} }}", CONSTANTS, opset)
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize(
    "body",
    [
        "y = AveragePool <kernel_shape = [4], strides = [4]> (x)",
        "y = AveragePool <kernel_shape = [3], pads = [1,1]> (x)",
        "y = AveragePool <kernel_shape = [3], pads = [2,0], count_include_pad = 1> (x)",
        "y = AveragePool <kernel_shape = [4], strides = [3], ceil_mode = 1> (x)",
        "y = MaxPool <kernel_shape = [3], strides = [2], pads = [1,1]> (x)",
        "y = MaxPool <kernel_shape = [3], dilations = [2]> (x)",
        "y = Conv <group = 6> (x, w)",
        "y = Conv <group = 6, strides = [2], pads = [3,1], dilations = [2], kernel_shape = [5]> (x, w, b)",
    ],
)
@pytest.mark.parametrize("shape", ["2,6,50", "n,6,l"])
def test_it_computes_the_same(body: str, shape: str) -> None:
    before = sequence(body, shape)
    after, rewrites, _ = run_pass(SequenceAsImage(), before)
    (op,) = ops(before)
    assert rewrites == 1 and ops(after) == ["Unsqueeze", op, "Squeeze"]
    assert_same(before, after, rtol=1e-5, atol=1e-6, n=2, l=40)


@pytest.mark.parametrize(
    "body, shape, opset",
    [
        ("y = AveragePool <kernel_shape = [4,4]> (x)", "2,6,9,9", 17),
        ("y = Conv <group = 6, auto_pad = \"SAME_UPPER\"> (x, w)", "2,6,50", 17),
        ("y = Conv(x, v)", "2,6,50", 17),
        ("y = MaxPool <kernel_shape = [3]> (x)", "2,6,50", 12),
        (f"{CODES} y = MaxPool <kernel_shape = [3]> (d)", "2,6,50", 17),
        (f"{CODES} y = Conv <group = 6> (d, w)", "2,6,50", 17),
    ],
)
def test_what_is_left_alone(body: str, shape: str, opset: int) -> None:
    assert run_pass(SequenceAsImage(), sequence(body, shape, opset))[1] == 0
