"""float32 becomes float16 or bfloat16 where that is safe: what runs in few bits is written into the graph."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.calibrate.observers import without_sentinels
from qcompiler.errors import PassError
from qcompiler.numerics import spread
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme

TYPES = {
    "float16": (np.dtype(np.float16), int(TensorProto.FLOAT16)),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), int(TensorProto.BFLOAT16)),
}
INTERFACES = ("kept", "converted")
NEVER = 1e9
"""Constants from here on stand for "never" (attention masks) and may be any number that is large."""
SMALLEST_STEP = 2.0**-17
"""Scales below are rounded to a few bits in float16."""
_WIDE = np.dtype(np.float32)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


@dataclass(frozen=True)
class NarrowFloats(Pass):
    """Nodes compute in ``to`` (float16 or bfloat16) with Casts where a neighbour does not. In float32 stay

    1. nodes whose values, seen in calibration, come within ``headroom`` of the type's largest number; masks, which
       stand for "never", do not count;
    2. nodes with a constant beyond that number, or one so small that it would become zero (the 1e-12 that keeps a
       division from 0/0); but constants from 1e9 on become the largest number, since they stand for "never";
    3. operators that ONNX has no narrow form of, those of domains that the target does not name, and those with bodies,
       which stay as they are;
    4. Q and DQ of computed tensors whose scale a float16 would round to a few bits. A weight's codes are instead
       computed anew for its rounded scales.

    ``interface``: inputs and outputs of the model are ``kept``, with a Cast each, or ``converted``.

    ``only``: names of the nodes to look at, one a line; all where it is empty.

    Refused, for the whole model: tensors of unknown type.
    """

    name: ClassVar[str] = "narrow-floats"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING
    to: str = "float16"
    interface: str = "kept"
    headroom: float = 4.0
    only: str = ""

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        for name, value, known in (("to", self.to, tuple(TYPES)), ("interface", self.interface, INTERFACES)):
            if value not in known:
                raise PassError(f"option '{name}' is '{value}'", where=graph.name, fix=f"use one of {', '.join(known)}")
        ir.infer_shapes(graph)
        unknown = next((name for name, tensor in ir.all_tensors(graph).items() if _untyped(tensor)), None)
        if unknown is not None:
            return PassResult(0, (Diagnostic(unknown, "is of unknown type: all stays in float32", "refused"),))
        statistics = ctx.statistics if isinstance(ctx.statistics, Statistics) else None
        worker = _Narrower(graph, self, statistics, ctx.target.domains if ctx.target is not None else ())
        worker.run()
        return PassResult(len(worker.narrow), tuple(worker.diagnostics))


def _untyped(tensor: ir.Tensor) -> bool:
    return isinstance(tensor, ir.Variable) and tensor.dtype is None and tensor.type_proto is None


def _is_wide(tensor: ir.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype) == _WIDE


class _Narrower:
    def __init__(
        self, graph: ir.Graph, options: NarrowFloats, statistics: Statistics | None, domains: Container[str]
    ) -> None:
        self.graph, self.options, self.statistics, self.domains = graph, options, statistics, domains
        self.type, self.code = TYPES[options.to]
        self.largest = float(ml_dtypes.finfo(self.type).max)
        self.smallest = float(ml_dtypes.finfo(self.type).smallest_subnormal)
        self.namer = ir.Namer(graph)
        self.diagnostics: list[Diagnostic] = []
        self.forms: dict[tuple[ir.Tensor, np.dtype], ir.Tensor] = {}
        self.narrow: set[ir.Node] = set()

    def run(self) -> None:
        chosen = set(filter(None, self.options.only.split("\n")))
        for node in self.graph.nodes:
            if chosen and node.name not in chosen:
                continue
            if any(_is_wide(tensor) for tensor in (*node.inputs, *node.outputs)):
                reason = self.why_not(node)
                if reason:
                    self.diagnostics.append(Diagnostic(node.name, f"stays in float32: {reason}", "refused"))
                else:
                    self.narrow.add(node)
        fixed = {(node, index) for node in self.narrow for index in _fixed(node, self.graph.opset)}
        for node in self.narrow:
            self.retype(node)
            if node.op == "DequantizeLinear" and ir.is_constant(node.inputs[0]) and ir.is_constant(node.inputs[1]):
                self.rescale(node)
        reads = [
            (node, index, tensor)
            for _, node in ir.all_nodes(self.graph)
            for index, tensor in enumerate(node.inputs)
            if _is_wide(tensor)
        ]
        made = {t for node in self.narrow for t in node.outputs if _is_wide(t)}
        if self.options.interface == "converted":
            made |= {tensor for tensor in self.graph.inputs if _is_wide(tensor)}
        returned = [tensor for tensor in self.graph.outputs if tensor in made]
        for tensor in made:
            tensor.dtype = self.type
        for node, index, tensor in reads:
            wanted = self.type if node in self.narrow and (node, index) not in fixed else _WIDE
            if ir.is_constant(tensor) or np.dtype(tensor.dtype) != wanted:
                node.inputs[index] = self.form(tensor, wanted)
        if self.options.interface == "kept":
            for tensor in dict.fromkeys(returned):
                self.give_back(tensor)
        else:
            for index, tensor in enumerate(self.graph.outputs):
                if _is_wide(tensor) and tensor not in made and not ir.is_constant(tensor):
                    self.take_over(index, tensor)
        self.widen_bodies(made)

    def why_not(self, node: ir.Node) -> str:
        if ir.subgraphs(node):
            return "it has a body"
        if node.domain and node.domain not in self.domains:
            return "an operator of another domain"
        if not node.domain and not _takes(node, self.graph.opset, self.options.to):
            return f"ONNX has no {node.op} of {self.options.to}"
        for tensor in (*node.inputs, *node.outputs):
            if not _is_wide(tensor):
                continue
            if isinstance(tensor, ir.Constant):
                reason = self.unfit(node, tensor)
                if reason:
                    return reason
            elif self.statistics is not None and tensor.name in self.statistics.tensors:
                seen = without_sentinels(self.statistics.tensors[tensor.name])[0]
                reach = max(abs(seen.smallest), abs(seen.largest)) if seen.finite else 0.0
                if reach * self.options.headroom > self.largest:
                    return f"'{tensor.name}' reaches {reach:.4g}"
        return ""

    def unfit(self, node: ir.Node, constant: ir.Constant) -> str:
        values = np.abs(constant.values[np.isfinite(constant.values)])
        if not values.size:
            return ""
        if np.any((values > self.largest) & (values < NEVER)):
            return f"constant '{constant.name}' reaches {values.max():.4g}"
        if values.size == 1 and 0.0 < values.max() < self.smallest:
            return f"constant '{constant.name}' is {values.max():.4g} and would become zero"
        scale = node.op in ("QuantizeLinear", "DequantizeLinear") and node.inputs[1] is constant
        few = self.options.to == "float16" and values.min() < SMALLEST_STEP
        if scale and few and not ir.is_constant(node.inputs[0]):
            return f"its scale '{constant.name}' of {values.min():.4g} would be rounded to a few bits"
        return ""

    def retype(self, node: ir.Node) -> None:
        for key, value in node.attrs.items():
            if isinstance(value, ir.Constant) and value.values.dtype == _WIDE:  # ConstantOfShape
                node.attrs[key] = ir.Constant(value.name, self.rounded(value.values))
            elif key in _TYPE_ATTRIBUTES and value == TensorProto.FLOAT:
                node.attrs[key] = self.code
            elif key in _TYPE_ATTRIBUTES and isinstance(value, (np.dtype, type)) and np.dtype(value) == _WIDE:
                node.attrs[key] = self.code

    def rescale(self, node: ir.Node) -> None:
        """Codes of a weight for scales that are rounded up to the type, so that none of them has to be cut."""
        codes, scale = node.inputs[0], node.inputs[1]
        steps = self.rounded_up(scale.values)
        axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
        along = PerBlock(axis, block) if block else PerAxis(axis)
        granularity = along if scale.values.ndim else PerTensor()
        ratio = spread(scale.values / steps, Scheme("int8", True, granularity), codes.values.shape)
        found = codes.values.astype(np.float32) * ratio
        if codes.values.dtype.name.startswith(("int", "uint")):
            found = np.rint(found)
        values = found.astype(codes.values.dtype)
        values.flags.writeable = False
        node.inputs[0] = ir.Constant(self.namer(f"{codes.name}_{self.type.name}"), values)
        node.inputs[1] = ir.Constant(self.namer(f"{scale.name}_{self.type.name}"), steps.astype(np.float32))

    def rounded_up(self, scale: np.ndarray) -> np.ndarray:
        """float32 values that are the narrow type's, none smaller than ``scale``."""
        near = scale.astype(self.type)
        bits = near.view(np.uint16)
        return np.where(near.astype(np.float32) < scale, (bits + 1).view(self.type), near).astype(np.float32)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            never = np.isfinite(values) & (np.abs(values) >= NEVER)
            found = np.where(never, np.sign(values) * self.largest, values).astype(self.type)
        found.flags.writeable = False
        return found

    def form(self, tensor: ir.Tensor, wanted: np.dtype) -> ir.Tensor:
        """The tensor in the wanted type, by one Cast for all that want it."""
        if isinstance(tensor, ir.Constant):
            if wanted == _WIDE:
                return tensor
            key = (tensor, wanted)
            if key not in self.forms:
                name = self.namer(f"{tensor.name}_{wanted.name}")
                self.forms[key] = ir.Constant(name, self.rounded(tensor.values))
            return self.forms[key]
        key = (tensor, wanted)
        if key not in self.forms:
            other = ir.Variable(self.namer(f"{tensor.name}_{wanted.name}"), wanted, tensor.shape)
            self.forms[key] = other
            self.cast(tensor, other)
        return self.forms[key]

    def cast(self, source: ir.Variable, result: ir.Variable) -> None:
        to = int(TensorProto.FLOAT) if result.dtype == _WIDE else self.code
        node = ir.Node("Cast", self.namer(f"{result.name}_Cast"), {"to": to}, inputs=[source], outputs=[result])
        ir.home_of(source, self.graph).nodes.append(node)

    def give_back(self, tensor: ir.Variable) -> None:
        """An output keeps its name and its type: what computes it in fewer bits gets another name."""
        result = ir.Variable(tensor.name, _WIDE, tensor.shape)
        tensor.name = self.namer(f"{tensor.name}_{self.type.name}")
        self.graph.outputs[:] = [result if output is tensor else output for output in self.graph.outputs]
        self.cast(tensor, result)

    def take_over(self, index: int, tensor: ir.Variable) -> None:
        """An output that is computed in float32 is returned in fewer bits, under its name."""
        result = ir.Variable(tensor.name, self.type, tensor.shape)
        tensor.name = self.namer(f"{tensor.name}_float32")
        self.graph.outputs[index] = result
        self.cast(tensor, result)

    def widen_bodies(self, made: set[ir.Tensor]) -> None:
        """Bodies are left in float32, so what they return of outer tensors is too."""
        for inner in ir.all_graphs(self.graph):
            if inner is not self.graph:
                inner.outputs[:] = [self.form(t, _WIDE) if t in made else t for t in inner.outputs]


def _formals(node: ir.Node, opset: int) -> Iterator[tuple[int, str, set[str]]]:
    """(index, name of the type, types it may be) of each input of the node by ONNX's definition of the operator."""
    schema = onnx.defs.get_schema(node.op, opset)
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    for index in range(len(node.inputs)):
        if index >= len(schema.inputs) and not schema.inputs:
            return
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        yield index, formal.type_str, allowed.get(formal.type_str, {formal.type_str})


def _takes(node: ir.Node, opset: int, to: str) -> bool:
    """Whether the operator's own definition has a form in the narrow type."""
    try:
        schema = onnx.defs.get_schema(node.op, opset)
        formals = list(_formals(node, opset))
    except onnx.defs.SchemaError:
        return False
    for index, name, types in formals:
        variable = name != "tensor(float)"
        if node.inputs[index].name and _is_wide(node.inputs[index]) and variable and f"tensor({to})" not in types:
            return False
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    for index, tensor in enumerate(node.outputs):
        formal = schema.outputs[min(index, len(schema.outputs) - 1)]
        if tensor.name and _is_wide(tensor):
            if f"tensor({to})" not in allowed.get(formal.type_str, {formal.type_str}):
                return False
    return True


def _fixed(node: ir.Node, opset: int) -> list[int]:
    """Inputs that are float32 whatever the node computes in: the scales of Resize, say."""
    if node.domain:
        return []
    return [index for index, name, _ in _formals(node, opset) if name == "tensor(float)"]
