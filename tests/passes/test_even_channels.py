"""Factors for each channel that become part of a table."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import assert_same, ops, program
from planned import feeds, observed

from qcompiler import ir, numerics, runtime, tables
from qcompiler.calibrate import sample_rows
from qcompiler.passes.even_channels import EvenChannels
from qcompiler.passes.fuse_tables import FuseTables
from qcompiler.passes.lower import Lower
from qcompiler.passes.place import Place
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan
from qcompiler.target_files import load_target

TARGET = load_target("ort-cpu", "vnni").at("int8", "native")
RANDOM = np.random.default_rng(5)
UNEVEN = np.geomspace(0.05, 8.0, 8, dtype=np.float32)
"""How far the channels before the second convolution reach."""
CONSTANTS = {
    "w": RANDOM.normal(size=(8, 3, 3, 3)).astype(np.float32),
    "k": UNEVEN.reshape(-1, 1, 1),
    "alone": (RANDOM.normal(size=(8, 1, 3, 3)) / UNEVEN.reshape(-1, 1, 1, 1)).astype(np.float32),
    "all": RANDOM.normal(size=(4, 8, 1, 1)).astype(np.float32) / UNEVEN.reshape(1, -1, 1, 1),
}
DEPTHWISE = "(float[1,3,9,9] x) => (float y) { c = Conv(x, w) h = Tanh(c) m = Mul(h, k) y = Conv<group = 8>(m, alone) }"
POINTWISE = "(float[1,3,9,9] x) => (float y) { c = Conv(x, w) h = Tanh(c) m = Mul(h, k) y = Conv(m, all) }"


def graph_of(text: str) -> ir.Graph:
    graph = program(text, CONSTANTS)
    ir.infer_shapes(graph)
    return graph


def evened(graph: ir.Graph, plan: Plan | None = None) -> tuple[ir.Graph, Plan]:
    """A copy after placement and the pass, with rows of it or with what a plan says; and the plan then."""
    graph = ir.clone(graph)
    ctx = Pipeline([Place()]).run(graph, PassContext(TARGET, plan or Plan()))
    assert ctx.plan is not None
    wanted = EvenChannels().wanted(graph, ctx.plan)
    rows = None if plan is not None else sample_rows(graph, wanted, feeds(graph))
    ctx = Pipeline([EvenChannels()]).run(graph, PassContext(TARGET, ctx.plan, rows=rows))
    ctx = Pipeline([Place()]).run(graph, ctx)
    assert ctx.plan is not None
    return graph, ctx.plan


def fidelity(original: ir.Graph, graph: ir.Graph, plan: Plan) -> float:
    """Decibels of the graph in 8 bits, as the plan says."""
    samples = feeds(graph)
    solved = Pipeline([Solve("minmax")]).run(graph, PassContext(TARGET, plan, observed(graph, plan, samples))).plan
    coded = ir.clone(graph)
    Pipeline([Lower()]).run(coded, PassContext(TARGET, solved))
    found = []
    for one in (original, coded):
        with runtime.session(one, optimize="none") as session:
            found.append(np.concatenate([runtime.run(session, feed)[0].ravel() for feed in samples]))
    return numerics.sqnr(*found)


@pytest.mark.parametrize("text", [DEPTHWISE, POINTWISE])
def test_the_function_stays_the_same(text: str) -> None:
    graph = graph_of(text)
    result, plan = evened(graph)
    assert list(plan.smoothing) == ["m"] and not plan.kept
    assert_same(graph, result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", [DEPTHWISE, POINTWISE])
def test_the_product_becomes_part_of_the_table(text: str) -> None:
    graph, plan = evened(graph_of(text))
    assert "m" not in plan.tensors() and "m_smoothed" in plan.tensors()
    solved = Pipeline([Solve("minmax")]).run(graph, PassContext(TARGET, plan, observed(graph, plan, feeds(graph)))).plan
    Pipeline([Lower(), FuseTables()]).run(graph, PassContext(TARGET, solved))
    (lookup,) = (node for node in graph.nodes if node.op == tables.OPERATOR)
    assert lookup.inputs[1].values.shape == (8, 256) and "Mul" not in ops(graph)


def test_even_channels_are_truer() -> None:
    graph = graph_of(DEPTHWISE)
    plain = Pipeline([Place()]).run(graph, PassContext(TARGET, Plan())).plan
    assert plain is not None
    assert fidelity(graph, *evened(graph)) > fidelity(graph, graph, plain) + 3.0


def test_a_plan_is_repeated_without_rows() -> None:
    graph, plan = evened(graph_of(DEPTHWISE))
    again, _ = evened(graph_of(DEPTHWISE), Plan(smoothing=plan.smoothing))
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(graph).SerializeToString()


@pytest.mark.parametrize(
    "text",
    [
        "c = Conv(x, w) y = Conv<group = 8>(c, alone)",
        "c = Conv(x, w) h = Tanh(c) s = Softmax(h) y = Conv<group = 8>(h, alone)",
        "c = Conv(x, w) h = Tanh(c) y = Conv<group = 8>(h, alone) z = Add(h, c)",
        "c = Conv(x, w) h = MaxPool<kernel_shape = [1, 1]>(c) y = Conv<group = 8>(h, alone)",
    ],
)
def test_left_alone(text: str) -> None:
    output = ", float z" if "z =" in text else ""
    assert not evened(graph_of(f"(float[1,3,9,9] x) => (float y{output}) {{ {text} }}"))[1].smoothing
