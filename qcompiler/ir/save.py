"""From a ``Graph`` to protobuf and to disk. Files are written beside their place and renamed when complete."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qcompiler.errors import ModelError, OutputError
from qcompiler.ir.graph import Constant, Graph, Namer, Variable, all_nodes

EMBEDDED_LIMIT = 1_900_000_000
"""Bytes of weights above which they go to a file beside the model: protobuf ends at 2 GiB."""

_OLDEST_IR = 4
"""Before IR version 4 every weight had to be listed among the inputs."""

_ALIGNMENT = 4096
_SMALL = 1024


def to_proto(graph: Graph) -> onnx.ModelProto:
    """The model with all weights embedded. Raises ModelError above protobuf's 2 GiB."""
    size = weight_bytes(graph)
    if size > EMBEDDED_LIMIT:
        raise ModelError(
            f"has {size / 1e9:.1f} GB of weights, too many for one protobuf message",
            where=graph.name,
            fix="save it to a file: its weights then go beside it",
        )
    return _Writer(None).model(graph)


def save(graph: Graph, path: str | os.PathLike[str], *, external: bool | None = None) -> Path:
    """Writes the model; weights above ``EMBEDDED_LIMIT``, or always with ``external``, go to ``<name>.data`` beside it.

    Raises:
        OutputError: the place cannot be written, or is a file that the model was read from.
    """
    path = Path(path)
    data_path = path.with_name(path.name + ".data")
    if external is None:
        external = weight_bytes(graph) > EMBEDDED_LIMIT
    for target in (path, data_path) if external else (path,):
        _check_target(target, graph)
    if not external:
        proto = _Writer(None).model(graph)
        with written_beside(path) as file:
            file.write(proto.SerializeToString())
        return path
    with written_beside(data_path) as data, written_beside(path) as file:
        proto = _Writer(_DataFile(data, data_path.name)).model(graph)
        file.write(proto.SerializeToString())
        data.flush()  # both files are complete before the first takes its place
        file.flush()
    return path


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes its place at ``path`` only when the block ends well; otherwise nothing is left."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent or ".")
    except OSError as error:
        raise OutputError(
            "cannot be written", where=str(path), why=error.strerror or str(error), fix="choose another place"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise OutputError(
            "cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            fix="free space or choose another place",
        ) from None
    finally:
        if os.path.exists(name):
            os.unlink(name)


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants, each array counted once."""
    seen: dict[int, int] = {}
    for _, node in all_nodes(graph):
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                seen[id(tensor)] = tensor.nbytes
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                seen[id(value)] = value.values.nbytes
    return sum(seen.values())


class _DataFile:
    def __init__(self, file: BinaryIO, location: str) -> None:
        self.file, self.location = file, location

    def append(self, proto: TensorProto, values: np.ndarray) -> None:
        offset = -(-self.file.tell() // _ALIGNMENT) * _ALIGNMENT
        self.file.seek(offset)
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, 1 << 24):
            self.file.write(flat[start : start + (1 << 24)].data)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", offset), ("length", flat.size)):
            proto.external_data.add(key=key, value=str(value))


class _Writer:
    def __init__(self, data: _DataFile | None) -> None:
        self.data = data

    def model(self, graph: Graph) -> onnx.ModelProto:
        imports = [helper.make_opsetid("", graph.opset)]
        imports += [helper.make_opsetid(domain, version) for domain, version in graph.domains.items()]
        used = {node.domain for _, node in all_nodes(graph) if node.domain}
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(used - set(graph.domains))]
        model = onnx.ModelProto(
            ir_version=max(
                graph.ir_version or 0, _OLDEST_IR, helper.find_min_ir_version_for(imports, ignore_unknown=True)
            ),
            producer_name=graph.producer_name,
            producer_version=graph.producer_version,
            model_version=graph.model_version,
            domain=graph.model_domain,
            doc_string=graph.model_doc,
            opset_import=imports,
        )
        for key, value in graph.metadata.items():
            model.metadata_props.add(key=key, value=value)
        self.homes = _homes(graph)
        self.fresh_name = Namer(graph)
        self.graph(graph, model.graph, outermost=True)
        return model

    def graph(self, graph: Graph, proto: onnx.GraphProto, outermost: bool = False) -> None:
        proto.name = graph.name or "graph"
        proto.doc_string = graph.doc_string or ""
        for tensor in graph.inputs:
            proto.input.append(self.value(tensor))
        returned = {id(tensor) for tensor in graph.outputs}
        inputs = {id(tensor) for tensor in graph.inputs}
        for constant in self.homes.get(id(graph), []):
            if id(constant) in returned:  # runtimes want a returned value computed by a node
                node = proto.node.add(
                    op_type="Constant", name=self.fresh_name(f"{constant.name}_constant"), output=[constant.name]
                )
                node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=self.tensor(constant)))
            else:
                proto.initializer.append(self.tensor(constant))
        for node in graph.nodes:
            self.node(node, proto.node.add())
            for tensor in node.outputs:
                known = isinstance(tensor, Variable) and (tensor.dtype is not None or tensor.type_proto is not None)
                if tensor.name and known and id(tensor) not in returned | inputs:
                    proto.value_info.append(self.value(tensor))
        computed = inputs | {id(tensor) for node in graph.nodes for tensor in node.outputs}
        computed |= {id(constant) for constant in self.homes.get(id(graph), [])}
        for tensor in graph.outputs:
            value = proto.output.add()
            value.CopyFrom(self.value(tensor))
            if not outermost and id(tensor) not in computed:
                # Runtimes want a body to compute what it returns, and each value once: ONNX Runtime refuses outer
                # tensors there and gives wrong numbers for repeated ones.
                value.name = self.fresh_name(tensor.name)
                name = self.fresh_name(f"{tensor.name}_returned")
                proto.node.add(op_type="Identity", name=name, input=[tensor.name], output=[value.name])
            computed.discard(id(tensor))

    def node(self, node: gs.Node, proto: onnx.NodeProto) -> None:
        proto.op_type, proto.name, proto.domain = node.op, node.name, node.domain or ""
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        for name, value in node.attrs.items():
            proto.attribute.append(self.attribute(name, value))

    def attribute(self, name: str, value: Any) -> AttributeProto:
        if isinstance(value, AttributeProto):
            return value
        if isinstance(value, gs.Graph):
            proto = AttributeProto(name=name, type=AttributeProto.GRAPH)
            self.graph(value, proto.g)
            return proto
        if isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            proto = AttributeProto(name=name, type=AttributeProto.GRAPHS)
            for inner in value:
                self.graph(inner, proto.graphs.add())
            return proto
        if isinstance(value, gs.Constant):
            return AttributeProto(name=name, type=AttributeProto.TENSOR, t=self.tensor(value))
        if isinstance(value, np.ndarray):
            return AttributeProto(name=name, type=AttributeProto.TENSOR, t=self.tensor(Constant(name, value)))
        if isinstance(value, list) and value and isinstance(value[0], str):
            proto = AttributeProto(name=name, type=AttributeProto.STRINGS)
            proto.strings.extend(item.encode(errors="surrogateescape") for item in value)
            return proto
        if isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, (np.dtype, type)):  # graphsurgeon's way to write Cast's target
            value = _element_type(np.dtype(value))
        return helper.make_attribute(name, value)

    def tensor(self, constant: gs.Constant) -> TensorProto:
        values = constant.values
        kind = _element_type(values.dtype)
        if kind == TensorProto.STRING:
            flat = [v if isinstance(v, bytes) else str(v).encode() for v in values.reshape(-1)]
            return TensorProto(name=constant.name, dims=values.shape, data_type=kind, string_data=flat)
        if self.data is None or values.nbytes <= _SMALL:
            return numpy_helper.from_array(values, constant.name)
        proto = TensorProto(name=constant.name, dims=values.shape, data_type=kind)
        if _packed(values.dtype):
            self.data.append(proto, np.frombuffer(numpy_helper.from_array(values).raw_data, np.uint8))
        else:
            self.data.append(proto, values)
        return proto

    def value(self, tensor: gs.Tensor) -> onnx.ValueInfoProto:
        if isinstance(tensor, Variable) and tensor.type_proto is not None:
            return onnx.ValueInfoProto(name=tensor.name, type=tensor.type_proto)
        if isinstance(tensor, gs.Constant):
            return helper.make_tensor_value_info(tensor.name, _element_type(tensor.dtype), tensor.shape)
        if tensor.dtype is None:
            return onnx.ValueInfoProto(name=tensor.name)
        return helper.make_tensor_value_info(tensor.name, _element_type(np.dtype(tensor.dtype)), tensor.shape)


def _homes(graph: Graph) -> dict[int, list[gs.Constant]]:
    """Which graph stores each constant: the innermost one that holds all of its uses."""
    paths: dict[int, tuple[Graph, ...]] = {}
    constants: dict[int, gs.Constant] = {}

    def visit(inner: Graph, path: tuple[Graph, ...]) -> None:
        path = (*path, inner)
        used = [*inner.outputs]
        for node in inner.nodes:
            used += node.inputs
            for value in node.attrs.values():
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, gs.Graph):
                        visit(child, path)
        for tensor in used:
            if isinstance(tensor, gs.Constant):
                key = id(tensor)
                constants[key] = tensor
                if key in paths:
                    common = 0
                    for a, b in zip(paths[key], path):
                        if a is not b:
                            break
                        common += 1
                    paths[key] = path[:common]
                else:
                    paths[key] = path

    visit(graph, ())
    homes: dict[int, list[gs.Constant]] = {}
    for key, path in paths.items():
        homes.setdefault(id(path[-1]), []).append(constants[key])
    return homes


def _element_type(dtype: np.dtype) -> int:
    return TensorProto.STRING if dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(dtype)


def _packed(dtype: np.dtype) -> bool:
    return dtype.name in ("int4", "uint4", "float4_e2m1fn", "int2", "uint2")


def _check_target(target: Path, graph: Graph) -> None:
    try:
        found = target.stat()
    except OSError:  # nothing there yet; whether it can be made shows when it is
        return
    if not stat.S_ISREG(found.st_mode):
        raise OutputError("is not a regular file", where=str(target), fix="name a file to write")
    if any(source.exists() and os.path.samestat(found, source.stat()) for source in graph.sources):
        raise OutputError("would overwrite the source model", where=str(target), fix="choose another output path")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
