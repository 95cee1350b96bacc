"""Padding folded into what reads it: small programs in, programs out, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.passes.fold_pad import FoldPad

RANDOM = np.random.default_rng(5)


def weights(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(dtype)


def amounts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def constants() -> dict[str, Any]:
    return {
        "w": weights(6, 4, 3, 3), "g": weights(4, 1, 3, 3), "v": weights(4, 4, 3), "t": weights(4, 4, 3, 3),
        "p": amounts(0, 0, 1, 0, 0, 0, 2, 1), "spatial": amounts(1, 0, 2, 1), "last": amounts(-1, -2),
        "batch": amounts(1, 0, 0, 0, 0, 0, 0, 0), "channel": amounts(0, 0, 0, 0, 0, 1, 0, 0),
        "cut": amounts(0, 0, -1, 0, 0, 0, 1, 0), "wide": amounts(0, 0, 3, 0, 0, 0, 0, 0),
        "three": amounts(0, 0, 2, 0, 0, 1), "zero": np.float32(0), "one": np.float32(1), "two": np.float32(2),
        "least": np.float32(-np.inf),
    }  # fmt: skip


def check(text: str, expected: list[str], opset: int = 18, dims: str = "n,4,7,9") -> ir.Graph:
    before = program(f"(float[{dims}] x) => (float[a,b,c,d] y) {{ {text} }}", constants(), opset)
    after, rewrites, diagnostics = run_pass(FoldPad(), before)
    assert rewrites == 1 and ops(after) == expected and not refusals(diagnostics)
    assert_same(before, after)
    return after


@pytest.mark.parametrize(
    ("pad", "added"),
    [
        ("Pad(x, p)", [1, 0, 2, 1]),
        ('Pad<mode="constant">(x, p, zero)', [1, 0, 2, 1]),
        ("Pad(x, spatial, zero, last)", [0, 1, 1, 2]),
    ],
)
@pytest.mark.parametrize(
    ("conv", "own"),
    [
        ("Conv(h, w)", [0, 0, 0, 0]),
        ("Conv<pads=[0,1,1,0],strides=[2,2]>(h, w)", [0, 1, 1, 0]),
        ('Conv<auto_pad="VALID",dilations=[2,1]>(h, w)', [0, 0, 0, 0]),
        ("Conv<group=4>(h, g)", [0, 0, 0, 0]),
    ],
)
def test_zeros_before_a_convolution(pad: str, added: list[int], conv: str, own: list[int]) -> None:
    (node,) = check(f"h = {pad}  y = {conv}", ["Conv"]).nodes
    assert node.attrs["pads"] == [a + o for a, o in zip(added, own)] and "auto_pad" not in node.attrs


def test_one_spatial_axis() -> None:
    before = program(
        "(float[n,4,5] x) => (float[n,4,m] y) { h = Pad(x, three)  y = Conv(h, v) }",
        {name: constants()[name] for name in ("three", "v")},
    )
    after, _, _ = run_pass(FoldPad(), before)
    assert ops(after) == ["Conv"] and after.nodes[0].attrs["pads"] == [2, 1]
    assert_same(before, after)


def test_amounts_as_an_attribute() -> None:
    check("h = Pad<pads=[0,0,1,0,0,0,2,1],value=0.0>(x)  y = Conv(h, w)", ["Conv"], opset=10)


@pytest.mark.parametrize("own", ["", ",count_include_pad=1,pads=[0,1,0,0]", ",strides=[2,2]"])
def test_zeros_before_a_mean_are_counted(own: str) -> None:
    after = check(f"h = Pad(x, p)  y = AveragePool<kernel_shape=[3,3]{own}>(h)", ["AveragePool"])
    assert after.nodes[0].attrs["count_include_pad"] == 1


@pytest.mark.parametrize("own", ["", ",pads=[0,1,0,0]", ",strides=[2,2]"])
@pytest.mark.parametrize(
    ("source", "value", "before"),
    [
        ("Identity(x)", "least", ["Identity"]),
        ("Relu(x)", "zero", ["Relu"]),
        ("Clip(x, zero, one)", "zero", ["Clip"]),
        ("Sigmoid(x)", "zero", ["Sigmoid"]),
    ],
)
def test_before_a_maximum(own: str, source: str, value: str, before: list[str]) -> None:
    check(f"r = {source}  h = Pad(r, p, {value})  y = MaxPool<kernel_shape=[3,3]{own}>(h)", [*before, "MaxPool"])


def test_several_readers_and_a_chain() -> None:
    before = program(
        """(float[n,4,7,9] x) => (float[a,b,c,d] y, float[a,e,f,g] z) {
            i = Pad(x, spatial, zero, last)  h = Pad(i, p)  y = Conv(h, w)  z = AveragePool<kernel_shape=[4,4]>(h)
        }""",
        {name: constants()[name] for name in ("spatial", "zero", "last", "p", "w")},
        18,
    )
    after, rewrites, _ = run_pass(FoldPad(), before)
    assert rewrites == 2 and ops(after) == ["Conv", "AveragePool"]
    assert_same(before, after)


def test_half_precision() -> None:
    before = program(
        "(float16[1,4,7,9] x) => (float16[a,b,c,d] y) { h = Pad(x, p, k)  y = Conv(h, w) }",
        {"p": constants()["p"], "w": weights(6, 4, 3, 3, dtype=np.float16), "k": np.float16(0)},
    )
    after, rewrites, _ = run_pass(FoldPad(), before)
    assert rewrites == 1 and ops(after) == ["Conv"]
    assert_same(before, after)


def test_inside_a_body() -> None:
    values = constants()
    stored = [numpy_helper.from_array(values[name], name) for name in ("w", "p")]
    out = helper.make_tensor_value_info("then_out", TensorProto.FLOAT, None)
    then = helper.make_graph(
        [helper.make_node("Pad", ["x", "p"], ["h"]), helper.make_node("Conv", ["h", "w"], ["then_out"])],
        "then", [], [out], stored,
    )  # fmt: skip
    out = helper.make_tensor_value_info("else_out", TensorProto.FLOAT, None)
    other = helper.make_graph(
        [helper.make_node("Conv", ["x", "u"], ["else_out"])],
        "else", [], [out], [numpy_helper.from_array(values["w"], "u")],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other),
    ]
    before = with_body(nodes, {"x": [1, 4, 7, 9]}, ["y"])
    after, rewrites, _ = run_pass(FoldPad(), before)
    assert rewrites == 1 and "Pad" not in ops(after)
    assert_same(before, after)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('h = Pad<mode="edge">(x, p)  y = Conv(h, w)  z = Relu(x)', "it pads by mode edge"),
        ("h = Pad(x, p, one)  y = Conv(h, w)  z = Relu(x)", "a Conv pads with zeros, this with 1"),
        ("k = ReduceMax<keepdims=0>(x)  h = Pad(x, p, k)  y = Conv(h, w)  z = Relu(x)", "pads with is computed"),
        ("q = Shape(x)  h = Pad(x, q, zero, last_all)  y = Conv(h, w)  z = Relu(x)", "how much it pads is computed"),
        ("h = Pad(x, cut)  y = Conv(h, w)  z = Relu(x)", "it cuts elements off"),
        ("h = Pad(x, batch)  y = Conv(h, w)  z = Relu(x)", "it pads the batch or the channels"),
        ("h = Pad(x, channel)  y = Conv(h, w5)  z = Relu(x)", "it pads the batch or the channels"),
        ("z = Pad(x, p)  y = Conv(z, w)", "'z' is an output"),
        ("h = Pad(x, p)  y = Conv(h, w)  z = Relu(h)", "(Relu) reads the padded tensor as well"),
        ("h = Pad(x, p)  y = Conv(h, w)  z = ConvTranspose(h, t)", "(ConvTranspose) reads the padded tensor"),
        ('h = Pad(x, p)  y = Conv<auto_pad="SAME_UPPER">(h, w)  z = Relu(x)', "pads by auto_pad SAME_UPPER"),
        ("h = Pad(x, p)  y = AveragePool<kernel_shape=[3,3],ceil_mode=1>(h)  z = Relu(x)", "output up"),
        ("h = Pad(x, wide)  y = AveragePool<kernel_shape=[3,3]>(h)  z = Relu(x)", "could lie in the padding only"),
        ("h = Pad(x, p, one)  y = AveragePool<kernel_shape=[3,3]>(h)  z = Relu(x)", "a mean takes in zeros"),
        ("h = Pad(x, p)  y = AveragePool<kernel_shape=[4,4],pads=[1,1,1,1]>(h)  z = Relu(x)", "its own padding"),
        ("h = Pad(x, p)  y = MaxPool<kernel_shape=[3,3]>(h)  z = Relu(x)", "the input may be below 0"),
        ("r = Relu(x)  h = Pad(r, p, one)  y = MaxPool<kernel_shape=[3,3]>(h)  z = Relu(x)", "may be below 1"),
        ("h = Pad(x, p, least)  y, i = MaxPool<kernel_shape=[3,3]>(h)  z = Cast<to=1>(i)", "returns indices"),
        ("h = Pad(x, p, least)  y = MaxPool<kernel_shape=[3,3],dilations=[1,2]>(h)  z = Relu(x)", "the padding only"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    values = {**constants(), "last_all": amounts(0, 1), "w5": weights(6, 5, 3, 3)}
    graph = program(f"(float[1,4,7,9] x) => (float[a,b,c,d] y, float[e,f,g,h] z) {{ {text} }}", values, 18)
    before = ops(graph)
    after, rewrites, diagnostics = run_pass(FoldPad(), graph)
    assert rewrites == 0 and ops(after) == before
    (found,) = refusals(diagnostics)
    assert reason in found
