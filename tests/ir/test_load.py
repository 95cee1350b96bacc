"""What a loaded graph holds, by where the model came from and how it was written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir
import onnxruntime
import pytest
from ir.programs import body, evaluate, model, tensor
from onnx import TensorProto, helper, numpy_helper

from qcompiler import ir
from qcompiler.errors import ModelError

SCALE_UP = "(float[2] x) => (float[2] y) { y = Mul(x, w) }"


def scale_up() -> onnx.ModelProto:
    return model(SCALE_UP, w=np.array([2, 3], np.float32))


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "proto", "onnx_ir", "graphsurgeon", "torch", "ours"])
def test_every_source_gives_the_same_program(tmp_path: Path, kind: str) -> None:
    proto = scale_up()
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    sources: dict[str, Any] = {
        "path": path,
        "string": str(path),
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "onnx_ir": onnx_ir.from_proto(proto),
        "graphsurgeon": gs.import_onnx(proto),
        "torch": SimpleNamespace(model_proto=proto),
        "ours": ir.load(proto),
    }
    graph = ir.load(sources[kind])
    assert [node.op for node in graph.nodes] == ["Mul"]
    assert evaluate(graph, x=np.array([1, 10], np.float32))[0].tolist() == [2, 30]


def test_the_source_is_not_changed() -> None:
    for source in (scale_up(), gs.import_onnx(scale_up())):
        before = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
        graph = ir.load(source)
        graph.nodes[0].op = "Add"
        graph.nodes[0].inputs[0].name = "other"
        assert (source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)) == before


def test_an_onnx_ir_model_may_keep_its_weights_in_a_file(tmp_path: Path) -> None:
    onnx.save(
        model("(float[512] x) => (float[512] y) { y = Mul(x, w) }", w=np.full(512, 3, np.float32)),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
    )
    graph = ir.load(onnx_ir.load(tmp_path / "m.onnx"))
    assert evaluate(graph, x=np.ones(512, np.float32))[0].sum() == 1536


def test_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot read a model from int; pass a path, onnx\.ModelProto"):
        ir.load(3)


@pytest.mark.parametrize(
    "attribute, expected",
    [
        ("value = float[2] {1.0, 2.0}", np.array([1, 2], np.float32)),
        ("value_float = 1.5", np.float32(1.5)),
        ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], np.float32)),
        ("value_int = 7", np.int64(7)),
        ("value_ints = [7, 8]", np.array([7, 8])),
    ],
)
def test_constant_nodes_become_weights(attribute: str, expected: Any) -> None:
    graph = ir.load(model(f"(float[2] x) => (float[2] y) {{ c = Constant<{attribute}>() y = custom.F(x, c) }}"))
    assert [node.op for node in graph.nodes] == ["F"]
    constant = graph.nodes[0].inputs[1]
    assert ir.is_constant(constant)
    assert constant.values.dtype == expected.dtype and constant.values.tolist() == expected.tolist()


def test_string_constant_nodes_keep_their_text() -> None:
    text = '(string[1] x) => (string[1] y) { c = Constant<value_strings = ["zwölf"]>() y = StringConcat(x, c) }'
    graph = ir.load(model(text, opset=20, ir_version=9))
    assert [node.op for node in graph.nodes] == ["StringConcat"]
    assert evaluate(graph, x=np.array(["um "], object))[0].tolist() == ["um zwölf"]


def test_sparse_weights_become_dense() -> None:
    proto = model("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }")
    for indices, dims in (([1, 5], [2]), ([[0, 1], [1, 2]], [2, 2])):
        proto.graph.ClearField("sparse_initializer")
        proto.graph.sparse_initializer.append(
            helper.make_sparse_tensor(
                helper.make_tensor("w", TensorProto.FLOAT, [2], [7, 9]),
                helper.make_tensor("", TensorProto.INT64, dims, np.ravel(indices)),
                [2, 3],
            )
        )
        graph = ir.load(proto)
        assert graph.nodes[0].inputs[1].values.tolist() == [[0, 7, 0], [0, 0, 9]]
        assert evaluate(graph, x=np.zeros((2, 3), np.float32))[0].tolist() == [[0, 7, 0], [0, 0, 9]]


def test_a_sparse_constant_node_stays_a_node() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("", TensorProto.FLOAT, [1], [7]), helper.make_tensor("", TensorProto.INT64, [1], [2]), [3]
    )
    proto = model("(float[3] x) => (float[3] y) { y = Add(x, c) }".replace("(x, c)", "(x, x)"))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    proto.graph.node[1].input[1] = "c"
    graph = ir.load(proto)
    assert [node.op for node in graph.nodes] == ["Constant", "Add"]
    assert ir.to_proto(graph).graph.node[0].attribute[0].sparse_tensor == sparse


def test_initializers_listed_as_inputs_are_weights() -> None:
    proto = model(SCALE_UP.replace("float[2] x", "float[2] x, float[2] w"), ir_version=3, w=np.ones(2, np.float32))
    graph = ir.load(proto)
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert evaluate(graph, x=np.ones(2, np.float32))[0].tolist() == [1, 1]


@pytest.mark.parametrize("opset, text", [(6, "Add<axis=0, broadcast=1>(x, w)"), (1, "Mul<broadcast=1, axis=0>(x, w)")])
def test_older_operator_sets_are_raised(opset: int, text: str) -> None:
    proto = model(f"(float[2,3] x) => (float[2,3] y) {{ y = {text} }}", opset=opset, w=np.array([2, 3], np.float32))
    del proto.opset_import[1:]
    proto.metadata_props.add(key="k", value="v")
    graph = ir.load(proto)
    assert graph.opset == 7 and graph.metadata == {"k": "v"}
    rows = evaluate(graph, x=np.ones((2, 3), np.float32))[0][:, 0].tolist()
    assert rows == ([3, 4] if opset == 6 else [2, 3])


@pytest.mark.parametrize("opset", [0, 9999])
def test_operator_sets_out_of_range_are_refused(opset: int) -> None:
    proto = scale_up()
    proto.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"operator set {opset} is not supported .* reads 1 to"):
        ir.load(proto)


def test_a_model_of_custom_operators_only_gets_an_operator_set_that_runtimes_have() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = com.microsoft.QuickGelu(x) }")
    del proto.opset_import[0]
    graph = ir.load(proto)
    assert graph.domains == {"custom": 1, "com.microsoft": 1}
    assert evaluate(graph, x=np.zeros(2, np.float32))[0].tolist() == [0, 0]
    assert graph.opset == 17


def test_functions_are_inlined() -> None:
    functions = """
        <domain: "custom", opset_import: ["": 17, "custom": 1]> Twice (a) => (b) { c = custom.Once(a)  b = Add(c, c) }
        <domain: "custom", opset_import: ["": 17]> Once (a) => (b) { b = Relu(a) }
    """
    graph = ir.load(model("(float[2] x) => (float[2] y) { y = custom.Twice(x) }", functions=functions))
    assert [node.op for node in graph.nodes] == ["Relu", "Add"]
    assert evaluate(graph, x=np.array([-1, 2], np.float32))[0].tolist() == [0, 4]


def test_custom_domains_pass_through_untouched() -> None:
    proto = model(
        '(float[2] x) => (float[2] y) { y = custom.Foo<a = 1, b = [1.5], c = "text", d = ["p", "q"]>(x, , x) }'
    )
    for kind in ("INTS", "FLOATS", "STRINGS", "GRAPHS", "TENSORS"):
        proto.graph.node[0].attribute.add(name=kind, type=onnx.AttributeProto.AttributeType.Value(kind))
    proto.graph.node[0].attribute.add(name="bytes", type=onnx.AttributeProto.STRING, s=b"\xff\x00")
    proto.graph.node[0].attribute.add(name="kind", type=onnx.AttributeProto.TYPE_PROTO, tp=proto.graph.input[0].type)
    proto.graph.node[0].name = "foo"
    saved = ir.to_proto(ir.load(proto))
    assert saved.graph.node[0] == proto.graph.node[0]
    assert {entry.domain: entry.version for entry in saved.opset_import} == {"": 17, "custom": 1, "com.microsoft": 1}


def test_sequences_and_optionals_keep_their_types() -> None:
    text = """(seq(float[N]) s, optional(float[2]) o) => (float[N] y, bool h) {
        i = Constant<value_int = 1>()  y = SequenceAt(s, i)  h = OptionalHasElement(o) }"""
    proto = model(text, opset=18)
    graph = ir.load(proto)
    assert [tensor.dtype for tensor in graph.inputs] == [None, None]
    assert list(ir.to_proto(graph).graph.input) == list(proto.graph.input)
    arrays = [np.zeros(2, np.float32), np.ones(2, np.float32)]
    onnx.checker.check_model(ir.to_proto(graph))
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"s": arrays, "o": None})[0].tolist() == [1, 1]


def test_what_a_file_says_beside_its_nodes_is_kept() -> None:
    proto = scale_up()
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.model_version, proto.domain, proto.doc_string = 5, "org.example", "about the model"
    proto.graph.doc_string = "about the graph"
    proto.metadata_props.add(key="labels", value="a,b")
    saved = ir.to_proto(ir.load(proto))
    for name in ("producer_name", "producer_version", "model_version", "domain", "doc_string", "ir_version"):
        assert getattr(saved, name) == getattr(proto, name), name
    assert saved.graph.doc_string == "about the graph" and saved.graph.name == "agraph"
    assert list(saved.metadata_props) == list(proto.metadata_props)
    assert list(saved.graph.input) == list(proto.graph.input)
    assert list(saved.graph.output) == list(proto.graph.output)


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float64", "bool", "int16", "uint64", "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2",
     "float8_e4m3fnuz", "float8_e8m0fnu", "int4", "uint4", "float4_e2m1fn"],
)  # fmt: skip
@pytest.mark.parametrize("typed_field", [False, True])
def test_weights_of_every_type_survive(tmp_path: Path, dtype: str, typed_field: bool) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = np.array([[0.5, 1, 2], [4, 1, 1], [1, 1, 1]]).astype(kind)
    proto = model("(float[2] x) => (float[2] y) { y = custom.F(x, w) }", opset=23, ir_version=11)
    weight = numpy_helper.from_array(values, "w")
    if typed_field:
        typed = values.reshape(-1) if kind.kind == "c" else values.astype(np.float32).reshape(-1)
        weight = helper.make_tensor(
            "w", weight.data_type, values.shape, typed.astype(kind) if kind.kind == "c" else typed
        )
    proto.graph.initializer.append(weight)
    graph = ir.load(proto)
    loaded = graph.nodes[0].inputs[1].values
    assert loaded.dtype == kind and not loaded.flags.writeable
    assert loaded.astype(np.complex64).tolist() == values.astype(np.complex64).tolist()
    saved = ir.load(ir.save(graph, tmp_path / "m.onnx", external=True)).nodes[0].inputs[1].values
    assert saved.dtype == kind and saved.tobytes() == loaded.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_weights_of_every_shape_survive(shape: tuple[int, ...]) -> None:
    graph = ir.load(model("(float x) => (float y) { y = custom.F(x, w) }", w=np.ones(shape, np.float32)))
    assert ir.load(ir.to_proto(graph)).nodes[0].inputs[1].values.shape == shape


def test_string_weights_survive() -> None:
    texts = np.array([["a", "zwölf"], ["", "漢字"]], object)
    graph = ir.load(model("(string[2,2] x) => (string[2,2] y) { y = StringConcat(x, w) }", opset=20, w=texts))
    assert evaluate(graph, x=np.full((2, 2), "-", object))[0].tolist() == [["-a", "-zwölf"], ["-", "-漢字"]]


def test_nodes_may_stand_in_any_order() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { y = Neg(b)  b = Exp(a)  a = Relu(x) }"))
    assert [node.op for node in graph.nodes] == ["Relu", "Exp", "Neg"]


def test_sorting_moves_nothing_that_stands_well() -> None:
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Exp(x) c = Neg(a) d = Neg(b) y = Add(d, c) }")
    assert [node.output[0] for node in ir.to_proto(ir.load(proto)).graph.node] == ["a", "b", "c", "d", "y"]


def test_nameless_nodes_get_names_and_named_ones_keep_theirs() -> None:
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x)  b = Relu(a)  c = Relu(b)  y = Relu(c) }")
    proto.graph.node[1].name, proto.graph.node[2].name, proto.graph.node[3].name = "Relu_0", "same", "same"
    names = [node.name for node in ir.load(proto).nodes]
    assert names[1:3] == ["Relu_0", "same"]
    assert len(set(names)) == 4 and all(names)


def test_outputs_may_be_inputs_and_weights() -> None:
    proto = model("(float[2] x) => (float[2] y, float[2] x, float[2] w) { y = Add(x, w) }", w=np.ones(2, np.float32))
    graph = ir.load(proto)
    assert graph.outputs[1] is graph.inputs[0] and ir.is_constant(graph.outputs[2])
    results = evaluate(graph, x=np.zeros(2, np.float32))
    assert [result.tolist() for result in results] == [[1, 1], [0, 0], [1, 1]]


def test_a_negative_dimension_means_unknown() -> None:
    proto = model("(float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert ir.load(proto).inputs[0].shape == [None, 2]


def test_types_of_values_in_between_are_read() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) <float16[2] h> { h = Cast<to = 10>(x)  y = Cast<to = 1>(h) }"))
    assert tensor(graph, "h").dtype == np.float16 and tensor(graph, "h").shape == [2]
    assert "float16" not in body(graph) and evaluate(graph, x=np.ones(2, np.float32))[0].tolist() == [1, 1]
