"""From an ONNX file, or an object that holds one, to a ``Graph``. Weights of external files stay memory-mapped."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Node, Variable, adopt, all_nodes, all_tensors, clone, sort
from qcompiler.ir.tensors import TensorReader, numpy_dtype

OLDEST_OPSET = 7
"""Before opset 7 operators meant something else (explicit broadcasting, legacy attributes); ONNX's own converter raises
such models to it."""

_UNSTATED_OPSET = 17
"""For models made of other domains' operators only: old enough for every runtime, should a pass add standard ones."""



def load(model: object) -> Graph:
    """A new graph from a path, ``ModelProto``, serialized bytes, torch ``ONNXProgram``, ``onnx_ir.Model`` or
    graphsurgeon graph. The argument is not changed.

    Raises:
        ModelError: the file or object is not a sound ONNX model.
    """
    try:
        return _load(model)
    except RecursionError:
        where = str(model) if isinstance(model, (str, os.PathLike)) else "model"
        raise ModelError("subgraphs are nested too deep", where=where, fix="export the model again") from None


def _load(model: object) -> Graph:
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
            folders = {
                Path(weight.const_value.base_dir)
                for weight in model.graph.initializers.values()
                if isinstance(weight.const_value, onnx_ir.ExternalTensor)
            }
            if len(folders) > 1:
                raise ModelError("has weights in several folders", fix="save the model and pass the path")
            return _from_proto(onnx_ir.to_proto(model), None, *folders)
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
        why = error.strerror or str(error)
        raise ModelError("cannot be read", where=where, why=why, fix="check its permissions") from None
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


def _from_proto(proto: onnx.ModelProto, path: Path | None, folder: Path | None = None) -> Graph:
    where = str(path) if path else proto.graph.name or "model"
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError("has no graph or no operator set", where=where, fix="export the model again")
    if proto.functions:
        proto = _inlined(proto, where)
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        opsets[domain] = max(entry.version, opsets.get(domain, 0))
    newest = onnx.defs.onnx_opset_version()
    opset = opsets.pop("", _UNSTATED_OPSET)
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
    if path is not None:
        folder = path.parent
    reader = _Reader(folder, where)
    graph = reader.graph(body, {})
    graph.opset, graph.domains, graph.ir_version = opset, opsets, proto.ir_version
    graph.producer_name, graph.producer_version = _text(proto.producer_name), _text(proto.producer_version)
    graph.model_version, graph.model_domain = proto.model_version, _text(proto.domain)
    graph.model_doc = _text(proto.doc_string)
    graph.metadata = {_text(entry.key): _text(entry.value) for entry in proto.metadata_props}
    graph.sources = tuple(p for p in (path, *reader.tensors.maps) if p is not None)
    _check_text(graph, where)
    adopt(graph)
    sort(graph)
    return graph


def _text(value: str | bytes) -> str:
    """Protobuf gives bytes where a file's text is not UTF-8. In remarks that is no reason to refuse a model."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _check_text(graph: Graph, where: str) -> None:
    names: list[Any] = [*graph.domains, *all_tensors(graph)]
    for _, node in all_nodes(graph):
        names += [node.op, node.name, node.domain or "", *node.attrs]
    for tensor in all_tensors(graph).values():
        names += [d for d in tensor.shape or () if isinstance(d, bytes)]
    for name in names:
        if isinstance(name, bytes):
            raise ModelError(f"the name {name!r} is not UTF-8", where=where, fix="download or export it again")


def _inlined(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, TypeError, EncodeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            "its functions cannot be inlined", where=where, why=str(error), fix="export it again"
        ) from None


def _raised(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ModelError(
            f"cannot be raised to operator set {OLDEST_OPSET}",
            where=where,
            why=str(error),
            fix="export it with a newer opset",
        ) from None


class _Reader:
    """Walks a GraphProto. ``scope`` maps the names visible at a place to their tensors."""

    def __init__(self, folder: Path | None, where: str) -> None:
        self.where = where
        self.tensors = TensorReader(folder, where)
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

        result = Graph(name=_text(proto.name), doc_string=_text(proto.doc_string))
        constants = {}
        weights = [*proto.initializer, *(sparse.values for sparse in proto.sparse_initializer)]
        for name, count in Counter(weight.name for weight in weights).items():
            if count > 1 or not name:
                raise ModelError(
                    f"weight '{name}' is defined {count} times", where=self.where, fix="export the model again"
                )
        for weight in proto.initializer:
            constants[weight.name] = Constant(weight.name, self.tensors.values(weight))
        for sparse in proto.sparse_initializer:
            constants[sparse.values.name] = Constant(sparse.values.name, self.tensors.sparse(sparse))
        for value in proto.input:
            if value.name in constants:
                continue  # IR version 3 lists every initializer among the inputs: a default that nobody overrides
            result.inputs.append(define(value.name, self.variable(value)))
        for name, constant in constants.items():
            define(name, constant)
        nodes: list[onnx.NodeProto] = []
        for node in proto.node:  # nodes may come in any order: define all outputs before linking inputs
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.output) == 1:
                values = self.constant_node(node)
                if values is not None:
                    define(node.output[0], Constant(node.output[0], values))
                    continue
            nodes.append(node)
            for name in node.output:
                if name:
                    define(name, self.variable(info[name]) if name in info else Variable(name))
        # Stated names first, and before those in subgraphs: users speak of nodes by them.
        names = {index: self.unique(node.name, self.node_names) for index, node in enumerate(nodes) if node.name}
        for index, node in enumerate(nodes):
            name = names.get(index) or self.unique(f"{node.op_type}_{index}", self.node_names)
            result.nodes.append(self.node(node, name, scope))
        for value in proto.output:
            if value.name not in scope:
                raise ModelError(
                    f"output '{value.name}' is never computed", where=self.where, fix="export the model again"
                )
            result.outputs.append(scope[value.name])
        return result

    def node(self, proto: onnx.NodeProto, name: str, scope: dict[str, Any]) -> Node:
        inputs = []
        for source in proto.input:
            if source and source not in scope:
                raise ModelError(
                    f"input '{source}' is never computed",
                    where=f"{self.where}: node '{proto.name or proto.op_type}'",
                    fix="export the model again",
                )
            inputs.append(scope[source] if source else Variable(""))
        outputs = [scope[result] if result else Variable("") for result in proto.output]
        attrs = OrderedDict((a.name, self.attribute(a, scope)) for a in proto.attribute)
        domain = None if proto.domain in ("", "ai.onnx") else proto.domain
        return Node(proto.op_type, name, attrs, inputs=inputs, outputs=outputs, domain=domain)

    def attribute(self, proto: AttributeProto, scope: dict[str, Any]) -> Any:
        kind = proto.type
        if proto.ref_attr_name:  # names an attribute of a function that is not there: not ours to interpret
            return proto
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
            return Constant(proto.t.name or proto.name, self.tensors.values(proto.t))
        if kind == AttributeProto.GRAPH:
            return self.graph(proto.g, scope)
        if kind == AttributeProto.GRAPHS and proto.graphs:
            return [self.graph(g, scope) for g in proto.graphs]
        return proto  # empty lists keep their type; sparse tensors and types pass through untouched

    def variable(self, value: onnx.ValueInfoProto) -> Variable:
        kind = value.type
        if kind.WhichOneof("value") not in ("tensor_type", None):
            return Variable(value.name, type_proto=kind)
        tensor = kind.tensor_type
        dtype = numpy_dtype(tensor.elem_type, f"{self.where}: '{value.name}'") if tensor.elem_type else None
        shape: list[Any] | None = None
        if tensor.HasField("shape"):
            shape = [
                (d.dim_value if d.dim_value >= 0 else None) if d.HasField("dim_value") else (d.dim_param or None)
                for d in tensor.shape.dim
            ]
        return Variable(value.name, dtype=dtype, shape=shape)

    def constant_node(self, node: onnx.NodeProto) -> np.ndarray | None:
        """The value of a Constant node as an array; None where it must stay a node (sparse tensors)."""
        for a in node.attribute:
            if a.name == "value":
                return self.tensors.values(a.t)
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
