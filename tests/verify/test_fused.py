"""What ONNX Runtime made of a graph, asked of the runtime itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import branches, lowered, solved, weights

from qcompiler import ir
from qcompiler.errors import VerificationError
from qcompiler.plan import Plan
from qcompiler.verify import fused

CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))


def fates(graph: ir.Graph, plan: Plan) -> dict[str, fused.Fate]:
    return fused.fates(plan.intended, fused.optimize(lowered(graph, plan)))


def test_a_node_that_is_fused_and_one_that_is_not() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) y = Conv(c, v) }", CONV)
    plan = solved(graph)
    without_last = replace(plan, sites={site: quant for site, quant in plan.sites.items() if site.node})
    found = fates(graph, without_last)
    assert found["Conv_0"] == fused.Fate("Conv_0", "QLinearConv", True)
    assert (found["Conv_1"].form, found["Conv_1"].fused) == ("Conv", False)
    assert found["Conv_1"].why.endswith("is dequantized before it")
    assert all(fate.fused for fate in fates(graph, plan).values())


def test_a_node_that_vanished() -> None:
    text = "(float[1,3,8,8] x) => (float[1,4,36] y) { c = Conv(x, w) r = Reshape(c, shape) y = Reshape(r, shape) }"
    graph = program(text, {**CONV, "shape": np.array([1, 4, 36])})
    optimized = fused.optimize(lowered(graph, solved(graph)))
    assert fused.fates(["nobody"], optimized)["nobody"] == fused.Fate("nobody", "-", True)


@pytest.mark.parametrize(
    "name, original",
    [
        ("conv", "conv"),
        ("conv_token_12", "conv"),
        ("my_token_ring", "my_token_ring"),
        ("fc/MatMulAddFusion", "fc"),
        ("fc/MatMulAddFusion_token_3", "fc"),
        ("pool/DuplicateQDQ_1", "pool"),
    ],
)
def test_names_are_traced_back(name: str, original: str) -> None:
    assert fused.original_name(name) == original


def test_what_runs_is_counted() -> None:
    graph = program("(float[1,3,8,8] x) => (float y) { c = Conv(x, w) r = Relu(c) t = Tanh(r) y = Tanh(t) }", CONV)
    counts = fused.optimize(graph).histogram()
    assert next(iter(counts.items())) == ("Tanh", 2)
    assert "Relu" not in counts  # in the convolution


def test_bodies_count_too() -> None:
    graph = branches()
    samples = [{"x": np.ones((2, 32), np.float32), "flag": np.array(flag)} for flag in (True, False)]
    plan = solved(graph, samples=samples)
    assert plan.intended == {"then_product", "else_hidden", "else_product"}
    assert all(fate.fused and fate.form != "-" for fate in fates(graph, plan).values())


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    graph = program("(float[2,3] x) => (float[2,3] y) { y = custom.Twist(x) }")
    with pytest.raises(VerificationError, match="agraph: ONNX Runtime cannot load the model"):
        fused.optimize(graph)
