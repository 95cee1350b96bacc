"""Transposed convolutions in codes: from a program to what ONNX Runtime runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import strategies as st
from pass_helpers import feed, outputs, program
from planned import TARGET, feeds, lowered, placed, solved, weights

from qcompiler import ir, numerics
from qcompiler.passes.subpixel_conv import SubpixelConv, by_phase, phases
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
    assert phases(node) is None and node.name not in placed(graph, target=TARGET.at("int8")).intended


def test_groups_and_three_axes_are_left_alone() -> None:
    grouped = "(float[1,8,6,5] x) => (float y) { y = ConvTranspose <strides = [2,2], group = 2> (x, w) }"
    cube = "(float[1,8,6,6,6] x) => (float y) { y = ConvTranspose <strides = [2,2,2]> (x, w) }"
    for text, shape in ((grouped, (8, 4, 2, 2)), (cube, (8, 4, 2, 2, 2))):
        (node,) = program(text, weights(w=shape)).nodes
        assert phases(node) is None


OVERLAPPING = [
    ((4, 4), "strides = [2,2], pads = [1,1,1,1]", 9),
    ((3, 3), "strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]", 4),
    ((3, 3), "strides = [2,2], pads = [0,0,1,1]", 4),
    ((5, 5), "strides = [2,2], pads = [2,2,2,2], output_padding = [1,1]", 9),
    ((2, 4), "strides = [2,2], pads = [0,1,0,1]", 3),
    ((8, 8), "strides = [4,4], pads = [2,2,2,2]", 9),
    ((6,), "strides = [3], pads = [1,2]", 3),
    ((16,), "strides = [8], pads = [4,4]", 3),
]


@pytest.mark.parametrize("kernel, attributes, taps", OVERLAPPING, ids=str)
def test_overlapping_windows_are_more_taps(kernel: tuple[int, ...], attributes: str, taps: int) -> None:
    line = len(kernel) == 1
    shape, ones, three = ("6", "[1,1]", (3,)) if line else ("6,5", "[1,1,1,1]", (3, 3))
    text = f"""(float[1,8,{shape}] x) => (float y) {{
        a = Conv <pads = {ones}> (x, w) r = Relu(a) t = ConvTranspose <{attributes}> (r, v, b) s = Relu(t)
        y = Conv <pads = {ones}> (s, u) }}"""
    graph = program(text, weights(w=(16, 8, *three), v=(16, 8, *kernel), b=(8,), u=(4, 8, *three)), 20, 9)
    ir.infer_shapes(graph)
    plain = lowered(graph, solved(graph))
    result = rewritten(plain)
    folded = next(node for node in result.nodes if node.op == "Conv" and len(node.inputs) == 3)
    assert math.prod(folded.inputs[1].inputs[0].inputs[0].values.shape[2:]) == taps
    given = feed(graph, 9)
    wanted, found = outputs(plain, given)["y"], outputs(result, given)["y"]
    assert wanted.shape == found.shape and numerics.sqnr(wanted, found) > 40.0
    runs = fused.optimize(result).histogram()
    assert runs["QLinearConv"] == 3 and "ConvTranspose" not in runs


@given_(
    kernel=st.integers(1, 9), stride=st.integers(2, 5), pads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    extra=st.integers(0, 4), length=st.integers(1, 7), seed=st.integers(0, 99),
)  # fmt: skip
def test_by_phase_it_computes_what_the_transposed_convolution_does(
    kernel: int, stride: int, pads: tuple[int, int], extra: int, length: int, seed: int
) -> None:
    attributes = f"strides = [{stride}], pads = [{pads[0]}, {pads[1]}], output_padding = [{extra}]"
    random = np.random.default_rng(seed)
    x, weight = random.normal(size=(2, 3, length)), random.normal(size=(3, 2, kernel))
    text = f"(float[2,3,{length}] x) => (float y) {{ y = ConvTranspose <{attributes}> (x, w) }}"
    (node,) = program(text, {"w": weight.astype(np.float32)}).nodes
    found = phases(node)
    if found is None:
        assert kernel + extra - sum(pads) != stride or pads[0] >= kernel or pads[1] >= kernel + stride
        return
    (axis,) = found.axes
    taps = by_phase(weight, found)
    padded = np.pad(x, ((0, 0), (0, 0), (-axis.first, axis.last)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[2], axis=2)
    rows = np.einsum("nclk,fck->nfl", windows, taps).reshape(2, stride, 2, length)
    wanted = np.zeros((2, 2, stride * (length - 1) + kernel + extra))
    for place in range(length):
        wanted[:, :, stride * place : stride * place + kernel] += np.einsum("nc,cok->nok", x[:, :, place], weight)
    wanted = wanted[:, :, pads[0] : pads[0] + stride * length]
    np.testing.assert_allclose(rows.transpose(0, 2, 3, 1).reshape(2, 2, -1), wanted, atol=1e-9)
