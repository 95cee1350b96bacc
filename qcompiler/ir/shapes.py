"""Shapes and dtypes of every tensor, by ONNX's own shape inference on the model without its large weights."""

from __future__ import annotations

import onnx
from onnx import helper, shape_inference

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Variable, all_graphs, clone
from qcompiler.ir.save import to_proto

_LARGEST_SHAPE_OPERAND = 4096


def infer_shapes(graph: Graph, *, strict: bool = False) -> None:
    """Fills in ``dtype`` and ``shape`` of the graph's variables at every depth, in place, where they can be known.

    Weights above a few thousand elements are stood in for by inputs of their type: they decide no shape. What ONNX
    cannot infer stays as it was; with ``strict`` a contradiction raises ModelError.
    """
    skeleton = clone(graph)
    stand_ins: dict[str, Variable] = {}
    for inner in all_graphs(skeleton):
        for node in inner.nodes:
            for index, tensor in enumerate(node.inputs):
                if isinstance(tensor, Constant) and tensor.values.size > _LARGEST_SHAPE_OPERAND:
                    stand_in = stand_ins.setdefault(
                        tensor.name, Variable(tensor.name, dtype=tensor.values.dtype, shape=list(tensor.values.shape))
                    )
                    node.inputs[index] = stand_in
    skeleton.inputs = [*skeleton.inputs, *stand_ins.values()]
    try:
        inferred = shape_inference.infer_shapes(to_proto(skeleton), strict_mode=strict, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        if strict:
            raise ModelError("shapes contradict each other", where=graph.name, why=str(error)) from None
        return
    known: dict[str, onnx.TypeProto] = {}
    _collect(inferred.graph, known)
    for inner in all_graphs(graph):
        for tensor in [*inner.outputs, *(t for node in inner.nodes for t in node.outputs)]:
            found = known.get(tensor.name)
            if isinstance(tensor, Variable) and found is not None and found.WhichOneof("value") == "tensor_type":
                _apply(tensor, found.tensor_type)


def _collect(proto: onnx.GraphProto, known: dict[str, onnx.TypeProto]) -> None:
    for value in (*proto.value_info, *proto.output):
        known.setdefault(value.name, value.type)
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _collect(attribute.g, known)


def _apply(tensor: Variable, found: onnx.TypeProto.Tensor) -> None:
    if found.elem_type:
        tensor.dtype = helper.tensor_dtype_to_np_dtype(found.elem_type)
    if found.HasField("shape"):
        tensor.shape = [
            d.dim_value if d.WhichOneof("value") == "dim_value" else (d.dim_param or None) for d in found.shape.dim
        ]
