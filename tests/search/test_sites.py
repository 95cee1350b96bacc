"""Sites of a plan: each one's own error, held against a model in which nothing else is rounded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, solved, weights

import qcompiler
from qcompiler import ir
from qcompiler.compiler import Compilation
from qcompiler.errors import ModelError
from qcompiler.runtime import Feed
from qcompiler.search import sites
from qcompiler.search.sensitivity import contributions

TEXT = """(float[1,3,8,8] x) => (float[1,4,6,6] y) {
    a = Conv(x, w) b = Relu(a) s = Sigmoid(b) m = Mul(b, s) c = Conv(m, v) y = Relu(c)
}"""
CONV = weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1))


def graph() -> ir.Graph:
    found = program(TEXT, CONV)
    ir.infer_shapes(found)
    return found


def job(model: ir.Graph, samples: list[Feed]) -> Compilation:
    return Compilation(model, samples, "ort-cpu", "int8", None, qcompiler.Options(cpu="vnni"))


def test_errors_are_those_of_each_tensor_alone() -> None:
    model, samples = graph(), feeds(graph(), 6)
    plan = solved(model, samples=samples)
    found, passes = sites.measured(model, plan, ["c"], samples, passes=1e9)
    quants = {site.tensor: quant for site, quant in plan.sites.items()}
    alone = contributions(model, plan, [{name: quants[name]} for name in found], ["c"], samples)
    assert {name: count for name, (_, count) in found.items()} == dict.fromkeys(found, 6)
    assert [error for error, _ in found.values()] == pytest.approx([part["c"] for part in alone])
    assert passes > 0.0


def test_with_little_time_each_site_is_measured_once() -> None:
    model, samples = graph(), feeds(graph(), 4)
    plan = solved(model, samples=samples)
    found, _ = sites.measured(model, plan, ["c"], samples, passes=0.0)
    assert {count for _, count in found.values()} == {1}


def test_every_tensor_belongs_to_one_node() -> None:
    model = graph()
    plan = solved(model)
    owned = sites.owners(model, plan)
    assert {node: sorted(names) for node, names in owned.items()} == {
        "Conv_0": ["b", "w", "x"], "Sigmoid_2": ["s"], "Mul_3": ["m"], "Conv_4": ["v", "y"],
    }  # fmt: skip
    assert sorted(name for names in owned.values() for name in names) == sorted(plan.tensors())


def test_of_a_model() -> None:
    random = np.random.default_rng(0)
    samples = [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(6)]
    found = sites.of_model(job(graph(), samples), None, samples=3)
    assert found.samples == 3 and 0.0 < found.passes
    assert [site.error for site in found.sites] == sorted((site.error for site in found.sites), reverse=True)
    assert sum(site.share for site in found.sites) == pytest.approx(1.0)
    first = next(site for site in found.sites if site.node == "Conv_0")
    assert first.plain.bytes == 4 * 108 and first.coded.bytes == 108 + 5 * 4
    assert first.plain.nanoseconds is not None and first.plain.nanoseconds > 0
    read = {tensor.name: tensor for tensor in first.tensors}
    assert (read["x"].plain.bytes, read["x"].coded.bytes) == (4 * 192, 192 + 5)
    written = json.loads(found.to_json())
    assert written["format"] == sites.FORMAT and written["passes"] == found.passes
    assert written["sites"][0]["node"] == found.sites[0].node


def test_a_model_without_float_outputs_has_no_errors_to_tell() -> None:
    text = "(float[1,16] x) => (int64[1,1] y) { a = MatMul(x, w) y = ArgMax<axis = 1>(a) }"
    model = program(text, weights(w=(16, 16)))
    samples = [{"x": np.ones((1, 16), np.float32)}]
    with pytest.raises(ModelError, match="no output is computed in float32"):
        sites.of_model(job(model, samples), None)
