from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program, refusals, run_pass
from planned import TARGET, lowered, solved, weights

from qcompiler import ir
from qcompiler.passes.recognize_batchnorm import RecognizeBatchNorm
from qcompiler.passes.spell_batchnorm import SpellBatchNorm
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.verify import fused

RANDOM = np.random.default_rng(0)
PARAMETERS = {
    "s": RANDOM.normal(size=6).astype(np.float32),
    "t": RANDOM.normal(size=6).astype(np.float32),
    "m": RANDOM.normal(size=6).astype(np.float32),
    "v": RANDOM.uniform(0.5, 2.0, 6).astype(np.float32),
}
PICTURES = "(float[2,6,5,7] x) => (float[2,6,5,7] y)"


def inferred(text: str, constants: dict[str, np.ndarray] = PARAMETERS, opset: int = 17) -> ir.Graph:
    graph = program(text, constants, opset=opset)
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize("shape", ["2,6,5,7", "2,6,9", "N,6,H,W"])
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_it_is_a_convolution_of_one_tap(shape: str, opset: int) -> None:
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ y = BatchNormalization(x, s, t, m, v) }}"
    before = inferred(text, opset=opset)
    after, rewrites, _ = run_pass(SpellBatchNorm(), before)
    assert rewrites == 1 and ops(after) == ["Conv"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["2,6,5,7", "2,6,9"])
def test_what_is_looked_up_in_a_table_is_a_scale_and_a_shift(shape: str) -> None:
    body = "y = BatchNormalization<epsilon = 0.1>(x, s, t, m, v)"
    before = inferred(f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}")
    after = ir.clone(before)
    Pipeline([SpellBatchNorm()]).run(after, PassContext(TARGET.at("int8", "native")))
    assert sorted(ops(after)) == ["Add", "Mul"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,6] x) => (float[2,6] y) { y = BatchNormalization(x, s, t, m, v) }",
        "(float[2,6,3,4,5] x) => (float[2,6,3,4,5] y) { y = BatchNormalization(x, s, t, m, v) }",
    ],
)
def test_other_ranks_stay(text: str) -> None:
    assert run_pass(SpellBatchNorm(), inferred(text))[1] == 0


def test_half_precision_stays() -> None:
    half = {name: values.astype(np.float16) for name, values in PARAMETERS.items()}
    text = "(float16[2,6,5,7] x) => (float16[2,6,5,7] y) { y = BatchNormalization(x, s, t, m, v) }"
    assert run_pass(SpellBatchNorm(), inferred(text, half))[1] == 0


def test_parameters_that_are_computed_are_refused() -> None:
    text = "(float[2,6,5,7] x, float[6] s) => (float[2,6,5,7] y) { y = BatchNormalization(x, s, t, m, v) }"
    graph = inferred(text, {name: values for name, values in PARAMETERS.items() if name != "s"})
    _, rewrites, diagnostics = run_pass(SpellBatchNorm(), graph)
    assert rewrites == 0 and "its parameters are not constant" in refusals(diagnostics)[0]


def test_parameters_of_different_lengths_are_refused() -> None:
    graph = program(f"{PICTURES} {{ y = BatchNormalization(x, s, t, m, v) }}", {**PARAMETERS, "t": PARAMETERS["t"][:5]})
    for tensor in graph.inputs:
        tensor.shape = [2, 6, 5, 7]
    _, rewrites, diagnostics = run_pass(SpellBatchNorm(), graph)
    assert rewrites == 0 and "not one of each kind" in refusals(diagnostics)[0]


def test_a_scale_that_fits_no_float_is_refused() -> None:
    constants = {**PARAMETERS, "s": np.full(6, 1e38, np.float32), "v": np.full(6, 1e-12, np.float32)}
    graph = inferred(f"{PICTURES} {{ y = BatchNormalization<epsilon = 0.0>(x, s, t, m, v) }}", constants)
    _, rewrites, diagnostics = run_pass(SpellBatchNorm(), graph)
    assert rewrites == 0 and "do not fit float32" in refusals(diagnostics)[0]


def test_between_concatenation_and_convolution_all_runs_on_codes() -> None:
    constants = {**weights(w=(3, 3, 1, 1), u=(4, 6, 1, 1)), **PARAMETERS}
    text = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
        a = Conv(x, w) b = Conv(x, w) c = Concat<axis = 1>(a, b)
        n = BatchNormalization(c, s, t, m, v) r = Relu(n) y = Conv(r, u)
    }"""
    graph, _, _ = run_pass(SpellBatchNorm(), inferred(text, constants))
    ir.infer_shapes(graph)
    runs = fused.optimize(lowered(graph, solved(graph))).histogram()
    assert runs.get("QLinearConv") == 4 and runs.get("QLinearConcat") == 1
    assert not {"BatchNormalization", "Relu", "Conv", "Concat"} & runs.keys()


@pytest.mark.parametrize("ops_", ["standard", "native"])
def test_where_it_stays_in_float_the_node_comes_back(ops_: str) -> None:
    before = inferred(f"{PICTURES} {{ a = Tanh(x) b = BatchNormalization(a, s, t, m, v) y = Tanh(b) }}")
    after = ir.clone(before)
    Pipeline([SpellBatchNorm(), RecognizeBatchNorm()]).run(after, PassContext(TARGET.at("int8", ops_)))
    assert ops(after) == ["Tanh", "BatchNormalization", "Tanh"]
    assert_same(before, after, rtol=1e-5, atol=1e-6)
