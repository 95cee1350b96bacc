"""The questions and edits that passes rely on."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from ir.programs import body, evaluate, model, tensor

from qcompiler import ir
from qcompiler.errors import ModelError

CHAIN = "(float[2] x) => (float[2] y) { a = Relu(x)  b = Add(a, w)  y = Neg(b) }"
ONES = np.ones(2, np.float32)


def chain() -> ir.Graph:
    return ir.load(model(CHAIN, w=ONES))


def test_nodes_and_tensors_are_equal_only_to_themselves() -> None:
    one, other = chain(), chain()
    assert one.nodes[0] != other.nodes[0] and one.nodes[0].outputs[0] != other.nodes[0].outputs[0]
    assert len({*one.nodes, *other.nodes}) == 6


def test_a_clone_shares_weights_and_nothing_else() -> None:
    graph = chain()
    graph.nodes[0].attrs["values"] = ir.Constant("c", ONES)
    copy = ir.clone(graph)
    assert copy.nodes[1].inputs[1].values is graph.nodes[1].inputs[1].values
    mine = {*graph.nodes, *ir.all_tensors(graph).values(), graph.nodes[0].attrs["values"]}
    assert not mine & {*copy.nodes, *ir.all_tensors(copy).values(), copy.nodes[0].attrs["values"]}
    assert body(copy) == body(graph)


def test_a_clone_keeps_what_stands_beside_the_nodes() -> None:
    graph = chain()
    graph.metadata, graph.domains, graph.model_version, graph.doc_string = {"k": "v"}, {"custom": 3}, 4, "text"
    assert ir.to_proto(ir.clone(graph)) == ir.to_proto(graph)


def test_changing_a_clone_leaves_the_original() -> None:
    graph = chain()
    before = body(graph)
    copy = ir.clone(graph)
    ir.detach(copy.nodes.pop())
    copy.nodes[0].attrs["alpha"] = 1.0
    copy.inputs[0].shape[0] = 9
    assert body(graph) == before and graph.inputs[0].shape == [2]


def test_a_variable_becomes_a_constant_and_back() -> None:
    graph = chain()
    a = tensor(graph, "a")
    ir.detach(graph.nodes.pop(0))
    a.to_constant(ONES * 5)
    assert ir.is_constant(a) and isinstance(a, ir.Constant)
    ir.check_structure(graph)
    assert evaluate(graph, x=ONES)[0].tolist() == [-6, -6]
    a.to_variable(np.float32, [2])
    assert isinstance(a, ir.Variable) and a.type_proto is None


def test_a_namer_gives_each_name_once() -> None:
    namer = ir.Namer(chain())
    assert [namer("a"), namer("a"), namer("new"), namer("new")] == ["a_1", "a_2", "new", "new_1"]


def test_rerouting_past_a_node_keeps_the_names_of_outputs() -> None:
    graph = chain()
    assert ir.reroute(tensor(graph, "y"), tensor(graph, "b"), graph)
    ir.remove_dead(graph)
    assert [output.name for output in graph.outputs] == ["y"]
    assert [node.op for node in graph.nodes] == ["Relu", "Add"]
    assert evaluate(graph, x=ONES)[0].tolist() == [2, 2]


@pytest.mark.parametrize("new", ["x", "w"])
def test_rerouting_an_output_to_an_input_or_a_weight_is_refused(new: str) -> None:
    graph = chain()
    before = body(graph)
    assert not ir.reroute(tensor(graph, "y"), tensor(graph, new), graph)
    assert body(graph) == before


def test_rerouting_one_output_to_another_is_refused() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Identity(y) }"))
    assert not ir.reroute(tensor(graph, "z"), tensor(graph, "y"), graph)


def test_replacing_uses_at_every_place_of_a_node() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { a = Relu(x)  y = Add(a, a) }"))
    ir.replace_uses(tensor(graph, "a"), tensor(graph, "x"), graph)
    assert ir.remove_dead(graph) == 1
    assert evaluate(graph, x=-ONES)[0].tolist() == [-2, -2]


def test_dead_nodes_go_in_chains_and_live_ones_stay() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(a)  c = Neg(b)  y = Relu(x) }"))
    assert ir.remove_dead(graph) == 3
    assert [node.op for node in graph.nodes] == ["Relu"] and [n.op for n in tensor(graph, "x").outputs] == ["Relu"]


def test_a_node_with_one_output_read_is_alive() -> None:
    graph = ir.load(model("(float[4] x) => (float[2] y) { a, b = Split<num_outputs = 2>(x)  y = Relu(b) }", opset=18))
    assert ir.remove_dead(graph) == 0


def test_sort_names_a_cycle() -> None:
    graph = chain()
    graph.nodes[0].inputs[0] = tensor(graph, "b")
    with pytest.raises(ModelError, match="Relu_0 -> Add_1"):
        ir.sort(graph)


def test_plain_graphsurgeon_objects_are_adopted() -> None:
    graph = chain()
    add = graph.nodes[1]
    middle = gs.Variable("middle")
    graph.nodes.append(gs.Node("Mul", inputs=[add.outputs[0], gs.Constant("three", ONES * 3)], outputs=[middle]))
    graph.nodes[2].inputs[0] = middle
    ir.adopt(graph)
    ir.check_structure(graph)
    assert isinstance(middle, ir.Variable) and isinstance(graph.nodes[-1], ir.Node) and graph.nodes[-1].name == "Mul"
    ir.sort(graph)
    assert evaluate(graph, x=ONES)[0].tolist() == [-6, -6]


def test_a_plain_graph_in_an_attribute_is_adopted() -> None:
    graph = ir.load(model("(float[2] x, bool c) => (float[2] y) { y = Relu(x) }"))
    result = gs.Variable("p", np.float32, [2])
    branch = gs.Graph([gs.Node("Neg", inputs=[graph.inputs[0]], outputs=[result])], outputs=[result], name="branch")
    choice = gs.Node("If", inputs=[graph.inputs[1]], outputs=[gs.Variable("z", np.float32, [2])])
    choice.attrs.update(then_branch=branch, else_branch=branch.copy())
    choice.attrs["else_branch"].nodes[0].outputs[0].name = "q"
    graph.nodes.append(choice)
    graph.outputs.append(choice.outputs[0])
    ir.adopt(graph)
    names = {type(inner) for inner in ir.all_graphs(graph)}
    assert names == {ir.Graph} and all(isinstance(node, ir.Node) and node.name for _, node in ir.all_nodes(graph))


def test_shapes_are_inferred_at_every_depth() -> None:
    text = """(float[2, N] x, bool c) => (float[A, B] y) { t = Transpose(x)  y = If(c) <
        then_branch = th () => (float[A, B] p) { s = Relu(t)  p = Neg(s) },
        else_branch = el () => (float[A, B] q) { q = Identity(t) }> }"""
    graph = ir.load(model(text))
    for inner in ir.all_graphs(graph):
        for output in inner.outputs:
            output.shape = None
    ir.infer_shapes(graph)
    assert tensor(graph, "t").shape == ["N", 2] and tensor(graph, "s").dtype == np.float32
    assert tensor(graph, "s").shape == ["N", 2] and tensor(graph, "y").shape == ["N", 2]


def test_shapes_that_hang_on_values_and_large_weights() -> None:
    text = "(float[6, 2] x) => (float y) { r = Reshape(x, s)  y = MatMul(r, w) }"
    graph = ir.load(model(text, s=np.array([3, 4]), w=np.zeros((4, 5000), np.float32)))
    ir.infer_shapes(graph)
    assert tensor(graph, "r").shape == [3, 4]
    assert isinstance(graph.nodes[1].inputs[1], ir.Constant) and [t.name for t in graph.inputs] == ["x"]


def test_sequences_get_their_type() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { s = SequenceConstruct(x)  i = Constant<value_int = 0>()"
                          " y = SequenceAt(s, i) }"))  # fmt: skip
    ir.infer_shapes(graph)
    sequence = tensor(graph, "s")
    assert sequence.dtype is None and sequence.type_proto.WhichOneof("value") == "sequence_type"


def test_shapes_that_contradict_each_other() -> None:
    graph = ir.load(model("(float[2] x, float[3] z) => (float[2] y) { y = Add(x, z) }"))
    ir.infer_shapes(graph)
    with pytest.raises(ModelError, match="shapes contradict each other"):
        ir.infer_shapes(graph, strict=True)
