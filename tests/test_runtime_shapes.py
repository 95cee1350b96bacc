from __future__ import annotations

from pass_helpers import program

from qcompiler import ir
from qcompiler.runtime_shapes import learn_shapes


def shapes(text: str) -> dict[str, object]:
    graph = program(text)
    ir.infer_shapes(graph)
    learn_shapes(graph)
    return {tensor.name: tensor.shape for node in graph.nodes for tensor in node.outputs}


def test_behind_operators_of_onnx_runtime() -> None:
    text = """(float[N,5,8] q, float[N,7,8] k) => (float y) {
        a = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, k) r = Relu(a) y = ReduceSum<keepdims = 0>(r) }"""
    found = shapes(text)
    assert found["a"] == ["N", 5, 8] and found["r"] == ["N", 5, 8]


def test_what_nobody_knows_stays_unknown() -> None:
    assert shapes("(float[2,3] x) => (float y) { a = custom.Any(x) y = Relu(a) }")["a"] is None


def test_a_size_that_depends_on_data_has_no_name() -> None:
    text = """(float[4] x) => (float y) {
        a = NonZero(x) b = Cast<to = 1>(a) c = com.microsoft.QuickGelu(b) y = Relu(c) }"""
    assert shapes(text)["c"] == [1, None]
