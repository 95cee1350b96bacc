from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, ops, outputs, program, run_pass

import qcompiler
from qcompiler import ir
from qcompiler.passes.spell_rectifier import SpellRectifier
from qcompiler.verify import fused

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w": RANDOM.integers(-127, 128, (32, 24)).astype(np.int8), "b": RANDOM.normal(size=24).astype(np.float32),
    "s": np.float32(0.02), "z": np.uint8(128), "ws": np.full(24, 0.01, np.float32), "wz": np.zeros(24, np.int8),
    "low": np.float32(0), "high": np.float32(6), "v": RANDOM.normal(size=(32, 24)).astype(np.float32),
}  # fmt: skip
CODES = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear<axis = 1>(w, ws, wz)"


def layer(body: str, shape: str = "16,32", also: str = "") -> ir.Graph:
    used = {name: value for name, value in CONSTANTS.items() if name in body.replace("=", " ").replace("Clip", "")}
    graph = program(f"(float[{shape}] x) => (float y{also}) {{ {body} }}", used)
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize(
    "product, shape, form",
    [("m = Gemm(d, e)", "16,32", "QGemm"), ("m = MatMul(d, e)", "2,16,32", "MatMulIntegerToFloat")],
)
@pytest.mark.parametrize(
    "rectifier, spelled",
    [
        ("r = Relu(m)", ["Max"]), ("r = Clip(m, low, high)", ["Max", "Min"]), ("r = Clip(m, low)", ["Max"]),
        ("r = Clip(m, , high)", ["Min"]),
    ],
)  # fmt: skip
def test_floats_read_max_and_min(product: str, shape: str, form: str, rectifier: str, spelled: list[str]) -> None:
    before = layer(f"{CODES} {product} {rectifier} y = Softmax(r)", shape)
    after, rewrites, _ = run_pass(SpellRectifier(), before)
    assert rewrites == 1 and ops(after)[-len(spelled) - 1 :] == [*spelled, "Softmax"]
    assert form in fused.optimize(after).histogram() and form not in fused.optimize(before).histogram()
    given = feed(before)
    np.testing.assert_allclose(*(outputs(graph, given)["y"] for graph in (before, after)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        f"{CODES} m = Gemm(d, e) r = Relu(m) c = QuantizeLinear(r, s, z) y = DequantizeLinear(c, s, z)",  # to codes
        "m = Gemm(x, v) r = Relu(m) y = Softmax(r)",  # of floats
        f"{CODES} m = Gemm(d, e) r = Relu(m) y = Mul(r, m)",  # somebody else reads the product
        f"{CODES} m = Gemm(d, e) r = Tanh(m) y = Softmax(r)",
    ],
)
def test_what_is_left_alone(body: str) -> None:
    assert run_pass(SpellRectifier(), layer(body))[1] == 0


def test_a_product_that_the_runtime_renamed_is_found_in_floats() -> None:
    """FusedGemm is called 'fused' and the name of what it was made of."""
    graph = layer(f"{CODES} m = Gemm(d, e) r = Relu(m) y = Softmax(r)")
    (product,) = [node for node in graph.nodes if node.op == "Gemm"]
    fate = fused.fates([product.name], fused.optimize(graph))[product.name]
    assert fate.form == "FusedGemm" and not fate.fused


def test_a_network_for_tables_stays_in_codes() -> None:
    weights = {f"w{place}": (RANDOM.normal(size=(64, 64)) / 8).astype(np.float32) for place in range(3)}
    vectors = {name: RANDOM.uniform(0.5, 1.5, 64).astype(np.float32) for name in "abcd"}
    graph = program(
        """(float[8,64] x) => (float[8,64] y) { g = Gemm(x, w0) r = Relu(g) n = BatchNormalization(r, a, b, c, d)
            h = Gemm(n, w1) s = Relu(h) l = LayerNormalization(s, a, b) y = Gemm(l, w2) }""",
        {**weights, **vectors},
    )
    feeds = [{"x": RANDOM.normal(size=(8, 64)).astype(np.float32)} for _ in range(6)]
    compiled = qcompiler.compile(graph, feeds, options=qcompiler.Options(timing=False, improve="none"))
    found = fused.optimize(compiled.graph).histogram()
    assert found["QGemm"] == 3 and "BatchNormalization" not in found and compiled.report.sqnr > 25.0
