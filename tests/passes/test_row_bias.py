from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from pass_helpers import assert_same, ops, program, run_pass

from qcompiler import ir, runtime
from qcompiler.passes.row_bias import RowBias

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "xs": np.float32(0.03),
    "xz": np.uint8(128),
    "w": RANDOM.integers(-127, 128, (32, 48)).astype(np.int8),
    "ws": np.full(48, 0.001, np.float32),
    "wz": np.zeros(48, np.int8),
    "B": RANDOM.normal(size=48).astype(np.float32),
}


def quantized(ending: str, shape: str = "1,16,32") -> ir.Graph:
    text = f"""(float[{shape}] x) => (float[{shape[:-2]}48] y) {{
        xq = QuantizeLinear(x, xs, xz)
        xd = DequantizeLinear(xq, xs, xz)
        wd = DequantizeLinear<axis = 1>(w, ws, wz)
        m = MatMul(xd, wd)
        {ending}
    }}"""
    graph = program(text, CONSTANTS, opset=17)
    ir.infer_shapes(graph)
    return graph


def run_by_onnx_runtime(graph: ir.Graph, path: Path) -> set[str]:
    with runtime.session(graph, optimized_path=path):
        return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("sum_", ["y = Add(m, B)", "y = Add(B, m)"])
def test_onnx_runtime_fuses_the_product_beside_a_row(sum_: str, tmp_path: Path) -> None:
    before = quantized(sum_)
    after, rewrites, _ = run_pass(RowBias(), before)
    assert rewrites == 1
    assert_same(before, after)
    assert "Gemm" in run_by_onnx_runtime(before, tmp_path / "before.onnx"), "no longer a trap: the pass can go"
    assert "MatMulIntegerToFloat" in run_by_onnx_runtime(after, tmp_path / "after.onnx")


@pytest.mark.parametrize(
    "ending, shape",
    [
        ("z = Add(m, B) q = QuantizeLinear(z, xs, xz) y = DequantizeLinear(q, xs, xz)", "1,16,32"),  # quantized in turn
        ("y = Add(m, B)", "N,S,32"),  # sizes not known
        ("y = Add(m, B)", "16,32"),  # a matrix
        ("y = Sub(m, B)", "1,16,32"),
    ],
)
def test_others_stay(ending: str, shape: str) -> None:
    before = quantized(ending, shape)
    after, rewrites, _ = run_pass(RowBias(), before)
    assert (ops(after), rewrites) == (ops(before), 0)


def test_a_float_product_stays() -> None:
    before = program(
        "(float[1,16,32] x) => (float[1,16,48] y) { m = MatMul(x, W) y = Add(m, B) }",
        {"W": np.ones((32, 48), np.float32), "B": CONSTANTS["B"]},
    )
    assert run_pass(RowBias(), before)[1] == 0
