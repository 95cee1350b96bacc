"""Products of codes with one code a channel, and the operator that they become."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program

from qcompiler import ir, native, tables
from qcompiler.passes.fuse_channel_scales import FuseChannelScales
from qcompiler.passes.tables_channels_last import TablesChannelsLast
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target
from qcompiler.verify import fused

TARGET = load_target("ort-cpu", "vnni").at("int8", "native")
PARAMETERS = {
    "a": np.float32(0.03), "i": np.uint8(120), "b": np.float32(0.004), "j": np.uint8(3),
    "c": np.float32(0.02), "k": np.uint8(100), "n": np.int8(0), "p": np.full(4, 0.004, np.float32),
    "o": np.zeros(4, np.uint8), "huge": np.float32(1e38), "tiny": np.float32(1e-30),
}  # fmt: skip
CONV = {
    "w": np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
    "ws": np.full(4, 0.01, np.float32),
    "wz": np.zeros(4, np.int8),
}
needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def scaled(body: str = "m = Mul(v, t)", shape: str = "1,4,6,5", scale: str = "1,4,1,1", **names: str) -> ir.Graph:
    """x and s, quantized, and the body's m between them and a QuantizeLinear."""
    steps = {"a": "a", "b": "b", "c": "c", "j": "j", "behind": "y = DequantizeLinear(z, c, k)", **names}
    text = f"""(float[{shape}] x, float[{scale}] s) => (float y) {{
        q = QuantizeLinear(x, {steps["a"]}, i) v = DequantizeLinear(q, {steps["a"]}, i)
        r = QuantizeLinear(s, {steps["b"]}, {steps["j"]}) t = DequantizeLinear(r, {steps["b"]}, {steps["j"]})
        {body} z = QuantizeLinear(m, {steps["c"]}, k) {steps["behind"]}
    }}"""
    graph = program(text, {**PARAMETERS, **CONV}, 20, 9)
    ir.infer_shapes(graph)
    return graph


def rewritten(graph: ir.Graph, *passes: object) -> ir.Graph:
    result = ir.clone(graph)
    Pipeline([FuseChannelScales(), *passes]).run(result, PassContext(TARGET))  # type: ignore[list-item]
    return result


@needs_library
@pytest.mark.parametrize("body", ["m = Mul(v, t)", "m = Mul(t, v)"])
@pytest.mark.parametrize("shape, scale", [("1,4,6,5", "1,4,1,1"), ("3,4,20,20", "3,4,1,1"), ("3,4,6,5", "1,4,1,1")])
def test_a_product_with_one_code_a_channel(body: str, shape: str, scale: str) -> None:
    graph = scaled(body, shape, scale)
    found = rewritten(graph)
    assert [node.op for node in found.nodes].count(tables.PRODUCT) == 1 and "Mul" not in {n.op for n in found.nodes}
    given = feed(graph)
    differences = np.abs(outputs(found, given)["y"] - outputs(graph, given)["y"])
    assert differences.max() <= 0.02 * 1.001 and np.mean(differences > 1e-6) < 0.02  # ties go either way


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": "1,1,6,5"},
        {"scale": "1,4,6,5"},
        {"shape": "1,4,6", "scale": "1,4,1"},
        {"j": "n"},
        {"b": "p", "j": "o"},
        {"body": "m = Add(v, t)"},
        {"a": "huge", "b": "huge", "c": "tiny"},
        {"behind": "f = DequantizeLinear(z, c, k) y = Add(f, m)"},
    ],
    ids=str,
)
def test_what_is_left_alone(changed: dict[str, str]) -> None:
    graph = scaled(**changed)
    assert tables.PRODUCT not in {node.op for node in rewritten(graph).nodes}


@needs_library
def test_channels_last_leaves_no_transposes_between_convolutions() -> None:
    layer = "h{0} = Conv(f{0}, u) l{0} = QuantizeLinear(h{0}, c, k) {1} = DequantizeLinear(l{0}, c, k)"
    text = f"""(float[1,4,6,5] x) => (float y) {{
        u = DequantizeLinear<axis = 0>(w, ws, wz)
        l = QuantizeLinear(x, c, k) f0 = DequantizeLinear(l, c, k) {layer.format(0, "f1")}
        g = GlobalAveragePool(f1) gq = QuantizeLinear(g, b, j) gd = DequantizeLinear(gq, b, j)
        m = Mul(f1, gd) mq = QuantizeLinear(m, c, k) f2 = DequantizeLinear(mq, c, k) {layer.format(2, "y")}
    }}"""
    graph = program(text, {**PARAMETERS, **CONV}, 20, 9)
    ir.infer_shapes(graph)
    found = rewritten(graph, TablesChannelsLast())
    histogram = fused.optimize(found).histogram()
    assert histogram[tables.PRODUCT] == 1 and histogram["QLinearConv"] == 2 and histogram["Transpose"] == 2
    given = feed(graph)
    differences = np.abs(outputs(found, given)["y"] - outputs(rewritten(graph), given)["y"])
    assert not differences.any()
