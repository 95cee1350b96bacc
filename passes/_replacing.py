"""Standard operators in the place of one that stands for several, as passes that decompose need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper

from qcompiler import ir
from qcompiler.pipeline import Diagnostic, PassContext, PassResult

DOMAIN = "com.microsoft"
"""Of the operators that ONNX Runtime's optimizers write."""
OLDEST = 13
"""The operator set whose axes and bounds the replacements give as inputs."""


class Refusal(Exception):
    """An operator that cannot be decomposed; the text says why. Nothing has changed."""


class Replaced:
    """One node, which the first operator that is written takes out of its graph. ``inputs``, ``outputs`` and ``attrs``
    stay as they were."""

    def __init__(self, node: ir.Node, inner: ir.Graph, namer: ir.Namer, opset: int) -> None:
        self.node, self.inner, self.namer, self.opset = node, inner, namer, opset
        self.name, self.attrs = node.name, dict(node.attrs)
        self.inputs, self.outputs = list(node.inputs), list(node.outputs)

    def input(self, index: int) -> ir.Tensor | None:
        return self.inputs[index] if index < len(self.inputs) and self.inputs[index].name else None

    def output(self, index: int) -> ir.Variable | None:
        return self.outputs[index] if index < len(self.outputs) and self.outputs[index].name else None

    def needs(self, *indices: int) -> None:
        """Raises Refusal where one of these inputs is left out, which no runtime would take."""
        if any(self.input(index) is None for index in indices):
            raise Refusal("an input that it needs is left out")

    def write(
        self,
        op: str,
        *inputs: ir.Tensor | np.ndarray | None,
        result: ir.Variable | None = None,
        domain: str | None = None,
        **attrs: Any,
    ) -> ir.Variable:
        """One more operator, and what it returns: ``result``, an output of the node, or else a tensor between. Arrays
        become constants, None an input that is left out."""
        if self.node.outputs:
            ir.detach(self.node)
            self.inner.nodes.remove(self.node)
        given = [self._tensor(op, value) for value in inputs]
        made = ir.Variable(self.namer(f"{self.name}_{op}")) if result is None else result
        name = self.namer(f"{self.name}_{op}")
        self.inner.nodes.append(ir.Node(op, name, attrs, inputs=given, outputs=[made], domain=domain))
        return made

    def cast(self, x: ir.Tensor, kind: type) -> ir.Variable:
        """The values of ``x`` in another type."""
        return self.write("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(kind))))

    def _tensor(self, op: str, value: ir.Tensor | np.ndarray | None) -> ir.Tensor:
        if value is None:
            return ir.Variable("")
        return ir.Constant(self.namer(f"{self.name}_{op}_value"), value) if isinstance(value, np.ndarray) else value


Way = Callable[[Replaced], None]
"""Writes what stands in a node's place, or raises Refusal before it has written anything."""


def decomposed(graph: ir.Graph, ctx: PassContext, ways: Mapping[tuple[str, str], Way]) -> PassResult:
    """The graph with the operators of these domains and names in others, at every depth.

    What follows an operator that ONNX knows nothing of has no shape before that is taken apart: each round learns
    shapes and tries what is left.
    """
    if graph.opset < OLDEST or (ctx.target is not None and ctx.target.keeps_fused):
        return PassResult(0)
    namer, rewrites = ir.Namer(graph), 0
    while True:
        before, refused = rewrites, []
        for inner, node in list(ir.all_nodes(graph)):
            way = ways.get((node.domain or "", node.op))
            if way is None:
                continue
            try:
                way(Replaced(node, inner, namer, graph.opset))
                rewrites += 1
            except Refusal as refusal:
                refused.append(Diagnostic(node.name, f"{node.op} stays: {refusal}", "refused"))
        if rewrites == before:
            return PassResult(rewrites, tuple(refused))
        ir.sort(graph)
        ir.infer_shapes(graph)


def float_type(*tensors: ir.Tensor | None) -> np.dtype:
    """The type of the first of the tensors that has one. Raises Refusal where none has."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype is not None:
            return np.dtype(tensor.dtype)
    raise Refusal("the type of its input is unknown")


def is_read(tensor: ir.Variable, old: Replaced) -> bool:
    """Whether somebody reads that output of the node, or its graph returns it."""
    return bool(tensor.outputs) or any(tensor is one for one in old.inner.outputs)
