"""Tables that lose more than they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program
from planned import placed, weights

import qcompiler
from qcompiler import ir, native
from qcompiler.search.lossy_tables import brought_by_tables
from qcompiler.target_files import load_target

NATIVE = load_target("ort-cpu", "vnni").at("int8", "native")
STANDARD = load_target("ort-cpu", "vnni").at("int8")


def magnitudes() -> ir.Graph:
    """As of a spectrum: the logarithm of the root of a sum of two squares, between convolutions."""
    text = """(float[1,8,64] x) => (float y) {
        a = Conv(x, w) b = Conv(x, u) c = Pow(a, two) d = Pow(b, two) e = Add(c, d) f = Sqrt(e)
        g = Add(f, little) h = Log(g) y = Conv(h, v)
    }"""
    constants = {"two": np.array(2.0, np.float32), "little": np.array(0.01, np.float32)}
    return program(text, {**weights(w=(16, 8, 3), u=(16, 8, 3), v=(16, 16, 3)), **constants})


def test_what_is_rounded_for_tables_alone() -> None:
    graph = magnitudes()
    parts = brought_by_tables(graph, placed(graph, target=NATIVE), placed(graph, target=STANDARD))
    assert parts.pop(frozenset({"Pow_2", "Pow_3", "Add_4", "Sqrt_5"})) == frozenset("cde")
    assert set(parts.values()) == {frozenset()}  # what reads the table of the root rounds nothing more


def test_a_table_between_codes_that_are_there_anyway_rounds_nothing_more() -> None:
    graph = program("(float[1,8,64] x) => (float y) { a = Conv(x, w) b = Tanh(a) y = Conv(b, v) }",
                    weights(w=(16, 8, 3), v=(16, 16, 3)))  # fmt: skip
    parts = brought_by_tables(graph, placed(graph, target=NATIVE), placed(graph, target=STANDARD))
    assert parts == {frozenset({"Tanh_1"}): frozenset()}


@pytest.mark.skipif(not native.available(), reason="installed without the native library")
def test_squares_and_their_root_stay_in_float() -> None:
    random = np.random.default_rng(0)
    loudness = np.exp(random.normal(scale=2.0, size=(8, 1, 1, 1)))
    feeds = [{"x": (random.normal(size=(1, 8, 64)) * one).astype(np.float32)} for one in loudness]
    found = {
        ops: qcompiler.compile(magnitudes(), feeds, options=qcompiler.Options(timing=False, ops=ops))
        for ops in ("standard", "native")
    }
    assert {node.op for node in found["native"].report.nodes if node.precision == "int8"} == {"Conv"}
    assert any("a table of it costs too much fidelity" in one for one in found["native"].report.decisions)
    assert found["native"].report.sqnr >= found["standard"].report.sqnr - 0.5
