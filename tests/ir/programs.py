"""Small models in ONNX's text syntax, and what ONNX Runtime computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper, parser, printer

from qcompiler import ir


def model(text: str, opset: int = 17, ir_version: int = 8, functions: str = "", **weights: Any) -> onnx.ModelProto:
    """``(float[2] x) => (float[2] y) { y = Add(x, w) }`` with ``w`` among the weights."""
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "custom": 1, "com.microsoft": 1]>'
    proto = parser.parse_model(f"{header} agraph {text} {functions}")
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return proto


def body(graph: ir.Graph) -> str:
    """The graph's nodes as ONNX prints them, one a line, without the weights."""
    proto = ir.to_proto(graph)
    return "\n".join(printer.to_text(node).strip() for node in proto.graph.node)


def evaluate(source: ir.Graph | onnx.ModelProto | Path, **feeds: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if isinstance(source, ir.Graph):
        source = ir.to_proto(source)
    if isinstance(source, onnx.ModelProto):
        onnx.checker.check_model(source)
        loaded = ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    else:
        loaded = ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return loaded.run(None, {name: np.asarray(value) for name, value in feeds.items()})


def tensor(graph: ir.Graph, name: str) -> ir.Tensor:
    return ir.all_tensors(graph)[name]


def external(
    proto: onnx.ModelProto, folder: Path, location: str = "weights.bin", offset: int | str | None = 0, **changed: Any
) -> Path:
    """Writes the model with its first initializer moved to a file; ``changed`` overrides what is stated about it."""
    weight = proto.graph.initializer[0]
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    stated = {"location": location, "offset": offset, "length": len(data), **changed}
    for key, value in stated.items():
        if value is not None:
            weight.external_data.add(key=key, value=str(value))
    (folder / "weights.bin").write_bytes(data)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path
