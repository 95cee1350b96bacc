"""From an ONNX file, or an object that holds one, to a ``Graph``. Weights of external files stay memory-mapped.

A model file is untrusted: external data must lie inside the model's folder, and every size is checked against the
bytes that are really there before anything of that size is made.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Node, Variable, adopt, clone, sort

OLDEST_OPSET = 7
"""Before opset 7 operators meant something else (explicit broadcasting, legacy attributes); ONNX's own converter raises
such models to it."""


def load(model: object) -> Graph:
    """A new graph from a path, ``ModelProto``, serialized bytes, torch ``ONNXProgram``, ``onnx_ir.Model`` or
    graphsurgeon graph. The argument is not changed.

    Raises:
        ModelError: the file or object is not a sound ONNX model.
    """
    if isinstance(model, Graph):
        return clone(model)
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(model))
    if isinstance(model, bytes):
        return _from_proto(_parse(model, "the given bytes"), None)
    if isinstance(model, onnx.ModelProto):
        return _from_proto(model, None)
    if isinstance(model, gs.Graph):
        return _from_proto(gs.export_onnx(model, do_type_check=False), None)
    proto = getattr(model, "model_proto", None)  # torch.onnx.ONNXProgram
    if isinstance(proto, onnx.ModelProto):
        return _from_proto(proto, None)
    if type(model).__module__.split(".")[0] == "onnx_ir":
        import onnx_ir

        if isinstance(model, onnx_ir.Model):
            return _from_proto(onnx_ir.to_proto(model), None)
    raise ModelError(
        f"cannot read a model from {type(model).__name__}",
        fix="pass a path, onnx.ModelProto, torch ONNXProgram, onnx_ir.Model or onnx_graphsurgeon.Graph",
    )


def _from_path(path: Path) -> Graph:
    where = str(path)
    if path.is_dir():
        raise ModelError("is a folder, not an ONNX file", where=where, fix="name the .onnx file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError("no such file", where=where, fix="check the path") from None
    except OSError as error:
        raise ModelError("cannot be read", where=where, why=error.strerror or str(error)) from None
    proto = _parse(data, where)
    del data
    return _from_proto(proto, path)


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError("not an ONNX model, or cut short", where=where, fix="download or export it again") from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(
            "not an ONNX model",
            where=where,
            why="it has no graph or no operator set",
            fix="download or export it again",
        )
    return proto


def _from_proto(proto: onnx.ModelProto, path: Path | None) -> Graph:
    where = str(path) if path else proto.graph.name or "model"
    if not proto.HasField("graph"):
        raise ModelError("holds no graph", where=where)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        opsets[domain] = max(entry.version, opsets.get(domain, 0))
    newest = onnx.defs.onnx_opset_version()
    opset = opsets.pop("", newest)
    if not 1 <= opset <= newest:
        raise ModelError(
            f"operator set {opset} is not supported",
            where=where,
            why=f"this version reads 1 to {newest}",
            fix="upgrade the onnx package" if opset > newest else "export the model again",
        )
    body = proto.graph
    if opset < OLDEST_OPSET:
        body, opset = _raised(proto, where).graph, OLDEST_OPSET
    reader = _Reader(path, where)
    graph = reader.graph(body, {})
    graph.opset, graph.domains, graph.ir_version = opset, opsets, proto.ir_version
    graph.producer_name, graph.producer_version = proto.producer_name, proto.producer_version
    graph.model_version, graph.model_domain, graph.model_doc = proto.model_version, proto.domain, proto.doc_string
    graph.metadata = {entry.key: entry.value for entry in proto.metadata_props}
    graph.sources = tuple(p for p in (path, *reader.maps) if p is not None)
    adopt(graph)
    sort(graph)
    return graph


def _raised(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"cannot be raised to operator set {OLDEST_OPSET}",
            where=where,
            why=str(error),
            fix="export it with a newer opset",
        ) from None


class _Reader:
    """Walks a GraphProto. ``scope`` maps the names visible at a place to their tensors."""

    def __init__(self, path: Path | None, where: str) -> None:
        self.folder = path.parent.resolve() if path else None
        self.where = where
        self.maps: dict[Path, np.memmap] = {}
        self.tensor_names: set[str] = set()
        self.node_names: set[str] = set()

    def unique(self, name: str, taken: set[str]) -> str:
        fresh, count = name, 1
        while fresh in taken:
            fresh, count = f"{name}_{count}", count + 1
        taken.add(fresh)
        return fresh

    def graph(self, proto: onnx.GraphProto, outer: dict[str, Any]) -> Graph:
        scope = dict(outer)
        local: dict[str, Any] = {}
        info = {value.name: value for value in (*proto.value_info, *proto.output)}

        def define(name: str, tensor: Any) -> Any:
            if name in local:
                raise ModelError(f"tensor '{name}' is defined twice", where=self.where, fix="export the model again")
            tensor.name = self.unique(name, self.tensor_names)
            scope[name] = local[name] = tensor
            return tensor

        result = Graph(name=proto.name, doc_string=proto.doc_string)
        constants = {}
        for weight in proto.initializer:
            constants[weight.name] = self.constant(weight, weight.name)
        for sparse in proto.sparse_initializer:
            dense = self.sparse(sparse)
            constants[sparse.values.name] = Constant(sparse.values.name, dense)
        for value in proto.input:
            if value.name in constants:
                continue  # IR version 3 lists every initializer among the inputs: a default that nobody overrides
            result.inputs.append(define(value.name, self.variable(value)))
        for name, constant in constants.items():
            define(name, constant)
        for node in proto.node:  # nodes may come in any order: define all outputs before linking inputs
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                values = self.constant_node(node)
                if values is not None:
                    define(node.output[0], Constant(node.output[0], values))
                    continue
            for name in node.output:
                if name:
                    define(name, self.variable(info[name]) if name in info else Variable(name))
        for node in proto.node:
            if not (node.op_type == "Constant" and node.output and isinstance(scope.get(node.output[0]), Constant)):
                result.nodes.append(self.node(node, scope))
        for value in proto.output:
            if value.name not in scope:
                raise ModelError(
                    f"output '{value.name}' is never computed", where=self.where, fix="export the model again"
                )
            result.outputs.append(scope[value.name])
        return result

    def node(self, proto: onnx.NodeProto, scope: dict[str, Any]) -> Node:
        inputs = []
        for name in proto.input:
            if name and name not in scope:
                raise ModelError(
                    f"input '{name}' is never computed",
                    where=f"{self.where}: node '{proto.name or proto.op_type}'",
                    fix="export the model again",
                )
            inputs.append(scope[name] if name else Variable(""))
        outputs = [scope[name] if name else Variable("") for name in proto.output]
        attrs = OrderedDict((a.name, self.attribute(a, scope)) for a in proto.attribute)
        name = self.unique(proto.name or f"{proto.op_type}_{len(self.node_names)}", self.node_names)
        domain = None if proto.domain in ("", "ai.onnx") else proto.domain
        return Node(proto.op_type, name, attrs, inputs=inputs, outputs=outputs, domain=domain)

    def attribute(self, proto: AttributeProto, scope: dict[str, Any]) -> Any:
        kind = proto.type
        if kind == AttributeProto.FLOAT:
            return proto.f
        if kind == AttributeProto.INT:
            return proto.i
        if kind == AttributeProto.STRING:
            try:
                return proto.s.decode()
            except UnicodeDecodeError:
                return proto
        if kind == AttributeProto.FLOATS and proto.floats:
            return list(proto.floats)
        if kind == AttributeProto.INTS and proto.ints:
            return list(proto.ints)
        if kind == AttributeProto.STRINGS and proto.strings:
            return [s.decode(errors="surrogateescape") for s in proto.strings]
        if kind == AttributeProto.TENSOR:
            return self.constant(proto.t, proto.t.name or proto.name)
        if kind == AttributeProto.GRAPH:
            return self.graph(proto.g, scope)
        if kind == AttributeProto.GRAPHS:
            return [self.graph(g, scope) for g in proto.graphs]
        return proto  # empty lists keep their type; sparse tensors and types pass through untouched

    def variable(self, value: onnx.ValueInfoProto) -> Variable:
        kind = value.type
        if kind.WhichOneof("value") not in ("tensor_type", None):
            return Variable(value.name, type_proto=kind)
        tensor = kind.tensor_type
        dtype = numpy_dtype(tensor.elem_type) if tensor.elem_type else None
        shape: list[Any] | None = None
        if tensor.HasField("shape"):
            shape = [
                d.dim_value if d.WhichOneof("value") == "dim_value" else (d.dim_param or None) for d in tensor.shape.dim
            ]
        return Variable(value.name, dtype=dtype, shape=shape)

    def constant(self, proto: TensorProto, name: str) -> Constant:
        if proto.data_location == TensorProto.EXTERNAL:
            values = self.external(proto)
        else:
            values = self.embedded(proto)
        values.flags.writeable = False
        return Constant(name, values)

    def embedded(self, proto: TensorProto) -> np.ndarray:
        shape = tuple(proto.dims)
        where = f"{self.where}: weight '{proto.name}'"
        if any(d < 0 for d in shape):
            raise ModelError(f"has shape {list(shape)}", where=where, fix="export the model again")
        dtype = numpy_dtype(proto.data_type)
        if proto.data_type != TensorProto.STRING:
            count = int(np.prod(shape, dtype=object)) if shape else 1
            if proto.HasField("raw_data"):
                expected, present = _byte_count(proto.data_type, count), len(proto.raw_data)
            else:
                field = helper.tensor_dtype_to_field(proto.data_type)
                present = len(getattr(proto, field))
                expected = _field_count(proto.data_type, count)
            if expected != present:
                raise ModelError(
                    f"should hold {expected} values of {dtype}, holds {present}", where=where, fix="download it again"
                )
            if proto.HasField("raw_data") and _byte_count(proto.data_type, 2) == 2 * dtype.itemsize:
                return np.frombuffer(proto.raw_data, dtype=dtype).reshape(shape)
        try:
            return np.array(numpy_helper.to_array(proto))
        except (ValueError, TypeError) as error:
            raise ModelError("cannot be decoded", where=where, why=str(error), fix="download it again") from None

    def external(self, proto: TensorProto) -> np.ndarray:
        where = f"{self.where}: weight '{proto.name}'"
        entries = {entry.key: entry.value for entry in proto.external_data}
        if self.folder is None:
            raise ModelError(
                "its data is in another file, and a model in memory has no folder",
                where=where,
                fix="pass the path, or load with onnx.load(path) so that the data is in memory",
            )
        location = entries.get("location", "")
        file = (self.folder / location).resolve()
        if not location or not file.is_relative_to(self.folder):
            raise ModelError(
                f"external data '{location}' lies outside the model's folder",
                where=where,
                fix="move the data file beside the model",
            )
        if file not in self.maps:
            try:
                size = file.stat().st_size
                self.maps[file] = np.memmap(file, dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)  # type: ignore[assignment]
            except FileNotFoundError:
                raise ModelError(
                    f"external data file '{location}' is missing", where=where, fix="put it beside the model"
                ) from None
            except OSError as error:
                raise ModelError(
                    f"external data file '{location}' cannot be read", where=where, why=str(error)
                ) from None
        data = self.maps[file]
        shape = tuple(proto.dims)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        expected = _byte_count(proto.data_type, count)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", expected))
        except ValueError:
            raise ModelError(
                "external data offset or length is no number", where=where, fix="download it again"
            ) from None
        if any(d < 0 for d in shape) or length != expected or offset < 0 or offset + length > len(data):
            raise ModelError(
                f"external data needs bytes {offset} to {offset + expected} of '{location}', which has {len(data)}",
                where=where,
                why=f"shape {list(shape)}, stated length {length}",
                fix="download the data file again",
            )
        raw = data[offset : offset + length]
        dtype = numpy_dtype(proto.data_type)
        if _byte_count(proto.data_type, 2) == 2 * dtype.itemsize:
            return raw.view(dtype).reshape(shape) if offset % dtype.itemsize == 0 else _unaligned(raw, dtype, shape)
        packed = TensorProto(dims=shape, data_type=proto.data_type, raw_data=raw.tobytes())
        return np.array(numpy_helper.to_array(packed))

    def sparse(self, proto: onnx.SparseTensorProto) -> np.ndarray:
        shape = tuple(proto.dims)
        values, indices = self.constant(proto.values, "values").values, self.constant(proto.indices, "indices").values
        dense = np.zeros(shape, dtype=values.dtype)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        if flat.size and not (0 <= flat.min() and flat.max() < dense.size):
            raise ModelError(
                "sparse weight has an index outside its shape", where=f"{self.where}: '{proto.values.name}'"
            )
        dense.reshape(-1)[flat] = values
        dense.flags.writeable = False
        return dense

    def constant_node(self, node: onnx.NodeProto) -> np.ndarray | None:
        """The value of a Constant node as an array; None where it must stay a node (sparse tensors)."""
        for a in node.attribute:
            if a.name == "value":
                return self.constant(a.t, node.output[0]).values
            if a.name == "value_float":
                return np.array(a.f, np.float32)
            if a.name == "value_floats":
                return np.array(a.floats, np.float32)
            if a.name == "value_int":
                return np.array(a.i, np.int64)
            if a.name == "value_ints":
                return np.array(a.ints, np.int64)
            if a.name == "value_string":
                return np.array(a.s, dtype=object)
            if a.name == "value_strings":
                return np.array(list(a.strings), dtype=object)
        return None


def numpy_dtype(element_type: int) -> np.dtype:
    """The numpy (or ml_dtypes) dtype of an ONNX element type. Raises ModelError on an unknown one."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError:
        raise ModelError(f"unknown element type {element_type}", fix="upgrade the onnx package") from None


def _bits(element_type: int) -> int:
    name = TensorProto.DataType.Name(element_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return numpy_dtype(element_type).itemsize * 8


def _byte_count(element_type: int, count: int) -> int:
    return (count * _bits(element_type) + 7) // 8


def _field_count(element_type: int, count: int) -> int:
    """How many entries the typed field holds: complex numbers take two, sub-byte types share one."""
    name = TensorProto.DataType.Name(element_type)
    if name.startswith("COMPLEX"):
        return 2 * count
    bits = _bits(element_type)
    return (count * bits + 7) // 8 if bits < 8 else count


def _unaligned(raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape)
