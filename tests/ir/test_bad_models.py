"""What is no sound model is refused in one line that says what, where and what to do."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir.programs import external, model
from onnx import TensorProto, helper

from qcompiler import ir
from qcompiler.errors import ModelError, QCompilerError

ADD = "(float[2] x) => (float[2] y) { y = Add(x, w) }"


def refusal(source: object) -> str:
    with pytest.raises(ModelError) as caught:
        ir.load(source)
    assert caught.value.what and caught.value.where and caught.value.fix
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "not an ONNX model (it has no graph or no operator set)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
        (b"# a text file\n", "not an ONNX model"),
        (model(ADD, w=np.ones(2, np.float32)).SerializeToString()[:-9], "not an ONNX model, or cut short"),
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, data: bytes, said: str) -> None:
    path = written(tmp_path, data)
    assert refusal(path).startswith(f"{path}: {said}")


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.onnx") == f"{tmp_path / 'none.onnx'}: no such file; check the path"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not an ONNX file; name the .onnx file in it"


@pytest.mark.parametrize(
    "text, said",
    [
        ("(float[2] x) => (float[2] y) { a = Add(x, b)  b = Relu(a)  y = Neg(a) }", "the graph has a cycle"),
        ("(float[2] x) => (float[2] y) { y = Add(x, y) }", "the graph has a cycle"),
        ("(float[2] x) => (float[2] y) { y = Add(x, ghost) }", "input 'ghost' is never computed"),
        ("(float[2] x) => (float[2] y) { z = Relu(x) }", "output 'y' is never computed"),
        ("(float[2] x) => (float[2] y) { y = Relu(x)  y = Neg(x) }", "tensor 'y' is defined twice"),
        ("(float[2] x) => (float[2] x) { x = Relu(x) }", "tensor 'x' is defined twice"),
        ("(float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }", "tensor 'x' is defined twice"),
    ],
)
def test_broken_graphs(text: str, said: str) -> None:
    assert said in refusal(model(text))


def test_a_broken_graph_of_an_old_operator_set() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Add(x, ghost) }", opset=6)
    assert "cannot be raised to operator set 7 (Input ghost is undefined!)" in refusal(proto)


def test_a_cycle_names_its_nodes() -> None:
    proto = model("(float[2] x) => (float[2] y) { a = Add(x, b)  b = Relu(a)  y = Neg(a) }")
    proto.graph.node[0].name, proto.graph.node[1].name = "first", "second"
    assert "first -> second" in refusal(proto)


def test_weights_defined_twice() -> None:
    proto = model(ADD, w=np.ones(2, np.float32))
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert "weight 'w' is defined 2 times" in refusal(proto)


def test_a_dangling_input_names_its_node() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Add(x, ghost) }")
    proto.graph.node[0].name = "adder"
    assert refusal(proto) == "agraph: node 'adder': input 'ghost' is never computed; export the model again"


@pytest.mark.parametrize("dims", [[3], [2, 2], [1 << 40], [1 << 62, 1 << 62], [-1], [2, -1]])
@pytest.mark.parametrize("kind", ["raw", "typed", "external"])
def test_shapes_that_the_data_do_not_fill(tmp_path: Path, dims: list[int], kind: str) -> None:
    proto = model(ADD, w=np.ones(2, np.float32))
    source: object = proto
    if kind == "typed":
        proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0]))
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    if kind == "external":
        source = external(proto, tmp_path)
    assert "weight 'w'" in refusal(source)


def test_a_shape_with_a_zero_and_an_absurd_dimension() -> None:
    proto = model(ADD, w=np.ones(0, np.float32))
    proto.graph.initializer[0].dims[:] = [0, 1 << 62, 1 << 62]
    assert "weight 'w'" in refusal(proto)


@pytest.mark.parametrize("element_type", [0, 99])
@pytest.mark.parametrize("where", ["raw", "external", "input"])
def test_unknown_element_types(tmp_path: Path, element_type: int, where: str) -> None:
    proto = model(ADD, w=np.ones(2, np.float32))
    if where == "input":
        proto.graph.input[0].type.tensor_type.elem_type = element_type or 99
    else:
        proto.graph.initializer[0].data_type = element_type
    source = external(proto, tmp_path) if where == "external" else proto
    assert "unknown element type" in refusal(source)


@pytest.mark.parametrize("indices", [[9], [-1], [0, 1]])
def test_sparse_indices_outside_the_shape(indices: list[int]) -> None:
    proto = model(ADD)
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("w", TensorProto.FLOAT, [1], [7]),
        helper.make_tensor("", TensorProto.INT64, [len(indices)], indices),
        [2],
    )
    proto.graph.sparse_initializer.append(sparse)
    if indices != [0, 1]:
        assert "indices that do not fit" in refusal(proto)
    sparse.dims[:] = [1 << 31, 1 << 31]
    proto.graph.sparse_initializer[0].CopyFrom(sparse)
    assert "too large to be written out" in refusal(proto)


def test_claimed_sizes_cost_nothing(tmp_path: Path) -> None:
    proto = model(ADD, w=np.ones(2, np.float32))
    proto.graph.initializer[0].dims[:] = [1 << 33]
    path = external(proto, tmp_path, length=1 << 35)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize("changed", [
    {"offset": -4}, {"offset": 4}, {"offset": 1 << 60}, {"offset": "four"}, {"length": 4}, {"length": -8},
    {"length": 1 << 60}, {"length": "9" * 5000}, {"offset": -(1 << 70)},
])  # fmt: skip
def test_external_data_of_wrong_size(tmp_path: Path, changed: dict[str, object]) -> None:
    path = external(model(ADD, w=np.ones(2, np.float32)), tmp_path, **changed)
    assert f"{path}: weight 'w': external data" in refusal(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin", "link.bin", "loop"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "loop").symlink_to(folder / "loop")
    path = external(model(ADD, w=np.ones(2, np.float32)), folder, location=location)
    said = refusal(path)
    assert "lies outside the model's folder" in said or "loop" in said


@pytest.mark.parametrize("location", ["absent.bin", "", ".", "sub", "a\0b", "n" * 5000, "pipe"])
def test_external_data_that_is_no_file(tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = external(model(ADD, w=np.ones(2, np.float32)), tmp_path, location=location)
    assert "weight 'w': external data" in refusal(path)


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    path = external(model(ADD, w=np.ones(2, np.float32)), tmp_path)
    assert "its data is in another file" in refusal(onnx.load(path, load_external_data=False))


def test_text_cannot_be_external(tmp_path: Path) -> None:
    proto = model(ADD, w=np.ones(2, np.float32))
    proto.graph.initializer[0].data_type = TensorProto.STRING
    assert "is text" in refusal(external(proto, tmp_path))


def test_recursive_functions() -> None:
    functions = '<domain: "custom", opset_import: ["custom": 1]> Again (a) => (b) { b = custom.Again(a) }'
    said = refusal(model("(float[2] x) => (float[2] y) { y = custom.Again(x) }", functions=functions))
    assert "functions cannot be inlined" in said


def test_subgraphs_nested_beyond_reason() -> None:
    proto = model("(float[2] x, bool c) => (float[2] y) { y = Relu(x) }")
    graph = proto.graph
    for depth in range(2000):
        node = graph.node.add(op_type="If", input=["c"], output=[f"r{depth}"])
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    with pytest.raises(ModelError, match="subgraphs are nested too deep"):
        ir.load(proto)


def sample() -> bytes:
    """A model with something of everything that the loader reads."""
    proto = model(
        """(float[N, 2] x, bool c) => (float[N, 2] y, float[N, 2] z) <float[N, 2] a>
        { a = Add(x, w)  k = Constant<value = float[2] {1.0, 2.0}>()
          y = custom.F<i = 1, f = 1.5, s = "t", l = [1, 2]>(a, k)
          z = If(c) <then_branch = t () => (float[N, 2] p) { p = Mul(a, v) }, else_branch = e () => (float[N, 2] q)
          { q = Identity(a) }> }""",
        w=np.ones(2, np.float32),
        v=np.ones(2, np.float32),
    )
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            helper.make_tensor("s", TensorProto.FLOAT, [1], [7]),
            helper.make_tensor("", TensorProto.INT64, [1], [1]),
            [4],
        )
    )
    proto.metadata_props.add(key="a", value="b")
    return proto.SerializeToString()


SAMPLE = sample()


def loads_or_says_why(data: bytes) -> None:
    try:
        graph = ir.load(data)
    except QCompilerError as error:
        assert "\n" not in str(error)
    else:
        ir.check_structure(graph)
        ir.to_proto(ir.clone(graph))


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_a_graph_or_a_reason(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for position, value in changes:
        data[position] = value
    loads_or_says_why(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SAMPLE)), st.integers(0, len(SAMPLE)))
def test_missing_bytes_give_a_graph_or_a_reason(start: int, end: int) -> None:
    loads_or_says_why(SAMPLE[:start] + SAMPLE[end:])


def test_an_old_model_that_states_no_version_of_a_domain_says_why() -> None:
    model = onnx.ModelProto.FromString(SAMPLE)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=1)
    with pytest.raises(ModelError, match="cannot be raised to operator set"):
        ir.load(model.SerializeToString())


def test_the_sample_itself_loads() -> None:
    graph = ir.load(SAMPLE)
    assert [node.op for _, node in ir.all_nodes(graph)] == ["Add", "F", "If", "Mul", "Identity"]


@pytest.mark.parametrize("inputs", [[], ["x"]])
def test_a_loop_with_fewer_inputs_than_it_must_have(inputs: list[str]) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    proto = helper.make_graph([helper.make_node("Loop", inputs, ["y"], "loop")], "agraph", [value], [result])
    graph = ir.load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    ir.infer_shapes(graph)  # nothing is learned
    with pytest.raises(ModelError, match="agraph: shapes contradict each other"):
        ir.infer_shapes(graph, strict=True)
