from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program
from planned import feeds, lowered, solved, weights

from qcompiler import ir
from qcompiler.passes.align_channels import AlignChannels
from qcompiler.verify import profile
from qcompiler.verify.profile import Profile

CONV = weights(w=(32, 3, 3, 3), v=(32, 32, 3, 3))
TEXT = "(float[1,3,32,32] x) => (float y) { c = Conv(x, w) r = Relu(c) t = Tanh(r) y = Conv(t, v) }"


def measured(graph: ir.Graph) -> Profile:
    return profile.measure(graph, feeds(graph, 2), runs=4)


@pytest.fixture(scope="module")
def graph() -> ir.Graph:
    return program(TEXT, CONV)


def test_the_time_of_each_node(graph: ir.Graph) -> None:
    found = measured(graph)
    seconds = found.by_node()
    assert {"Conv_0", "Tanh_2", "Conv_3"} <= set(seconds) and "Relu_1" not in seconds  # it is in the convolution
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(found.total) == pytest.approx(sum(found.seconds.values()))


def test_a_quantized_graph_is_told_by_the_same_names(graph: ir.Graph) -> None:
    assert {"Conv_0", "Tanh_2", "Conv_3"} <= set(measured(lowered(graph, solved(graph))).by_node())


def test_what_stands_between_nodes_counts_for_the_region_it_serves(graph: ir.Graph) -> None:
    regions = [{"Conv_0"}, {"Conv_3"}]
    plain, coded = measured(graph), measured(lowered(graph, solved(graph)))
    by_region, losses = coded.by_region(regions), profile.losses(regions, plain, coded)
    assert set(by_region) == {-1, 0, 1} and all(value > 0 for value in by_region.values())
    elsewhere = sum(s for name, s in coded.seconds.items() if "Tanh" in name)
    assert by_region[-1] == pytest.approx(elsewhere)  # all Q, DQ and changes of layout have found their region
    assert set(losses) == {0, 1}


@pytest.mark.parametrize(
    ("convolution", "helper"),
    [("Conv(x, w)", "Pad"), ("Conv<pads = [1,1,1,1], strides = [2,2]>(x, f)", "SpaceToDepth")],
)
def test_what_aligns_channels_counts_for_the_convolution(convolution: str, helper: str) -> None:
    graph = program(TEXT.replace("Conv(x, w)", convolution), {**CONV, **weights(f=(32, 3, 5, 5))})
    ir.infer_shapes(graph)
    coded = measured(lowered(graph, solved(graph), AlignChannels()))
    assert any(node.op_type == helper for node in coded.optimized.nodes)
    elsewhere = sum(seconds for name, seconds in coded.seconds.items() if "Tanh" in name)
    assert coded.by_region([{"Conv_0"}, {"Conv_3"}])[-1] == pytest.approx(elsewhere)


def test_a_body_runs_as_often_as_its_loop() -> None:
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"], "inner"),
            helper.make_node("Identity", ["going"], ["on"], "keep_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )

    def looped(times: int) -> ir.Graph:
        outer = helper.make_graph(
            [helper.make_node("Loop", ["count", "", "x"], ["y"], "loop", body=body)],
            "looped",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
            [numpy_helper.from_array(np.array(times), "count")],
        )
        return ir.load(helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    often = measured(looped(40))
    assert often.seconds["inner"] > 10 * measured(looped(1)).seconds["inner"]
    assert "loop" not in often.seconds  # its time is that of the nodes inside


def test_a_name_with_a_quotation_mark_in_it() -> None:
    graph = program(TEXT, CONV)
    graph.nodes[2].name = 'a "quoted" name'
    assert 'a "quoted" name' in measured(graph).seconds
