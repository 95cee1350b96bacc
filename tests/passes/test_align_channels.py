"""Convolutions of pictures in codes, and the channels in fours that they get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import program

from qcompiler import ir
from qcompiler.passes.align_channels import AlignChannels
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.runtime import run, session
from qcompiler.target_files import load_target
from qcompiler.verify import fused

TARGET = load_target("ort-cpu").at("int8", "standard")
MOST = 63  # no CPU cuts their sums off


def stem(
    channels: int,
    size: str,
    kernel: tuple[int, int],
    attributes: str,
    *,
    maker: str = "",
    zero: int = 0,
    group: int = 1,
) -> ir.Graph:
    """y, convolved from p, which the ``maker`` makes of x (x itself without), all in codes."""
    random = np.random.default_rng(0)
    parameters = {
        "s": np.float32(0.03), "z": np.uint8(117), "t": np.float32(0.2), "u": np.uint8(100),
        "w": random.integers(-MOST, MOST + 1, (8, channels // group, *kernel)).astype(np.int8),
        "ws": random.uniform(0.01, 0.02, 8).astype(np.float32), "wz": np.full(8, zero, np.int8),
    }  # fmt: skip
    read = "p" if maker else "x"
    text = f"""(float[{size}] x) => (float y) {{
        {maker} q = QuantizeLinear({read}, s, z) a = DequantizeLinear(q, s, z)
        b = DequantizeLinear<axis = 0>(w, ws, wz) c = Conv<{attributes}>(a, b)
        r = QuantizeLinear(c, t, u) y = DequantizeLinear(r, t, u)
    }}"""
    graph = program(text, parameters, 20, 9)
    ir.infer_shapes(graph)
    return graph


def aligned(graph: ir.Graph) -> ir.Graph:
    found = ir.clone(graph)
    Pipeline([AlignChannels()]).run(found, PassContext(TARGET))
    return found


def operators(graph: ir.Graph) -> set[str]:
    return {node.op for node in graph.nodes}


def same(graph: ir.Graph, other: ir.Graph, shape: tuple[int, ...]) -> bool:
    """Of the codes' own kernels: their sums are exact, unlike those of floats."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with session(graph) as one, session(other) as two:
        return bool(np.array_equal(*(run(model, {"x": x})[0] for model in (one, two))))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_result_is_the_same_to_the_bit(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 2, 3, 5, 6]))
    kernel = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    strides = data.draw(st.sampled_from([(1, 1), (2, 2), (2, 2), (3, 3), (4, 4), (2, 1)]))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    height, width = data.draw(st.tuples(st.integers(7, 25), st.integers(7, 25)))
    attributes = f"strides = {list(strides)}, pads = {list(pads)}"
    graph = stem(channels, f"2,{channels},{height},{width}", kernel, attributes)
    assert same(graph, aligned(graph), (2, channels, height, width))


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes", "put_before", "shape"),
    [
        (3, 7, "strides = [2, 2], pads = [3, 3, 3, 3]", "SpaceToDepth", [8, 12, 4, 4]),
        (3, 6, "strides = [2, 2], pads = [2, 2, 2, 2]", "SpaceToDepth", [8, 12, 3, 3]),
        (3, 4, "strides = [4, 4]", "SpaceToDepth", [8, 48, 1, 1]),
        (1, 3, "strides = [2, 2], pads = [0, 0, 1, 1]", "SpaceToDepth", [8, 4, 2, 2]),
        (3, 3, "strides = [2, 2], pads = [1, 1, 1, 1]", "Pad", [8, 4, 3, 3]),
        (3, 3, "pads = [1, 1, 1, 1]", "Pad", [8, 4, 3, 3]),
        (1, 3, "pads = [1, 1, 1, 1]", "Pad", [8, 4, 3, 3]),
    ],
)
def test_what_is_put_before_and_runs(
    channels: int, kernel: int, attributes: str, put_before: str, shape: list[int]
) -> None:
    found = aligned(stem(channels, f"1,{channels},24,32", (kernel, kernel), attributes))
    (weights,) = (t.values.shape for t in ir.all_tensors(found).values() if ir.is_constant(t) and t.values.ndim == 4)
    assert put_before in operators(found) and list(weights) == shape
    ran = fused.optimize(found).histogram()
    assert ran["QLinearConv"] == 1 and ran[put_before] == 1 and ran["QuantizeLinear"] == 1


def test_a_picture_of_any_size_gets_channels_of_zeros() -> None:
    graph = stem(3, "N,3,H,W", (7, 7), "strides = [2, 2], pads = [3, 3, 3, 3]")
    found = aligned(graph)
    assert "Pad" in operators(found)
    assert same(graph, found, (2, 3, 21, 30))


@pytest.mark.parametrize(
    "graph",
    [
        stem(4, "1,4,8,8", (3, 3), "pads = [1, 1, 1, 1]"),
        stem(3, "1,3,32,32", (16, 16), "strides = [16, 16]"),
        stem(1, "1,1,16,16", (9, 9), "pads = [4, 4, 4, 4]"),
        stem(3, "1,3,16,16", (3, 3), "dilations = [2, 2]"),
        stem(6, "1,6,8,8", (3, 3), "group = 2", group=2),
        stem(3, "1,3,8,8", (3, 3), "pads = [1, 1, 1, 1]", zero=3),
        stem(
            3,
            "1,3,8,8",
            (3, 3),
            "group = 1",
            maker="o = QuantizeLinear(x, s, z) d = DequantizeLinear(o, s, z) p = Relu(d)",
        ),
    ],
    ids=["four channels", "far apart", "mostly zeros", "dilated", "grouped", "zero is no zero", "made in codes"],
)
def test_left_alone(graph: ir.Graph) -> None:
    assert operators(aligned(graph)) == operators(graph)
