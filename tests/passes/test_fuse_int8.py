from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from pass_helpers import feed, ops, outputs, program, refusals

from qcompiler import ir, native, numerics
from qcompiler.passes.fuse_int8 import DEEPEST, FuseInt8
from qcompiler.pipeline import PassContext, Pipeline

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")

RANDOM = np.random.default_rng(5)
CONSTANTS = {
    "c": RANDOM.integers(-127, 128, (48, 24)).astype(np.int8),
    "w": RANDOM.uniform(0.001, 0.01, 24).astype(np.float32),
    "b": RANDOM.normal(size=24).astype(np.float32),
}
PRODUCT = """(float[3,5,48] x) => (float[3,5,24] y) {
    q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, c, z) f = Cast<to = 1>(i) v = Mul(s, w) END
}"""


def written(end: str, constants: Mapping[str, np.ndarray] | None = None) -> ir.Graph:
    graph = program(PRODUCT.replace("END", end), {**CONSTANTS, **(constants or {})})
    ir.infer_shapes(graph)
    return graph


def fused(graph: ir.Graph) -> tuple[ir.Graph, list[str]]:
    result, pipeline = ir.clone(graph), Pipeline([FuseInt8()])
    pipeline.run(result, PassContext())
    return result, refusals(pipeline.diagnostics)


@pytest.mark.parametrize(
    "end",
    [
        "y = Mul(f, v)",
        "y = Mul(v, f)",
        "m = Mul(f, v) y = Add(m, b)",
        "m = Mul(f, v) y = Add(b, m)",
    ],
)
def test_one_operator_computes_it_all_and_closer(end: str) -> None:
    graph = written(end)
    result, refused = fused(graph)
    assert ops(result) == ["MatMulInt8"] and not refused
    assert [node.name for node in result.nodes] == [graph.nodes[1].name]  # the product's own
    values = feed(graph)
    values["x"][0, 0] *= 20.0  # one row that is far larger than the others
    exact = values["x"].astype(np.float64) @ (CONSTANTS["c"] * CONSTANTS["w"].astype(np.float64))
    exact += CONSTANTS["b"] if "Add" in end else 0.0
    rest = np.s_[1:]
    before, after = outputs(graph, values)["y"], outputs(result, values)["y"]
    assert numerics.sqnr(exact[rest], after[rest]) > numerics.sqnr(exact[rest], before[rest]) + 15.0


def test_one_scale_for_all_columns() -> None:
    result, _ = fused(written("y = Mul(f, v)", {"w": np.array(0.01, np.float32)}))
    assert ops(result) == ["MatMulInt8"] and result.nodes[0].inputs[2].shape == (1,)


def test_a_computed_bias_stays_outside() -> None:
    text = PRODUCT.replace("float[3,5,48] x", "float[3,5,48] x, float[24] d")
    graph = program(text.replace("END", "m = Mul(f, v) y = Add(m, d)"), CONSTANTS)
    assert ops(fused(graph)[0]) == ["MatMulInt8", "Add"]


@pytest.mark.parametrize(
    ("end", "change"),
    [
        ("y = Mul(f, v)", {"c": RANDOM.integers(0, 256, (48, 24)).astype(np.uint8)}),
        ("y = Mul(f, v)", {"w": np.ones((3, 5, 24), np.float32)}),  # one scale a value
        ("y = Mul(f, f)", {}),
        ("m = Mul(f, v) y = Add(m, f)", {}),  # the integer sums are read otherwise too
    ],
)
def test_other_forms_are_left_alone(end: str, change: dict[str, np.ndarray]) -> None:
    graph = written(end, change)
    result, refused = fused(graph)
    assert ops(result) == ops(graph) and not refused


def test_what_no_kernel_could_use_is_refused() -> None:
    bad = CONSTANTS["w"].copy()
    bad[3] = np.inf
    result, refused = fused(written("y = Mul(f, v)", {"w": bad}))
    assert "MatMulInt8" not in ops(result) and "a scale of 'w' is not finite" in refused[0]
    deep = PRODUCT.replace("3,5,48", f"1,{DEEPEST + 1}").replace("3,5,24", "1,24").replace("END", "y = Mul(f, v)")
    graph = program(deep, {**CONSTANTS, "c": np.ones((DEEPEST + 1, 24), np.int8)})
    assert f"sums of {DEEPEST + 1} products do not fit 32 bits" in fused(graph)[1][0]
