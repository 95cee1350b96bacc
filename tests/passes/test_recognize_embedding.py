from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import ops, outputs, program, run_pass

from qcompiler import ir
from qcompiler.passes.recognize_embedding import RecognizeEmbedding

CONSTANTS = {
    "d": np.array([7], np.int32), "v": np.array([0, 1], np.float32), "u": np.array([1, 0], np.float32),
    "w": np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32), "bad": np.full((7, 3), np.inf, np.float32),
    "short": np.ones((6, 3), np.float32), "flat": np.array([-1, 7]), "last": np.array([2]),
    "places": np.arange(7, dtype=np.int32).reshape(1, 1, 7), "odd": np.arange(1, 8, dtype=np.int32).reshape(1, 1, 7),
}  # fmt: skip
ENTRIES = np.array([[0, 3, 6, 5], [-1, -7, 7, -8], [2, 100, -100, 1]], np.int32)


def product(body: str, kind: str = "int32") -> ir.Graph:
    graph = program(f"({kind}[n,4] i) => (float y) {{ {body} }}", CONSTANTS)
    ir.infer_shapes(graph)
    return graph


COMPARED = "l = Unsqueeze(i, last) e = Equal(l, places) h = Cast <to = 1> (e)"


@pytest.mark.parametrize(
    "body",
    [
        "h = OneHot(i, d, v) y = MatMul(h, w)",
        "h = OneHot <axis = 2> (i, d, v) y = MatMul(h, w)",
        "h = OneHot(i, d, v) f = Reshape(h, flat) y = MatMul(f, w)",
        f"{COMPARED} y = MatMul(h, w)",
        f"{COMPARED} f = Reshape(h, flat) y = MatMul(f, w)",
        "l = Unsqueeze(i, last) e = Equal(places, l) h = Cast <to = 1> (e) y = MatMul(h, w)",
    ],
)
def test_rows_are_looked_up(body: str) -> None:
    before = product(body)
    after, rewrites, _ = run_pass(RecognizeEmbedding(), before)
    assert rewrites == 1 and "Gather" in ops(after) and not {"OneHot", "Equal", "MatMul"} & set(ops(after))
    for entries in (ENTRIES, ENTRIES[:0]):
        np.testing.assert_array_equal(*(outputs(graph, {"i": entries})["y"] for graph in (before, after)))


@pytest.mark.parametrize(
    "body, kind",
    [
        ("h = OneHot(i, d, u) y = MatMul(h, w)", "int32"),
        ("h = OneHot <axis = 1> (i, d, v) t = Transpose <perm = [0,2,1]> (h) y = MatMul(t, w)", "int32"),
        ("h = OneHot(i, d, v) y = MatMul(h, bad)", "int32"),
        ("h = OneHot(i, d, v) y = MatMul(h, w)", "float"),
        ("l = Unsqueeze(i, last) e = Equal(l, odd) h = Cast <to = 1> (e) y = MatMul(h, w)", "int32"),
        ("e = Equal(i, i) h = Cast <to = 1> (e) y = Identity(h)", "int32"),
    ],
)
def test_what_is_left_alone(body: str, kind: str) -> None:
    assert run_pass(RecognizeEmbedding(), product(body, kind))[1] == 0
