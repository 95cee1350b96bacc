"""Element-by-element functions of one 8-bit tensor become one lookup in a table of their 256 values."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, tables
from qcompiler.calibrate import Statistics
from qcompiler.errors import PassError
from qcompiler.passes._elementwise import Function, apply, function_of, in_float64, no_function
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.plan import BY_USER

ENTRIES = 256
LARGEST = 1 << 18
"""Bytes of the largest table: one entry a channel stops paying where it no longer stays in a core's cache."""


@dataclass(frozen=True)
class FuseTables(Pass):
    """What a target's elementwise operators compute of one tensor of codes becomes ``qcompiler::TableLookup``.

    The table holds, for each code, what the chain's own nodes give in float64, by ONNX's reference implementation, and
    is rounded once: half to even, saturated. So it differs from the chain in float32 only where that rounds otherwise.

    1. Chains from a DequantizeLinear to a QuantizeLinear, however they branch and join on the way; of the largest kind,
       each from the codes that it all depends on: a table for each result that something else reads.
    2. Where a result has no QuantizeLinear, a table of float32.
    3. Constants that differ along one axis: a table for each channel, ``[C, 256]``.
    4. What the plan leaves in float between codes, for that rounds nowhere else.
    5. A chain that goes on behind a QuantizeLinear and DequantizeLinear, or behind a table: one table for both, with
       the rounding between them.

    Left alone: nodes that the user keeps in float. With the reason: chains with an operator that has state, is random,
    whose result's shape depends on the data, or that holds a body; chains that give NaN for a code that calibration
    saw, or may have seen; tables larger than a cache. It needs numbers, so it comes after ``lower``.
    """

    name: ClassVar[str] = "fuse-tables"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.target is None:
            raise PassError("needs a target", where=graph.name)
        kept = ctx.plan.kept if ctx.plan is not None else {}
        by_user = {name for name, reason in kept.items() if reason.startswith(BY_USER)}
        known, diagnostics = _functions(graph, frozenset(ctx.target.elementwise), by_user)
        seen = ctx.statistics if isinstance(ctx.statistics, Statistics) else None
        returned, home = ir.output_tensors(graph), {node: inner for inner, node in ir.all_nodes(graph)}
        wanted: set[ir.Tensor] = set()
        made: list[tuple[ir.Node, Function]] = []
        namer = ir.Namer(graph)
        inside = {function.nodes[-1] for function in known.values()}
        for result, function in reversed(known.items()):
            if result not in wanted and result not in returned and inside.issuperset(result.outputs):
                continue
            maker = function.nodes[-1]
            if maker.op == "DequantizeLinear" or function.nodes == (maker,):
                wanted.update(maker.inputs)
                continue
            try:
                table = _Table(function, graph.opset, seen).entries()
            except _Refused as refusal:
                diagnostics.append(refusal.diagnostic)
                wanted.update(maker.inputs)
                continue
            lookup = _lookup(result, function, table, namer)
            if result not in returned:  # the runtime infers sizes itself, and does worse with what it is told
                shape = result.shape or function.source.shape
                result.shape = None if shape is None else [None] * len(shape)
            home[maker].nodes.append(lookup)
            made.append((lookup, function))
        ir.remove_dead(graph)
        _name(graph, made)
        return PassResult(len(made), tuple(dict.fromkeys(diagnostics)))


def _result(node: ir.Node) -> ir.Tensor | None:
    return node.outputs[0] if len(node.outputs) == 1 else None


def _functions(
    graph: ir.Graph, elementwise: frozenset[str], kept: set[str]
) -> tuple[dict[ir.Tensor, Function], list[Diagnostic]]:
    """Every tensor that is an elementwise function of codes, in order of computation; and what looked like one."""
    known: dict[ir.Tensor, Function] = {}
    diagnostics = []
    for _, node in ir.all_nodes(graph):
        result, function = _result(node), None
        if result is None or not node.inputs:
            continue
        source, reason = node.inputs[0], ""
        begins = node.op == "DequantizeLinear" and per_tensor(node) and not ir.is_constant(source)
        if begins or _is_lookup(node):
            function = known.get(source, Function(source)).then(node)
        elif node.op == "QuantizeLinear":
            function = known[source].then(node) if source in known and per_tensor(node) else None
        elif any(tensor in known for tensor in node.inputs):
            reason = no_function(node)
            if node.op in elementwise and not reason and node.name not in kept:
                function = function_of(node, known.get)
        if function is not None:
            known[result] = function
        if reason:
            diagnostics.append(Diagnostic(node.name, f"is part of no table: {reason}", "refused"))
    return known, diagnostics


def _is_lookup(node: ir.Node) -> bool:
    """Whether it is a TableLookup with one table for all."""
    ours = node.op == tables.OPERATOR and node.domain == tables.DOMAIN
    return ours and ir.is_constant(node.inputs[1]) and node.inputs[1].values.ndim == 1


def per_tensor(node: ir.Node) -> bool:
    """Whether a Q or DQ has one constant step of float32 and one zero point of a type of 8 bits."""
    parameters = node.inputs[1:]
    if len(parameters) != 2 or not all(ir.is_constant(tensor) and tensor.values.size == 1 for tensor in parameters):
        return False
    step, zero_point = (tensor.values.dtype for tensor in parameters)
    return step == np.float32 and zero_point in (np.uint8, np.int8)


class _Refused(Exception):
    def __init__(self, node: ir.Node, message: str) -> None:
        super().__init__(message)
        self.diagnostic = Diagnostic(node.name, message, "refused")


class _Table:
    """Computes a function's entries."""

    def __init__(self, function: Function, opset: int, seen: Statistics | None) -> None:
        self.function, self.opset = function, opset
        signed = _is_signed(function)
        codes = np.arange(ENTRIES).astype(np.uint8)
        self.codes = (codes.view(np.int8) if signed else codes).astype(np.int64)
        self.reachable = _reached(function, self.codes, seen)

    def entries(self) -> np.ndarray:
        """``[256]``, or ``[C, 256]``, of the type of the result; raises _Refused."""
        last = self.function.nodes[-1]
        width = last.inputs[2].values.dtype.itemsize if last.op == "QuantizeLinear" else 4
        channels = self.channels()
        if channels * ENTRIES * width > LARGEST:
            raise _Refused(last, f"is part of no table: {channels} tables would take more room than they save time")
        codes = self.codes if self.function.axis is None else np.tile(self.codes, (channels, 1))
        values: dict[ir.Tensor, np.ndarray] = {self.function.source: codes}
        for node in self.function.nodes:
            found = self.value(node, values)
            bad = np.isnan(found) & self.reachable
            if bad.any():
                code = int(np.argwhere(np.atleast_2d(bad))[0][-1])
                raise _Refused(node, f"gives NaN, so it is part of no table: where {self.told(code)}")
            values[node.outputs[0]] = found
        result = values[last.outputs[0]]
        if last.op == "QuantizeLinear":
            return result.astype(last.inputs[2].values.dtype)
        if last.op == tables.OPERATOR:
            return result.astype(last.inputs[1].values.dtype)
        with np.errstate(over="ignore"):
            return result.astype(np.float32)

    def channels(self) -> int:
        constants = (tensor for node in self.function.nodes if node.op not in _CODED for tensor in node.inputs)
        return max((tensor.values.size for tensor in constants if ir.is_constant(tensor)), default=1)

    def value(self, node: ir.Node, values: dict[ir.Tensor, np.ndarray]) -> np.ndarray:
        if node.op == tables.OPERATOR:
            return np.asarray(node.inputs[1].values, np.float64)[values[node.inputs[0]].astype(np.int64) & 0xFF]
        if node.op in ("DequantizeLinear", "QuantizeLinear"):
            step, zero_point = (float(tensor.values.reshape(-1)[0]) for tensor in node.inputs[1:])
            given = values[node.inputs[0]].astype(np.float64)
            if node.op == "DequantizeLinear":
                return (given - zero_point) * step
            limits = np.iinfo(node.inputs[2].values.dtype)
            with np.errstate(over="ignore"):
                codes = np.clip(np.rint(given / step) + zero_point, limits.min, limits.max)
            return np.where(np.isnan(given), zero_point, codes)  # at codes that never occur
        axis = self.function.axis

        def operand(tensor: ir.Tensor) -> np.ndarray | None:
            if not tensor.name:
                return None
            return in_float64(np.asarray(tensor.values), axis) if ir.is_constant(tensor) else values[tensor]

        found = apply(node, [operand(tensor) for tensor in node.inputs], self.opset)
        return np.broadcast_to(found, values[self.function.source].shape)

    def told(self, code: int) -> str:
        """Which value a code stands for, for a reader."""
        first = self.function.nodes[0]
        if first.op != "DequantizeLinear":
            return f"the code is {self.codes[code]}"
        step, zero_point = (float(tensor.values.reshape(-1)[0]) for tensor in first.inputs[1:])
        return f"'{_name_of(self.function.source)}' is {(self.codes[code] - zero_point) * step:.4g}"


_CODED = ("DequantizeLinear", "QuantizeLinear", tables.OPERATOR)


def _is_signed(function: Function) -> bool:
    first = function.nodes[0]
    if first.op == "DequantizeLinear":
        return first.inputs[2].values.dtype == np.int8
    return function.source.dtype is not None and np.dtype(function.source.dtype) == np.int8


def _name_of(codes: ir.Tensor) -> str:
    """The name of what was quantized."""
    maker = ir.producer(codes)
    return str(maker.inputs[0].name if maker is not None and maker.op == "QuantizeLinear" else codes.name)


def _reached(function: Function, codes: np.ndarray, seen: Statistics | None) -> np.ndarray:
    """Which of the codes stand for values that calibration saw; all where nobody knows."""
    maker = ir.producer(function.source)
    if maker is None or maker.op != "QuantizeLinear" or seen is None or maker.inputs[0].name not in seen.tensors:
        return np.ones(codes.shape, bool)
    extremes = seen.tensors[maker.inputs[0].name]
    step, zero_point = (float(tensor.values.reshape(-1)[0]) for tensor in maker.inputs[1:])
    first, last = (np.rint(end / step) + zero_point for end in (extremes.smallest, extremes.largest))
    return (codes >= min(first, codes.max())) & (codes <= max(last, codes.min()))


def _lookup(result: ir.Variable, function: Function, table: np.ndarray, namer: ir.Namer) -> ir.Node:
    """The node that computes ``result`` in place of the one that did."""
    attributes = OrderedDict() if table.ndim == 1 else OrderedDict(axis=function.axis)
    function.nodes[-1].outputs.clear()
    result.dtype = table.dtype
    return ir.Node(
        tables.OPERATOR,
        namer(f"{result.name}_{tables.OPERATOR}"),
        attributes,
        inputs=[function.source, ir.Constant(namer(f"{result.name}_table"), table)],
        outputs=[result],
        domain=tables.DOMAIN,
    )


def _name(graph: ir.Graph, made: list[tuple[ir.Node, Function]]) -> None:
    """Calls each table by the last node that it stands for, and notes all of these."""
    if not made:
        return
    graph.domains.setdefault(tables.DOMAIN, 1)
    before = tables.tables_of(graph)
    alive = {node.name for _, node in ir.all_nodes(graph)}
    noted: dict[str, list[str]] = {}
    for lookup, function in reversed(made):
        members = [node.name for node in function.nodes if node.op not in _CODED]
        for node in function.nodes:
            if node.op == tables.OPERATOR:
                members = [*before.get(node.name, ()), *members]
        if members and members[-1] not in alive:
            lookup.name = members[-1]
            alive.add(lookup.name)
        noted[lookup.name] = members
    tables.note(graph, noted)
