"""Samples that go through a model a stage at a time, as it is and rounded, held against whole runs of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import outputs, program

from qcompiler import calibrate, ir, numerics
from qcompiler.calibrate import Walk
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import PerBlock, Scheme

TEXT = "(float[1,6,32] x) => (float[1,6,32] y) { a = MatMul(x, v) b = Relu(a) c = MatMul(b, w) y = Add(c, x) }"


def model() -> tuple[ir.Graph, list[dict[str, np.ndarray]]]:
    random = np.random.default_rng(0)
    graph = program(TEXT, {name: random.normal(size=(32, 32)).astype(np.float32) for name in "vw"})
    ir.infer_shapes(graph)
    return graph, [{"x": random.normal(size=(1, 6, 32)).astype(np.float32)} for _ in range(8)]


def walk(graph: ir.Graph, feeds: list[dict[str, np.ndarray]], *, lean: bool = False) -> Walk:
    products = {node.name for node in graph.nodes if node.op == "MatMul"}
    return Walk(graph, products, feeds, rows=64, most=512, lean=lean)


def readers(graph: ir.Graph) -> dict[str, list[str]]:
    return {node.inputs[1].name: [node.name] for node in graph.nodes if node.op == "MatMul"}


def rounded(graph: ir.Graph, name: str) -> tuple[Plan, np.ndarray]:
    """A plan with this weight in four bits, and what it stands for then."""
    node = next(node for node in graph.nodes if node.op == "MatMul" and node.inputs[1].name == name)
    values, scheme = node.inputs[1].values, Scheme("int4", True, PerBlock(0, 16))
    scale, zero_point = numerics.scale_and_zero_point(*numerics.weight_range(values, scheme), scheme)
    quant = TensorQuant(scheme).solved(scale, zero_point, "weights")
    plan = replace(Plan(), sites={Site(name, node.name, 1): quant})
    return plan, numerics.dequantize(plan.codes(name, values, quant), scale, zero_point, scheme)


def test_moments_of_the_model_as_it_is_are_those_of_a_whole_run() -> None:
    graph, feeds = model()
    found, wanted = walk(graph, feeds).plain(readers(graph)), calibrate.second_moments(graph, readers(graph), feeds)
    for name, moments in found.items():
        np.testing.assert_allclose(moments.fitted[0], wanted[name].fitted[0], rtol=1e-5)
        np.testing.assert_allclose(moments.held_out[0], wanted[name].held_out[0], rtol=1e-5)


@pytest.mark.parametrize("lean", [False, True])
def test_later_stages_see_what_rounding_has_done(lean: bool) -> None:
    graph, feeds = model()
    plan, values = rounded(graph, "v")
    first, second = (
        [stage.moments({name: readers(graph)[name]})[name], stage.end(plan)][0]
        for name, stage in zip("vw", walk(graph, feeds, lean=lean).stages(Plan()))
    )
    assert first.drift is None and second.drift is not None
    coded = ir.clone(graph)
    coded.outputs = [ir.all_tensors(coded)["b"]]
    exact = np.stack([outputs(coded, feed)["b"][0] for feed in feeds])
    ir.all_tensors(coded)["v"].values = values
    own = np.stack([outputs(coded, feed)["b"][0] for feed in feeds])
    aside = np.arange(8) % 4 == 3
    for rows, plain, moment, drift in (
        (own[~aside], exact[~aside], second.fitted, second.drift.fitted),
        (own[aside], exact[aside], second.held_out, second.drift.held_out),
    ):
        rows, plain = rows.reshape(-1, 32), plain.reshape(-1, 32)
        np.testing.assert_allclose(moment[0][0], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(drift[0][0], (plain - rows).T @ rows / len(rows), rtol=1e-3, atol=1e-4)
    off = (exact - own)[aside].reshape(-1, 32)
    np.testing.assert_allclose(second.drift.power[0][0], off.T @ off / len(off), rtol=1e-3, atol=1e-5)
