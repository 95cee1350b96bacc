"""Models of one operator of the native library."""

from __future__ import annotations

from onnx import TensorProto, helper

from qcompiler import native


def observing_model(table: int, slot: int = 0, element: int = TensorProto.FLOAT) -> bytes:
    """X, of any shape, into slot ``slot`` of table ``table``; Y is the number of elements."""
    node = helper.make_node("Observe", ["X"], ["Y"], domain=native.DOMAIN, table=table, slot=slot)
    graph = helper.make_graph(
        [node],
        "observe",
        [helper.make_tensor_value_info("X", element, None)],
        [helper.make_tensor_value_info("Y", TensorProto.INT64, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
