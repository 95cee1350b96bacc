"""Small models for calibration: plain, and with tensors inside bodies."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from qcompiler import ir

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def graph(text: str, **weights: np.ndarray) -> ir.Graph:
    model = parser.parse_model(f"{HEADER} {text}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return ir.load(model)


def chain() -> ir.Graph:
    """x -> square -> root"""
    return graph("g (float[N, 3] x) => (float[N, 3] root) { square = Mul(x, x) root = Sqrt(square) }")


def branches() -> ir.Graph:
    """y = 2x where the sum is positive, else x - 1; the branch's own tensors are 'doubled' and 'lowered'."""
    return graph(
        """g (float[N] x) => (float[M] y) {
            total = ReduceSum <keepdims = 0> (x)
            zero = Constant <value = float {0.0}> ()
            positive = Greater(total, zero)
            y = If (positive) <
                then_branch = a () => (float[N] doubled) { doubled = Add(x, x) },
                else_branch = b () => (float[N] lowered) {
                    one = Constant <value = float {1.0}> ()
                    lowered = Sub(x, one)
                }
            >
        }"""
    )


def loop(op: str = "Add", **attributes: int) -> ir.Graph:
    """last = 2^3 x; 'next' is computed three times."""
    trip = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    after = helper.make_tensor_value_info("next", TensorProto.FLOAT, ["M"])
    doubling = helper.make_node(op, ["value", "value"], ["next"], **attributes)
    nodes = [helper.make_node("Identity", ["go"], ["going"]), doubling]
    body = helper.make_graph(nodes, "body", [trip, go, value], [going, after])
    return _outer(helper.make_node("Loop", ["three", "", "x"], ["last"], body=body), ["N"], ["M"])


def scan() -> ir.Graph:
    """Running sums of the rows of x; 'total' is computed for each row."""
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [3])
    before = helper.make_tensor_value_info("before", TensorProto.FLOAT, [3])
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [3])
    copied = helper.make_tensor_value_info("copied", TensorProto.FLOAT, [3])
    nodes = [helper.make_node("Add", ["before", "row"], ["total"]), helper.make_node("Identity", ["total"], ["copied"])]
    body = helper.make_graph(nodes, "body", [before, row], [total, copied])
    node = helper.make_node(
        "Scan", ["start", "x"], ["last", "sums"], body=body, num_scan_inputs=1, scan_output_axes=[0],
        scan_output_directions=[0],
    )  # fmt: skip
    return _outer(node, ["N", 3], [3])


def _outer(node: onnx.NodeProto, shape: list[int | str], result: list[int | str] | None = None) -> ir.Graph:
    weights = {"three": np.array(3, np.int64), "start": np.zeros(3, np.float32)}
    outer = helper.make_graph(
        [node],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, result or shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in node.input],
    )
    return ir.load(helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
