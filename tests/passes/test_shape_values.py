"""What is claimed of sizes must hold when the model runs: equal ones are one number, at two feeds of other sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from pass_helpers import feed, program

from qcompiler import ir, runtime
from qcompiler.passes._shape_dims import Size
from qcompiler.passes._shape_values import ShapeValues

CONSTANTS = {
    "i0": np.array([0]), "i1": np.array([1]), "i2": np.array([2]), "i3": np.array([3]), "m1": np.array([-1]),
    "zero": np.array(0), "one": np.array(1), "places": np.arange(40, dtype=np.float32).reshape(1, 40),
    "table": np.ones((40, 8), np.float32), "w": np.ones((8, 12), np.float32), "heads": np.array([2, 4]),
    "kernel": np.ones((6, 3, 3, 5), np.float32), "rows": np.array([0, 2]),
}  # fmt: skip


def sizes(text: str) -> tuple[ir.Graph, ShapeValues]:
    graph = program(text, CONSTANTS)
    return graph, ShapeValues(graph)


def check(graph: ir.Graph, found: ShapeValues, **dims: int) -> None:
    """Runs the graph with all its tensors returned."""
    made = [tensor for node in graph.nodes for tensor in node.outputs]
    model = ir.to_proto(graph)
    model.graph.output.extend(onnx.ValueInfoProto(name=t.name) for t in made if t not in graph.outputs)
    values = feed(graph, **dims)
    with runtime.session(ir.load(model), optimize="none") as session:
        results = runtime.run(session, values, [tensor.name for tensor in made])
    numbers = {Size(name): number for name, number in dims.items()}

    def hold(claimed: object, number: int) -> None:
        if isinstance(claimed, Size):
            whole = Size(claimed.name, claimed.axis)
            if claimed.most is not None:
                assert number == min(numbers[whole], claimed.most)
            else:
                assert number == numbers.setdefault(whole, number)
        elif claimed is not None:
            assert number == claimed

    for tensor, result in zip(made, results):
        shape, value = found.dims(tensor), found.value(tensor)
        if shape is not None:
            assert len(shape) == result.ndim
            for claimed, number in zip(shape, result.shape):
                hold(claimed, number)
        if value is not None:
            assert value.shape == result.shape
            for claimed, number in zip(value.reshape(-1), result.reshape(-1)):
                hold(claimed, number.item())


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        # what exporters write: the sizes of one tensor make the shape of another
        ("s = Shape(x) y = Reshape(x, s)", ["B", "S", 8]),
        ("s = Shape<end = 2>(x) t = Concat<axis = 0>(s, heads) y = Reshape(x, t)", ["B", "S", 2, 4]),
        ("s = Shape<end = 2>(x) t = Concat<axis = 0>(s, i2, m1) y = Reshape(x, t)", ["B", "S", 2, 4]),
        ("s = Shape<start = 1, end = 2>(x) t = Concat<axis = 0>(m1, s, heads) y = Reshape(x, t)", ["B", "S", 2, 4]),
        ("s = Shape<end = 1>(x) t = Concat<axis = 0>(s, m1) y = Reshape(x, t)", ["B", None]),
        ("s = Shape(x) z = ConstantOfShape(s) y = Add(x, z)", ["B", "S", 8]),
        ("s = Shape(x) e = Expand(zero, s) f = Cast<to = 1>(e) y = Add(f, x)", ["B", "S", 8]),
        ("s = Shape(x) n = Gather(s, one) r = Range(zero, n, one) y = Cast<to = 1>(r)", ["S"]),
        ("s = Shape<start = 1, end = 2>(x) p = Slice(places, i0, s, i1) y = Identity(p)", [1, "S≤40"]),
        # the size and no more than 40 of it go together only where they are the same
        ("s = Shape<start = 1, end = 2>(x) p = Slice(table, i0, s, i0) y = Add(x, p)", ["B", "S", 8]),
        ("s = Shape<start = 1, end = 2>(x) p = Slice(table, i0, s, i0) y = Add(p, x)", ["B", "S", 8]),
        ("y = Slice(x, i1, i3, i1)", ["B", None, 8]),
        # what every operator does to the shape of what it reads
        ("y = MatMul(x, w)", ["B", "S", 12]),
        ("t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t)", ["B", "S", "S"]),
        ("t = Transpose<perm = [2, 0, 1]>(x) y = Softmax(t)", [8, "B", "S"]),
        ("u = Unsqueeze(x, i1) y = Relu(u)", ["B", 1, "S", 8]),
        ("u = Unsqueeze(x, m1) y = Relu(u)", ["B", "S", 8, 1]),
        ("u = Unsqueeze(x, i1) y = Squeeze(u, i1)", ["B", "S", 8]),
        ("y = Gather<axis = 2>(x, rows)", ["B", "S", 2]),
        ("y = Gather<axis = 1>(x, zero)", ["B", 8]),
        ("y = Concat<axis = 2>(x, x)", ["B", "S", 16]),
        ("y = Concat<axis = 1>(x, x)", ["B", None, 8]),
        ("y, z = Split<axis = 2, num_outputs = 2>(x)", ["B", "S", 4]),
        ("y = ReduceMean<axes = [1]>(x)", ["B", 1, 8]),
        ("y = ReduceMean<axes = [-1], keepdims = 0>(x)", ["B", "S"]),
        ("m = ReduceMax<axes = [2]>(x) y = Sub(x, m)", ["B", "S", 8]),
        ("f = Flatten(x) y = Gemm<transA = 1>(f, f)", [None, None]),
    ],
)  # fmt: skip
def test_sizes_that_are_known_by_name(steps: str, shape: list[object]) -> None:
    opset = {"num_outputs": 18}.get("num_outputs" if "num_outputs" in steps else "", 17)
    graph = program(f"(float[B,S,8] x) => (float y) {{ {steps} }}", CONSTANTS, opset=opset)
    found = ShapeValues(graph)

    named = {"B": Size("B"), "S": Size("S"), "S≤40": Size("S", most=40)}
    claimed = found.dims(ir.all_tensors(graph)["y"])
    assert claimed is not None and len(claimed) == len(shape)
    for one, wanted in zip(claimed, shape):
        if wanted is None:  # known to nobody but itself
            assert isinstance(one, Size) and one not in (Size("B"), Size("S"))
        else:
            assert one == named.get(str(wanted), wanted)
    check(graph, found, B=2, S=5)
    check(graph, found, B=3, S=7)


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ("y = Conv<pads = [1, 2, 1, 2]>(x, kernel)", ["B", 6, "H", "W"]),
        ("y = Conv<pads = [1, 2, 1, 2], strides = [2, 1]>(x, kernel)", ["B", 6, None, "W"]),
        ("y = Conv(x, kernel)", ["B", 6, None, None]),
        ("y = Conv<auto_pad = \"SAME_UPPER\">(x, kernel)", ["B", 6, None, None]),
        ("y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)", ["B", 3, "H", "W"]),
        ("y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)", ["B", 3, None, None]),
        ("s = Shape(x) c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) y = Resize(c, , , s)",
         ["B", 3, "H", "W"]),
    ],
)  # fmt: skip
def test_windows_and_pictures(steps: str, shape: list[object]) -> None:
    graph, found = sizes(f"(float[B,3,H,W] x) => (float y) {{ {steps} }}")
    claimed = found.dims(ir.all_tensors(graph)["y"])
    assert claimed is not None
    for one, wanted in zip(claimed, shape):
        if wanted is None:
            assert isinstance(one, Size) and one not in (Size("B"), Size("H"), Size("W"))
        else:
            assert one == (Size(wanted) if isinstance(wanted, str) else wanted)
    check(graph, found, B=2, H=6, W=8)
    check(graph, found, B=1, H=8, W=12)


def test_two_sizes_may_each_be_one() -> None:
    graph, found = sizes("(float[A,8] x, float[B,8] z) => (float y) { y = Add(x, z) }")
    claimed = found.dims(ir.all_tensors(graph)["y"])
    assert claimed is not None and claimed[0] not in (Size("A"), Size("B"))
    check(graph, found, A=1, B=4)
    check(graph, found, A=4, B=1)


def test_a_symbol_that_one_input_bears_twice_says_nothing() -> None:
    graph, found = sizes("(float[N,N] x) => (float y) { t = Transpose<perm = [1, 0]>(x) y = Relu(t) }")
    assert found.dims(ir.all_tensors(graph)["y"]) == [Size("x", 1), Size("x", 0)]


@pytest.mark.parametrize("symbol", ["unk", "None", "dynamic", "unknown"])
def test_a_symbol_that_stands_for_none_says_nothing(symbol: str) -> None:
    graph, found = sizes(f"(float[{symbol},8] x, float[{symbol},8] z) => (float y) {{ y = Add(x, z) }}")
    claimed = found.dims(ir.all_tensors(graph)["y"])
    assert claimed is not None and claimed[0] not in (Size(symbol), Size("x", 0), Size("z", 0))
    check(graph, found, **{symbol: 3})


def test_symbols_that_an_earlier_inference_made_up_say_nothing() -> None:
    """Two inferences number what they do not know from 0 on, and what only one of them knew keeps its number."""
    graph, _ = sizes("(float[B,8] x, float[C,8] z) => (float y) { a = custom.F(x) b = custom.F(z) y = Add(a, b) }")
    for name in "ab":
        ir.all_tensors(graph)[name].shape = ["unk__0", "B" if name == "a" else 8]
    found = ShapeValues(graph)
    first, second = (found.dims(ir.all_tensors(graph)[name]) for name in "ab")
    assert first == [Size("a", 0), Size("B")] and second == [Size("b", 0), 8]


@pytest.mark.parametrize(
    "made, shape",
    [
        ("custom.MatMulInt8(x, c, s)", ["B", "S", None]),
        ("custom.MatMulIntegerToFloat(x, w, s, s)", ["B", "S", 12]),
        ("custom.QuickGelu(x)", ["B", "S", 8]),
        ("custom.GatherInt4(i, c, s)", ["B", "S", None]),
        ("custom.GatherBlockQuantized(c, i, s)", ["B", "S", None]),
    ],
)
def test_operators_beyond_onnx(made: str, shape: list[object]) -> None:
    """Their shapes are not ONNX's to infer."""
    graph, found = sizes(f"(float[B,S,8] x, int64[B,S] i, uint8[9,4] c, float[9] s) => (float y) {{ y = {made} }}")
    claimed = found.dims(ir.all_tensors(graph)["y"])
    assert claimed is not None
    for axis, (one, wanted) in enumerate(zip(claimed, shape)):
        assert one == (Size("y", axis) if wanted is None else Size(wanted) if isinstance(wanted, str) else wanted)


def test_operators_with_fewer_inputs_than_they_must_have() -> None:
    for op in ("MatMul", "Gemm", "Gather", "Conv", "Expand", "Reshape", "Range", "Where", "Concat", "Unsqueeze"):
        x, y = ir.Variable("x", np.dtype(np.float32), [2, 3]), ir.Variable("y")
        graph = ir.Graph(nodes=[ir.Node(op, "n", {}, inputs=[x], outputs=[y])], inputs=[x], outputs=[y], opset=17)
        assert ShapeValues(graph).value(y) is None
