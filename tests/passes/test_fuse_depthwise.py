"""Convolutions in codes with one filter a channel, and the operator that they become."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program

from qcompiler import ir, native
from qcompiler.passes.fuse_depthwise import OPERATOR, FuseDepthwise
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target
from qcompiler.verify import fused

TARGET = load_target("ort-cpu", "vnni").at("int8", "native")
RANDOM = np.random.default_rng(0)
PARAMETERS = {
    "a": np.float32(0.03), "i": np.uint8(120), "c": np.float32(0.02), "k": np.uint8(0), "u": np.uint8(7),
    "zero": np.float32(0), "six": np.float32(6), "two": np.float32(2), "n": np.int8(0), "e": np.int32(0),
    "w": RANDOM.integers(-127, 128, (16, 1, 3, 3)).astype(np.int8),
    "ws": RANDOM.uniform(0.004, 0.006, 16).astype(np.float32),
    "wz": np.zeros(16, np.int8), "odd": np.ones(16, np.int8), "one": np.float32(0.005), "tiny": np.float32(1e-12),
    "b": RANDOM.integers(-900, 900, 16).astype(np.int32), "bz": np.zeros(16, np.int32), "p": np.zeros(16, np.float32),
    "few": RANDOM.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8),
    "wide": RANDOM.integers(-127, 128, (16, 2, 3, 3)).astype(np.int8),
    "line": RANDOM.integers(-127, 128, (16, 1, 3)).astype(np.int8),
}  # fmt: skip
PARAMETERS["bs"] = PARAMETERS["a"] * PARAMETERS["ws"]
PARAMETERS["bs_one"] = PARAMETERS["a"] * PARAMETERS["one"]
needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")

WHOLE = {
    "shape": "2,16,9,7",
    "weights": "d = DequantizeLinear <axis = 0> (w, ws, wz)",
    "bias": "f = DequantizeLinear <axis = 0> (b, bs, bz)",
    "conv": "m = Conv <group = 16, pads = [1,1,1,1]> (v, d, f)",
    "quantize": "z = QuantizeLinear(m, c, k)",
    "behind": "y = DequantizeLinear(z, c, k)",
}


def convolved(**changed: str) -> ir.Graph:
    """x, quantized, through a convolution in codes."""
    part = {**WHOLE, **changed}
    text = f"""(float[{part["shape"]}] x) => (float y) {{
        q = QuantizeLinear(x, a, i) v = DequantizeLinear(q, a, i) {part["weights"]} {part["bias"]} {part["conv"]}
        {part["quantize"]} {part["behind"]} }}"""
    graph = program(text, PARAMETERS, 20, 9)
    ir.infer_shapes(graph)
    return graph


def rewritten(graph: ir.Graph) -> ir.Graph:
    result = ir.clone(graph)
    Pipeline([FuseDepthwise()]).run(result, PassContext(TARGET))
    return result


@needs_library
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"bias": "", "conv": "m = Conv <group = 16> (v, d)"},
        {"conv": "m = Conv <group = 16, strides = [2,1], pads = [0,1,2,1], dilations = [1,2]> (v, d, f)"},
        {"weights": "d = DequantizeLinear(w, one, n)", "bias": "f = DequantizeLinear(b, bs_one, e)"},
        {"quantize": "g = Relu(m) z = QuantizeLinear(g, c, k)"},
        {"quantize": "g = Clip(m, zero, six) z = QuantizeLinear(g, c, k)"},
        {"quantize": "g = Clip(m, zero) h = Relu(g) z = QuantizeLinear(h, c, k)"},
        {"quantize": "z = QuantizeLinear(m, c, u)", "behind": "y = DequantizeLinear(z, c, u)"},
    ],
    ids=str,
)
def test_becomes_the_operator(changed: dict[str, str]) -> None:
    graph = convolved(**changed)
    found = rewritten(graph)
    ops = [node.op for node in found.nodes]
    assert ops.count(OPERATOR) == 1 and not {"Conv", "Relu", "Clip"} & set(ops)
    given = feed(graph)
    differences = np.abs(outputs(found, given)["y"] - outputs(graph, given)["y"])
    assert differences.max() <= 0.02 * 1.001 and np.mean(differences > 1e-6) < 0.01  # float sums go the other way


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": "2,8,9,7", "weights": "d = DequantizeLinear(few, one, n)", "bias": "",
         "conv": "m = Conv <group = 8> (v, d)"},
        {"shape": "2,32,9,7", "weights": "d = DequantizeLinear(wide, one, n)", "bias": ""},
        {"shape": "2,2,9,7", "weights": "d = DequantizeLinear(wide, one, n)", "bias": "", "conv": "m = Conv(v, d)"},
        {"shape": "2,16,9", "weights": "d = DequantizeLinear(line, one, n)", "bias": "",
         "conv": "m = Conv <group = 16> (v, d)"},
        {"weights": "d = DequantizeLinear <axis = 0> (w, ws, odd)"},
        {"weights": "d = DequantizeLinear <axis = 0> (w, ws, wz)", "bias": "f = DequantizeLinear(b, one, e)"},
        {"bias": "", "conv": "m = Conv <group = 16> (v, d, p)"},
        {"conv": 'm = Conv <group = 16, auto_pad = "SAME_UPPER"> (v, d, f)'},
        {"quantize": "g = Clip(m, zero, two) z = QuantizeLinear(g, c, k)"},
        {"quantize": "g = Relu(m) z = QuantizeLinear(g, c, u)", "behind": "y = DequantizeLinear(z, c, u)"},
        {"quantize": "g = Sigmoid(m) z = QuantizeLinear(g, c, k)"},
        {"quantize": "z = QuantizeLinear(m, c, n)", "behind": "y = DequantizeLinear(z, c, n)"},
        {"quantize": "z = QuantizeLinear(m, tiny, k)", "behind": "y = DequantizeLinear(z, tiny, k)"},
        {"behind": "g = DequantizeLinear(z, c, k) y = Add(g, m)"},
        {"quantize": "", "behind": "y = Identity(m)"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_alone(changed: dict[str, str]) -> None:
    conv = {"conv": "m = Conv <group = 16, pads = [1,1,1,1]> (v, d)"} if changed.get("bias") == "" else {}
    graph = convolved(**{**conv, **changed})
    assert OPERATOR not in {node.op for node in rewritten(graph).nodes}


@needs_library
def test_no_transpose_is_left_between_convolutions() -> None:
    before = "r = Conv(v, dd) s = QuantizeLinear(r, a, i) t = DequantizeLinear(s, a, i)"
    behind = "g = DequantizeLinear(z, c, k) h = Conv(g, d2) j = QuantizeLinear(h, a, i) y = DequantizeLinear(j, a, i)"
    square = RANDOM.integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
    text = f"""(float[1,16,9,7] x) => (float y) {{ q = QuantizeLinear(x, a, i) v = DequantizeLinear(q, a, i)
        dd = DequantizeLinear(sq, one, n) {before} {WHOLE["weights"]} {WHOLE["bias"]}
        m = Conv <group = 16, pads = [1,1,1,1]> (t, d, f) {WHOLE["quantize"]} d2 = DequantizeLinear(sq, one, n)
        {behind} }}"""
    graph = rewritten(program(text, {**PARAMETERS, "sq": square}, 20, 9))
    histogram = fused.optimize(graph).histogram()
    assert histogram[OPERATOR] == 1 and histogram["QLinearConv"] == 2 and histogram["Transpose"] == 2
