"""Where outputs are judged: among what a selection is made."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_helpers import program, with_body
from planned import weights

import qcompiler
from qcompiler import ir
from qcompiler.report.text import agreement
from qcompiler.search.improve import FLOOR
from qcompiler.search.points import PART_OF_SELECTION, measuring_points, selecting, selections
from qcompiler.search.settle import FAITHFUL

INTEGERS = {
    "k": np.array([5]), "last": np.array([2]), "wide": np.array([1, 1, 4]), "sizes": np.array([4, 3]),
    "first": np.array([0]), "most": np.array([10]), "one": np.array(1), "half": np.float32(0.5),
    "table": np.ones((9, 6), np.float32),
}  # fmt: skip
DETECTOR = """(float[1,20,7] x) => (float[1,5,6] y) {
    a = Tanh(x) boxes, scores = Split<axis = 2>(a, sizes) best = ReduceMax<axes = [-1], keepdims = 0>(scores)
    v, i = TopK<axis = 1>(best, k) u = Unsqueeze(i, last) t = Tile(u, wide) b = GatherElements<axis = 1>(boxes, t)
    s = Unsqueeze(v, last) c = Cast<to = 1>(u) y = Concat<axis = 2>(b, s, c) }"""


def found(text: str) -> tuple[dict[str, list[str]], dict[str, float]]:
    graph = program(text, INTEGERS)
    ir.infer_shapes(graph)
    return selections(graph), measuring_points(graph)


def test_the_best_boxes_are_judged_among_all() -> None:
    selected, points = found(DETECTOR)
    assert selected == {"y": ["boxes", "best"]}  # classes are no quantities
    assert points == {"boxes": PART_OF_SELECTION, "best": PART_OF_SELECTION}
    assert PART_OF_SELECTION <= FLOOR - FAITHFUL  # what is aimed at is enough in the end


def test_what_selects_is_named() -> None:
    graph = program(DETECTOR, INTEGERS)
    ir.infer_shapes(graph)
    assert [node.op for node in selecting(graph, "y")] == ["GatherElements", "TopK"]


@pytest.mark.parametrize(
    "body, among",
    [
        ("v, y = TopK<axis = 2>(a, k)", ["a"]),
        ("v, i = TopK<axis = 2>(a, k) y = Mul(v, v)", ["a"]),
        ("m = Greater(a, half) n = NonZero(m) t = Transpose(n) y = GatherND(a, t)", ["a"]),
        ("b = Abs(x) v, i = TopK<axis = 2>(a, k) y = GatherElements<axis = 2>(b, i)", ["b", "a"]),
        ("b = Abs(x) y = NonMaxSuppression(a, b, most)", ["a", "b"]),
    ],
)
def test_what_is_selected_by_computed_numbers(body: str, among: list[str]) -> None:
    selected, _ = found(f"(float[1,20,7] x) => (float y) {{ a = Tanh(x) {body} }}")
    assert selected == {"y": among}


def test_scores_of_one_class_after_another_are_one_quantity() -> None:
    classes = " ".join(f"s{i} = Gather<axis = 2>(a, c{i}) v{i}, i{i} = TopK<axis = 1>(s{i}, k)" for i in range(3))
    constants = {**INTEGERS, **{f"c{i}": np.array(i) for i in range(3)}}
    graph = program(
        f"(float[1,20,7] x) => (float y) {{ a = Tanh(x) {classes} y = Concat<axis = 1>(v0, v1, v2) }}", constants
    )
    ir.infer_shapes(graph)
    assert selections(graph) == {"y": ["a"]}


def test_what_a_branch_decides_selects() -> None:
    """PyTorch's boxes go through a branch that asks whether there are any."""
    result = helper.make_tensor_value_info("picked", TensorProto.INT64, None)
    picked = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["picked"])
    none = helper.make_node("ConstantOfShape", ["nothing"], ["picked_"], value=helper.make_tensor("z", 7, [1], [0]))
    empty = helper.make_tensor_value_info("picked_", TensorProto.INT64, None)
    values = {"most": np.array([5]), "nothing": np.array([0, 3]), "last": np.array(2)}
    nodes = [
        *(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(one)) for name, one in values.items()),
        helper.make_node("Tanh", ["x"], ["boxes"]),
        helper.make_node("Sigmoid", ["z"], ["scores"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=0),
        helper.make_node("Cast", ["count"], ["any"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["any"], ["kept"],
            then_branch=helper.make_graph([picked], "then", [], [result]),
            else_branch=helper.make_graph([none], "else", [], [empty]),
        ),
        helper.make_node("Gather", ["kept", "last"], ["place"], axis=1),
        helper.make_node("Gather", ["boxes", "place"], ["y"], axis=1),
    ]  # fmt: skip
    graph = with_body(nodes, {"x": [1, 20, 4], "z": [1, 1, 20]}, ["y"])
    ir.infer_shapes(graph)
    assert selections(graph) == {"y": ["boxes", "scores"]}


@pytest.mark.parametrize(
    "inputs, body",
    [
        ("", "y = Gather<axis = 1>(a, first)"),
        ("", "s = Shape(a) l = Gather(s, one) m = Sub(l, one) y = Gather<axis = 1>(a, m)"),
        (", int64[1,20] ids", "e = ArgMax<axis = 1, keepdims = 0>(ids) y = Gather<axis = 1>(a, e)"),
        (", int64[1,20] ids", "e = Gather(table, ids) y = Concat<axis = 2>(a, e)"),
        ("", "v, i = TopK<axis = 2>(a, k) y = Sin(v)"),
    ],
)
def test_what_is_not(inputs: str, body: str) -> None:
    selected, points = found(f"(float[1,20,7] x{inputs}) => (float y) {{ a = Tanh(x) {body} }}")
    assert selected == {} and points


def test_a_detector_keeps_its_codes_though_places_are_exchanged() -> None:
    text = """(float[1,3,8,8] x) => (float[1,40] y) {
        c = Conv(x, w) r = Relu(c) d = Conv(r, v) f = Flatten(d) y, i = TopK<axis = 1>(f, most) }"""
    constants = {**weights(w=(8, 3, 3, 3), v=(4, 8, 3, 3)), "most": np.array([40])}
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(6)]
    result = qcompiler.compile(program(text, constants), feeds, options=qcompiler.Options(timing=False))
    (output,) = result.report.outputs
    assert output.selected_from is not None and output.selected_from > 20.0
    assert output.judged == output.selected_from == result.report.sqnr
    assert [column.header for column in agreement(result.report.outputs).columns][-1] == "selected from"
    assert not result.report.warnings


def test_exchanged_places_are_told_with_what_exchanged_them() -> None:
    text = """(float[1,3,8,8] x) => (float[1,40] y) {
        c = Conv(x, w) r = Relu(c) d = Conv(r, v) f = Flatten(d) s, i = TopK<axis = 1>(f, most)
        t = Sin(x) g = Flatten(t) y = GatherElements<axis = 1>(g, i) }"""
    constants = {**weights(w=(8, 3, 3, 3), v=(4, 8, 3, 3)), "most": np.array([40])}
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(6)]
    result = qcompiler.compile(program(text, constants), feeds, options=qcompiler.Options(timing=False))
    (output,) = result.report.outputs
    (warning,) = result.report.warnings
    assert output.sqnr < 15.0 < output.judged < 50.0  # of the scores: what is taken by them is exact
    assert warning.startswith(f"output 'y' keeps {output.sqnr:.1f} dB place by place: GatherElements '")
    among = f"' selects among what keeps {output.judged:.1f} dB, where what is nearly equal changes places"
    assert warning.endswith(among)


def test_sums_that_branch_are_looked_at_once() -> None:
    sums = ["v0, i = TopK<axis = 2>(a, k)", *(f"v{n + 1} = Add(v{n}, v{n})" for n in range(20))]
    body = " ".join(sums) + " y = Mul(v20, v20)"
    selected, _ = found(f"(float[1,20,7] x) => (float y) {{ a = Tanh(x) {body} }}")
    assert selected == {"y": ["a"]}
