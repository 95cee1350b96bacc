"""Second moments, held against what the operator itself computes."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program
from planned import weights

from qcompiler import ir
from qcompiler.calibrate import second_moments
from qcompiler.calibrate.moments import as_rows, blocks_of, patches


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(float[2,4,9,7] x) => (float y) { y = Conv(x, w) }", (6, 4, 3, 2)),
        ("(float[2,4,9,7] x) => (float y) { y = Conv <pads = [1,0,2,1], strides = [2,1]> (x, w) }", (6, 4, 3, 3)),
        ("(float[1,4,9,9] x) => (float y) { y = Conv <group = 2, dilations = [2,3]> (x, w) }", (6, 2, 3, 3)),
        ('(float[1,4,8,9] x) => (float y) { y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)}', (6, 4, 3, 3)),
        ('(float[1,4,8,9] x) => (float y) { y = Conv <auto_pad = "SAME_LOWER", strides = [2,2]> (x, w)}', (6, 4, 3, 4)),
        ('(float[1,4,8,9] x) => (float y) { y = Conv <auto_pad = "VALID"> (x, w) }', (6, 4, 3, 4)),
        ("(float[3,4,20] x) => (float y) { y = Conv <pads = [2,2]> (x, w) }", (6, 4, 5)),
        ("(float[1,2,5,6,7] x) => (float y) { y = Conv(x, w) }", (3, 2, 2, 3, 4)),
        ("(float[2,5,8] x) => (float y) { y = MatMul(x, w) }", (8, 6)),
        ("(float[5,8] x) => (float y) { y = Gemm <transB = 1> (x, w) }", (6, 8)),
    ],
)  # fmt: skip
def test_rows_times_weights_are_the_output(text: str, shape: tuple[int, ...]) -> None:
    """Every position, in the order in which the operator puts its outputs."""
    graph = program(text, weights(w=shape))
    node, given = graph.nodes[0], feed(graph)
    weight = node.inputs[1].values
    rows = patches(node, given["x"], weight.shape[2:] if node.op == "Conv" else (), 10**6, 0)
    products = as_rows(node, weight) @ rows.swapaxes(1, 2)  # [groups, outputs, rows]
    found = products.reshape(-1, rows.shape[1]).T
    wanted = outputs(graph, given)["y"]
    wanted = np.moveaxis(wanted, 1, -1) if node.op == "Conv" else wanted
    np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-4, atol=1e-4)


def test_moments_of_rows_by_hand() -> None:
    graph = program("(float[1,2] x) => (float y) { y = MatMul(x, w) }", weights(w=(2, 3)))
    samples = [{"x": np.array([[a, b]], np.float32)} for a, b in [(1, 2), (3, 4), (np.nan, 1), (5, 6)]]
    found = second_moments(graph, {"w": [graph.nodes[0].name]}, samples)["w"]
    np.testing.assert_allclose(found.fitted[0], [[[5.0, 7.0], [7.0, 10.0]]])  # the mean of two rows' products
    np.testing.assert_allclose(found.held_out[0], [[[25.0, 30.0], [30.0, 36.0]]])  # the fourth sample


def test_what_several_nodes_read_counts_for_one_weight() -> None:
    text = "(float[1,2] x) => (float y) { a = MatMul(x, w) b = Neg(a) y = MatMul(b, w) }"
    graph = program(text, weights(w=(2, 2)))
    ir.infer_shapes(graph)
    samples = [{"x": np.array([[1.0, -1.0]], np.float32)}] * 4
    found = second_moments(graph, {"w": ["MatMul_0", "MatMul_2"]}, samples)["w"]
    inner = -(samples[0]["x"] @ graph.nodes[0].inputs[1].values)
    expected = (samples[0]["x"].T @ samples[0]["x"] + inner.T @ inner) / 2
    np.testing.assert_allclose(found.fitted[0][0], expected, rtol=1e-5)


def test_parts_are_about_equal() -> None:
    assert blocks_of(512) == [slice(0, 512)]
    assert [part.stop - part.start for part in blocks_of(1500)] == [500, 500, 500]
