"""From an ONNX file, or an object that holds one, to a ``Graph``. Weights of external files stay memory-mapped.

A model file is untrusted: external data must lie inside the model's folder, and every size is checked against the
bytes that are really there before anything of that size is made.
"""

from __future__ import annotations

import math
import os
import stat
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
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Node, Variable, adopt, all_nodes, all_tensors, clone, sort

OLDEST_OPSET = 7
"""Before opset 7 operators meant something else (explicit broadcasting, legacy attributes); ONNX's own converter raises
such models to it."""

_UNSTATED_OPSET = 17
"""For models made of other domains' operators only: old enough for every runtime, should a pass add standard ones."""

_LARGEST_DENSE = 1 << 31
"""Bytes that a sparse weight may take when written out: its claimed shape costs nothing and may be a lie."""


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
    graph.sources = tuple(p for p in (path, *reader.maps) if p is not None)
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
    except (RuntimeError, ValueError, TypeError, onnx.version_converter.ConvertError) as error:
        raise ModelError(
            f"cannot be raised to operator set {OLDEST_OPSET}",
            where=where,
            why=str(error),
            fix="export it with a newer opset",
        ) from None


class _Reader:
    """Walks a GraphProto. ``scope`` maps the names visible at a place to their tensors."""

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder.resolve() if folder else None
        self.where = where
        self.maps: dict[Path, np.ndarray] = {}
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
            constants[weight.name] = self.constant(weight, weight.name)
        for sparse in proto.sparse_initializer:
            constants[sparse.values.name] = Constant(sparse.values.name, self.sparse(sparse))
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
            return self.constant(proto.t, proto.t.name or proto.name)
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

    def constant(self, proto: TensorProto, name: str) -> Constant:
        if proto.data_location == TensorProto.EXTERNAL:
            values = self.external(proto)
        else:
            values = self.embedded(proto)
        values.flags.writeable = False
        return Constant(name, values)

    def embedded(self, proto: TensorProto) -> np.ndarray:
        where = f"{self.where}: weight '{proto.name}'"
        dtype = numpy_dtype(proto.data_type, where)
        shape, count = _shape(proto, where)
        raw = proto.raw_data if proto.HasField("raw_data") else None
        if raw is not None:
            expected, present, unit = _byte_count(dtype, count), len(raw), "bytes"
        else:
            present = len(getattr(proto, helper.tensor_dtype_to_field(proto.data_type)))
            expected, unit = _field_count(dtype, count), "values"
        if expected != present:
            raise ModelError(
                f"shape {list(shape)} of {dtype} takes {expected} {unit}, {present} are there",
                where=where,
                fix="download or export it again",
            )
        try:
            if raw is not None and _bits(dtype) >= 8 and dtype.kind != "O":
                return np.frombuffer(raw, dtype=dtype).reshape(shape)
            return np.array(numpy_helper.to_array(proto))
        except (ValueError, TypeError, OverflowError) as error:
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
        data = self.mapped(location, where)
        dtype = numpy_dtype(proto.data_type, where)
        shape, count = _shape(proto, where)
        if dtype.kind == "O":
            raise ModelError("is text, which cannot be in another file", where=where, fix="export the model again")
        expected = _byte_count(dtype, count)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", expected))
        except ValueError:
            raise ModelError(
                "external data offset or length is no number", where=where, fix="export the model again"
            ) from None
        if length != expected or offset < 0 or offset + length > len(data):
            raise ModelError(
                f"external data needs bytes {offset} to {offset + expected} of '{location}', which has {len(data)}",
                where=where,
                why=f"shape {list(shape)}, stated length {length}",
                fix="download the data file again",
            )
        raw = data[offset : offset + length]
        try:
            if _bits(dtype) < 8:
                packed = TensorProto(dims=shape, data_type=proto.data_type, raw_data=raw.tobytes())
                return np.array(numpy_helper.to_array(packed))
            if offset % dtype.itemsize:  # kernels want their numbers aligned: the one case that is copied
                return np.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape)
            return raw.view(dtype).reshape(shape)
        except ValueError as error:
            raise ModelError("cannot be decoded", where=where, why=str(error), fix="export the model again") from None

    def mapped(self, location: str, where: str) -> np.ndarray:
        """The bytes of a data file in the model's folder, mapped once."""
        assert self.folder is not None
        try:
            file = (self.folder / location).resolve()
        except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a ring of links
            raise ModelError(
                f"external data '{location}' is no file name", where=where, why=str(error), fix="export the model again"
            ) from None
        if not location or not file.is_relative_to(self.folder):
            raise ModelError(
                f"external data '{location}' lies outside the model's folder",
                where=where,
                fix="put the data file itself, not a link, beside the model",
            )
        if file not in self.maps:
            try:
                found = file.stat()
                if not stat.S_ISREG(found.st_mode):
                    raise ModelError(
                        f"external data '{location}' is not a file",
                        where=where,
                        fix="put the data file beside the model",
                    )
                self.maps[file] = np.memmap(file, np.uint8, mode="r") if found.st_size else np.zeros(0, np.uint8)
            except FileNotFoundError:
                raise ModelError(
                    f"external data file '{location}' is missing", where=where, fix="put it beside the model"
                ) from None
            except OSError as error:
                raise ModelError(
                    f"external data file '{location}' cannot be read",
                    where=where,
                    why=error.strerror or str(error),
                    fix="check its name and permissions",
                ) from None
        return self.maps[file]

    def sparse(self, proto: onnx.SparseTensorProto) -> np.ndarray:
        where = f"{self.where}: sparse weight '{proto.values.name}'"
        shape, count = _shape(proto, where)
        values, indices = self.constant(proto.values, "values").values, self.constant(proto.indices, "indices").values
        if count * values.dtype.itemsize > _LARGEST_DENSE:
            raise ModelError(f"is too large to be written out: {list(shape)}", where=where, fix="export it dense")
        try:
            flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
            if flat.size and flat.min() < 0:
                raise IndexError("negative index")
            dense = np.zeros(count, dtype=values.dtype)
            dense[flat] = values
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(
                "has indices that do not fit it", where=where, why=str(error), fix="export it again"
            ) from None
        dense.flags.writeable = False
        return dense.reshape(shape)

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


def numpy_dtype(element_type: int, where: str = "") -> np.dtype:
    """The numpy (or ml_dtypes) dtype of an ONNX element type. Raises ModelError on an unknown one."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError:
        raise ModelError(
            f"unknown element type {element_type}", where=where, fix="export it again, or upgrade the onnx package"
        ) from None


def _shape(proto: TensorProto | onnx.SparseTensorProto, where: str) -> tuple[tuple[int, ...], int]:
    """The stated shape and its number of elements, as Python integers: they may be lies of any size."""
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"has shape {list(shape)}", where=where, fix="export the model again")
    return shape, math.prod(shape)


def _bits(dtype: np.dtype) -> int:
    name = dtype.name
    if name.endswith(("int4", "float4_e2m1fn")):
        return 4
    return 2 if name.endswith("int2") else dtype.itemsize * 8


def _byte_count(dtype: np.dtype, count: int) -> int:
    return (count * _bits(dtype) + 7) // 8


def _field_count(dtype: np.dtype, count: int) -> int:
    """How many entries the typed field holds: complex numbers take two, sub-byte types share one."""
    if dtype.kind == "c":
        return 2 * count
    return _byte_count(dtype, count) if _bits(dtype) < 8 else count
