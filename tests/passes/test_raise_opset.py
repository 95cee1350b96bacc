"""The operator set raised: each operator of an old one, run by ONNX Runtime before and after."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pass_helpers import assert_same, ops, program, refusals, run_pass, with_body

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes import raise_opset
from qcompiler.passes.raise_opset import RaiseOpset

SCALES = {"up": np.float32([1, 1, 2, 3]), "down": np.float32([1, 1, 0.5, 0.25]), "both": np.float32([1, 1, 2, 0.5])}
IMAGE = "(float[1,2,4,8] x) => (float[a,b,c,d] y)"


def raised(graph: ir.Graph, opset: int = 17, tolerance: float = 0.0) -> ir.Graph:
    result, rewrites, _ = run_pass(RaiseOpset(opset=opset), graph)
    assert rewrites and result.opset == opset
    ir.infer_shapes(result)  # the checker wants shapes of outputs
    onnx.checker.check_model(ir.to_proto(result))
    assert_same(graph, result, rtol=tolerance, atol=tolerance)
    return result


@pytest.mark.parametrize(
    ("opset", "node"),
    [
        (7, "Clip<min=-0.5,max=0.5>(x)"), (9, "Clip<max=0.5>(x)"), (10, "Clip(x)"),
        (9, "Pad<pads=[0,0,1,0,0,0,0,2],value=1.5>(x)"), (10, 'Pad<mode="reflect",pads=[0,0,1,0,0,0,0,2]>(x)'),
        (9, "Slice<starts=[1,0],ends=[2,3],axes=[1,3]>(x)"), (7, "Slice<starts=[0,1],ends=[9,2]>(x)"),
        (9, "Squeeze<axes=[0]>(x)"), (12, "Squeeze(x)"), (12, "Unsqueeze<axes=[1,-1]>(x)"),
        (11, "ReduceSum<axes=[1,-1],keepdims=0>(x)"), (9, "ReduceSum(x)"), (9, "ReduceMean<axes=[2,3]>(x)"),
        (12, "Softmax<axis=1>(x)"), (9, "Softmax(x)"), (9, "LogSoftmax<axis=3>(x)"), (11, "Hardmax<axis=-2>(x)"),
        (9, "Dropout(x)"), (10, "Dropout<ratio=0.25>(x)"),
        (7, "Upsample<scales=[1.0,1.0,2.0,3.0]>(x)"), (9, "Upsample(x, up)"), (9, 'Upsample<mode="linear">(x, up)'),
        (10, "Resize(x, up)"), (10, "Resize(x, down)"), (10, 'Resize<mode="linear">(x, both)'),
        (11, "Resize(x, empty, up)"), (11, 'Resize<mode="cubic">(x, empty, empty, sizes)'),
        (11, 'Resize<coordinate_transformation_mode="tf_half_pixel_for_nn",nearest_mode="floor">(x, empty, down)'),
        (9, "Gemm<transB=1>(r, w, zero)"), (8, "BatchNormalization(x, two, two, two, two)"),
        (7, "BatchNormalization<spatial=1>(x, two, two, two, two)"),
        (10, "RoiAlign<output_height=2,output_width=2>(x, roi, batch)"), (9, "Scatter<axis=1>(x, index, update)"),
        (7, "MaxPool<kernel_shape=[2,2]>(x)"), (9, "Flatten<axis=2>(x)"), (12, "Pow(x, two4)"), (8, "Max(x, two4)"),
        (11, "DepthToSpace<blocksize=1>(x)"), (9, "OneHot(i, depth, values)"), (9, "PRelu(x, two4)"),
    ],
)  # fmt: skip
def test_each_operator(opset: int, node: str) -> None:
    constants: dict[str, Any] = {
        **SCALES, "empty": np.zeros(0, np.float32), "sizes": np.array([1, 2, 6, 6]), "two": np.float32([1, 2]),
        "r": np.ones((2, 3), np.float32), "w": np.ones((4, 3), np.float32), "zero": np.float32(0),
        "roi": np.float32([[0, 0, 3, 3]]), "batch": np.array([0]), "index": np.zeros((1, 1, 1, 1), np.int64),
        "update": np.ones((1, 1, 1, 1), np.float32), "two4": np.full((2, 1, 1), 2, np.float32), "i": np.array([0, 2]),
        "depth": np.array(3), "values": np.float32([0, 1]),
    }  # fmt: skip
    before = program(f"{IMAGE} {{ g = Abs(x)  h = {node}  y = Neg(h) }}".replace("(x,", "(g,"), constants, opset)
    before.outputs[0].shape = None
    raised(before)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("target", [13, 17, 18, 21, 23])
def test_split_and_topk(count: int, target: int) -> None:
    sizes = "<axis=3,split=[3,5]>" if count == 2 else "<axis=3>"
    names = ", ".join(f"s{i}" for i in range(count))
    before = program(
        f"""{IMAGE} {{
            {names} = Split{sizes}(x)  v, i = TopK<k=2>(s0)  j = Cast<to=1>(i)  p = Add(v, j)
            y = ReduceMax<axes=[2]>(p)
        }}""",
        opset=9,
    )
    before.outputs[0].shape = None
    after = raised(before, target)
    assert after.ir_version >= 8 if target >= 17 else 7


@pytest.mark.parametrize(("shape", "flattened"), [("1,2,4,8", True), ("n,m,1,1", False), ("n,m,k,l", True)])
def test_softmax_over_several_axes(shape: str, flattened: bool) -> None:
    before = program(f"(float[{shape}] x) => (float[{shape}] y) {{ y = Softmax(x) }}", opset=12)
    after = raised(before, tolerance=1e-6)
    assert ("Flatten" in ops(after)) == flattened
    assert after.outputs[0].name == "y"


def test_softmax_over_the_last_axis_stays_one_node() -> None:
    after = raised(program("(float[n,m] x) => (float[n,m] y) { y = Softmax(x) }", opset=12))
    assert ops(after) == ["Softmax"] and after.nodes[0].attrs["axis"] == 1


def test_half_precision() -> None:
    before = program(
        """(float16[1,4] x) => (float16[a,b] y) {
            h = Pad<pads=[0,1,0,1],value=7.0>(x)  y = ReduceSum<axes=[0]>(h)
        }""",
        opset=10,
    )
    after = raised(before)
    assert after.nodes[0].inputs[2].dtype == np.float16


def test_an_unknown_type_is_taken_from_the_tensor() -> None:
    graph = program("(float[2] x) => (float[2] y) { h = custom.Twice(x)  y = Clip<max=0.5>(h) }", opset=10)
    after, _, _ = run_pass(RaiseOpset(), graph)
    assert after.opset == 17 and ops(after) == ["Twice", "CastLike", "Clip"]
    _, rewrites, diagnostics = run_pass(RaiseOpset(opset=13), graph)
    assert rewrites == 0 and "the type of 'h' is unknown" in refusals(diagnostics)[0]


def test_inside_bodies_and_other_domains() -> None:
    def branch(name: str, **axes: Any) -> helper.GraphProto:
        nodes = [
            helper.make_node("Unsqueeze", ["x"], [f"{name}_u"], **axes),
            helper.make_node("ReduceSum", [f"{name}_u"], [f"{name}_out"], **axes),
        ]
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=branch("then", axes=[0]), else_branch=branch("else", axes=[-2])
        ),
    ]
    after = raised(with_body(nodes, {"x": [3]}, ["y"], opset=11))
    assert sorted(ops(after)) == ["Cast", "If", *["ReduceSum"] * 3, *["Unsqueeze"] * 2]


def test_a_newer_operator_set_stays() -> None:
    graph = program("(float[2] x) => (float[2] y) { y = Relu(x) }", opset=19)
    after, rewrites, _ = run_pass(RaiseOpset(), graph)
    assert rewrites == 0 and after.opset == 19


def test_further_than_it_knows() -> None:
    graph = program("(float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(PassError, match="opset 99 is newer than what it can raise to"):
        run_pass(RaiseOpset(opset=99), graph)


@pytest.mark.parametrize(
    ("opset", "target", "text", "reason"),
    [
        (8, 17, "y = BatchNormalization<spatial=0>(x, c, c, c, c)", "spatial=0 has no counterpart"),
        (9, 17, "y, m, v = BatchNormalization(x, c, c, c, c)  z = Neg(m)", "the statistics that BatchNormalization"),
        (9, 17, "h, m = Dropout(x)  y = Mul(h, m)", "the mask of Dropout is read"),
        (10, 17, "y = Resize(x, both)", "enlarges one axis and shrinks another"),
        (
            11, 17, 'y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, empty, up)',
            "tf_half_pixel_for_nn has no counterpart",
        ),
        (12, 20, "y = AveragePool<kernel_shape=[2,2],ceil_mode=1>(x)", "AveragePool with ceil_mode"),
        (18, 21, "y = GroupNormalization<num_groups=1>(x, one, one)", "GroupNormalization has another scale"),
        (9, 17, "y = ImageScaler<scale=1.0>(x)", ""),
    ],
)  # fmt: skip
def test_refusals_leave_the_graph_as_it_was(opset: int, target: int, text: str, reason: str) -> None:
    constants = {**SCALES, "c": np.float32([1, 2]), "one": np.float32([1]), "empty": np.zeros(0, np.float32)}
    graph = program(f"{IMAGE} {{ s = Squeeze<axes=[0]>(x)  w = Neg(s)  {text} }}" if opset < 13 else
                    f"{IMAGE} {{ {text} }}", constants, opset)  # fmt: skip
    after, rewrites, diagnostics = run_pass(RaiseOpset(opset=target), graph)
    if not reason:  # unknown to ONNX before as well as after: none of our making
        assert after.opset == target
        return
    assert rewrites == 0 and after.opset == opset
    (found,) = refusals(diagnostics)
    assert reason in found and f"the operator set stays {opset}" in found


def test_scales_that_are_computed_are_warned_of() -> None:
    graph = program("(float[1,1,2,2] x, float[4] s) => (float[a,b,c,d] y) { y = Resize(x, s) }", opset=10)
    after, _, (warning,) = run_pass(RaiseOpset(), graph)
    assert after.opset == 17 and warning.severity == "warning" and "taken to enlarge" in warning.message


def test_every_change_of_an_operator_is_in_the_table_or_only_adds() -> None:
    """ONNX's own history between the oldest operator set and the newest that the pass raises to."""
    histories = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            histories[schema.name].append(schema)
    missing = []
    for name, history in histories.items():
        history.sort(key=lambda schema: schema.since_version)
        for old, new in pairwise(history):
            if not 7 < new.since_version <= raise_opset.NEWEST or (name, new.since_version) in raise_opset._REWRITES:
                continue
            if not _only_adds(old, new):
                missing.append((name, new.since_version))
    # Optional by now; its old attributes were never anything else; a Constant is a weight to us.
    assert set(missing) <= {("Upsample", 10), ("Constant", 9), ("Constant", 11)}


def _only_adds(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    def default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
        value = attribute.default_value
        return helper.get_attribute_value(value) if value.type else None

    kept = all(key in new.attributes for key in old.attributes)
    same = kept and all(default(old.attributes[key]) == default(new.attributes[key]) for key in old.attributes)
    optional = not any(new.attributes[key].required for key in set(new.attributes) - set(old.attributes))
    added = new.inputs[len(old.inputs) :]
    inputs = all(one.option == onnx.defs.OpSchema.FormalParameterOption.Optional for one in added)
    return bool(same and optional and inputs and len(new.outputs) >= len(old.outputs) and not new.deprecated)
