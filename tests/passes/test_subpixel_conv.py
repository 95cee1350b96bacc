"""Transposed convolutions whose windows tile their result, in codes: from a program to what ONNX Runtime runs."""

from __future__ import annotations

import pytest
from pass_helpers import feed, outputs, program
from planned import TARGET, feeds, lowered, placed, solved, weights

from qcompiler import ir, numerics
from qcompiler.passes.subpixel_conv import SubpixelConv, tiles
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target
from qcompiler.verify import fused

NET = """(float[1,8,SIZE] x) => (float[1,4,WIDE] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) t = ConvTranspose <strides = [2,2]> (r, v, b) s = Relu(t)
    y = Conv <pads = [1,1,1,1]> (s, u) }"""
CONSTANTS = weights(w=(16, 8, 3, 3), v=(16, 8, 2, 2), b=(8,), u=(4, 8, 3, 3))


def net(size: str = "6,5", wide: str = "12,10") -> ir.Graph:
    graph = program(NET.replace("SIZE", size).replace("WIDE", wide), CONSTANTS, 20, 9)
    ir.infer_shapes(graph)
    return graph


def rewritten(graph: ir.Graph) -> ir.Graph:
    result = ir.clone(graph)
    Pipeline([SubpixelConv()]).run(result, PassContext())
    return result


@pytest.mark.parametrize("size, wide", [("6,5", "12,10"), ("H,5", "K,10"), ("H,W", "K,L")], ids=str)
def test_codes_are_those_of_the_transposed_convolution(size: str, wide: str) -> None:
    graph = net(size, wide)
    plain = lowered(graph, solved(graph, samples=feeds(graph, H=6, W=5)))
    result = rewritten(plain)
    assert "ConvTranspose" not in {node.op for node in result.nodes}
    given = feed(graph, 9, H=6, W=5)
    wanted, found = outputs(plain, given)["y"], outputs(result, given)["y"]
    assert numerics.sqnr(wanted, found) > 40.0  # a sum in another order may round to the next code


@pytest.mark.parametrize("size, wide", [("6,5", "12,10"), ("H,5", "K,10"), ("H,W", "K,L")], ids=str)
def test_all_runs_in_codes_and_layouts_change_once(size: str, wide: str) -> None:
    graph = net(size, wide)
    runs = fused.optimize(rewritten(lowered(graph, solved(graph, samples=feeds(graph, H=6, W=5))))).histogram()
    assert runs["QLinearConv"] == 3 and "ConvTranspose" not in runs and "DepthToSpace" not in runs
    assert runs["Reshape"] == 2 and runs["Transpose"] <= 3  # in, between, out: none for the layout of channels


def test_where_sums_of_products_saturate_weights_have_seven_bits() -> None:
    target = load_target("ort-cpu", "avx2").at("int8")
    schemes = {site.node: quant.scheme for site, quant in placed(net(), target=target).sites.items() if site.index == 1}
    assert (schemes["ConvTranspose_2"].bits, schemes["ConvTranspose_2"].paired) == (7, False)
    assert schemes["Conv_0"].paired


@pytest.mark.parametrize(
    "attributes",
    ["strides = [1,1]", "strides = [2,1]", "strides = [2,2], pads = [1,1,0,0]",
     "strides = [2,2], output_padding = [1,1]", "strides = [2,2], dilations = [2,2]",
     'strides = [2,2], auto_pad = "SAME_UPPER"', "strides = [2,2], output_shape = [11,9]"],
)  # fmt: skip
def test_what_stays_in_float(attributes: str) -> None:
    text = NET.replace("strides = [2,2]", attributes).replace("SIZE", "6,5").replace("float[1,4,WIDE] y", "float y")
    graph = program(text, CONSTANTS, 20, 9)
    ir.infer_shapes(graph)
    node = next(node for node in graph.nodes if node.op == "ConvTranspose")
    assert not tiles(node) and node.name not in placed(graph, target=TARGET.at("int8")).intended


def test_groups_and_one_axis_are_left_alone() -> None:
    grouped = "(float[1,8,6,5] x) => (float y) { y = ConvTranspose <strides = [2,2], group = 2> (x, w) }"
    line = "(float[1,8,6] x) => (float y) { y = ConvTranspose <strides = [2]> (x, w) }"
    for text, shape in ((grouped, (8, 4, 2, 2)), (line, (8, 4, 2))):
        (node,) = program(text, weights(w=shape)).nodes
        assert not tiles(node)
