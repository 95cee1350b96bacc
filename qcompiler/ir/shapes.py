"""Shapes and dtypes of every tensor, by ONNX's own shape inference on the model without its large weights."""

from __future__ import annotations

import math

import onnx
import onnx.checker
from onnx import helper, shape_inference

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Variable, all_graphs, clone
from qcompiler.ir.save import to_proto

_LARGEST_SHAPE_OPERAND = 4096


def infer_shapes(graph: Graph, *, strict: bool = False) -> None:
    """Fills in ``dtype`` and ``shape`` of the graph's variables at every depth, in place, where they can be known;
    of sequences and optionals ``type_proto``.

    What ONNX cannot infer stays as it was; with ``strict`` a contradiction raises ModelError.
    """
    try:
        inferred = shape_inference.infer_shapes(to_proto(skeleton(graph)), strict_mode=strict, data_prop=True)
    # A Loop with fewer inputs than it must have ends in a ValueError.
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        if strict:
            raise ModelError("shapes contradict each other", where=graph.name, why=str(error)) from None
        return
    known: dict[str, onnx.TypeProto] = {}
    _collect(inferred.graph, known)
    for inner in all_graphs(graph):
        for tensor in [*inner.outputs, *(t for node in inner.nodes for t in node.outputs)]:
            found = known.get(tensor.name)
            kind = found.WhichOneof("value") if found is not None else None
            if not isinstance(tensor, Variable) or found is None or kind is None:
                continue
            if kind == "tensor_type":
                _apply(tensor, found.tensor_type)
            elif tensor.dtype is None and tensor.type_proto is None:
                tensor.type_proto = found


def skeleton(graph: Graph) -> Graph:
    """A copy in which inputs of their type stand in for the large weights: enough for every question but values."""
    copy = clone(graph)
    stand_ins: dict[str, Variable] = {}
    for inner in all_graphs(copy):
        for node in inner.nodes:
            for index, tensor in enumerate(node.inputs):
                if isinstance(tensor, Constant) and math.prod(tensor.shape) > _LARGEST_SHAPE_OPERAND:
                    stand_in = stand_ins.setdefault(
                        tensor.name, Variable(tensor.name, dtype=tensor.dtype, shape=list(tensor.shape))
                    )
                    node.inputs[index] = stand_in
    copy.inputs = [*copy.inputs, *stand_ins.values()]
    return copy


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
