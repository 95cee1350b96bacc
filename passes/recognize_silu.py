"""Sigmoid, written out, becomes one node, and SiLU takes the form Mul(x, Sigmoid(x))."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import ONE, Match, Refusal, downward, expand, product, rewrite, scalar, upward
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RecognizeSilu(Pass):
    """SiLU (Swish) in the one form that targets look for: ``Mul(x, Sigmoid(x))``.

    1. ``1 / (1 + exp(-x))``, by Div or Reciprocal, becomes ``Sigmoid(x)``; with ``-k·x``, ``Sigmoid(k·x)``.
    2. ``y / (1 + exp(-x))`` becomes ``Mul(y, Sigmoid(x))``.
    3. ``Mul(Sigmoid(x), x)`` becomes ``Mul(x, Sigmoid(x))``.

    No operator of ONNX stands for SiLU before opset 24, and ONNX Runtime fuses the form above (to QuickGelu), also with
    a factor on ``x``. Left alone: ``QuickGelu`` of com.microsoft and ``Swish``, which are one node already; patterns of
    which a part is used elsewhere. Run it after ``recognize-gelu``.
    """

    name: ClassVar[str] = "recognize-silu"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer = ir.Namer(graph)

        def attempt(node: ir.Node) -> Iterator[Match | Refusal]:
            return _attempt(node, namer)

        result = rewrite(graph, attempt)
        swapped = sum(_swap(node) for _, node in ir.all_nodes(graph))
        return PassResult(result.rewrites + swapped, result.diagnostics)


def _attempt(node: ir.Node, namer: ir.Namer) -> Iterator[Match | Refusal]:
    if node.op != "Exp":
        return
    exponential = node.outputs[0]
    for source in reversed(list(upward(node.inputs[0]))):
        inside = expand(node.inputs[0], stop={source})
        factor = inside.terms.get(product(source), 0.0)
        if inside.terms.keys() != {product(source)} or factor >= 0:
            continue
        for denominator in downward(exponential):
            below = expand(denominator, stop={exponential})
            if not below.equals({product(exponential): 1.0, ONE: 1.0}):
                continue
            nodes = {node} | inside.nodes | below.nodes
            one = next(t for n in below.nodes for t in n.inputs if scalar(t) is not None)
            for user in dict.fromkeys(denominator.outputs):
                if user.op == "Reciprocal":
                    numerator: ir.Tensor | None = None
                elif user.op == "Div" and user.inputs[1] is denominator and user.inputs[0] is not denominator:
                    numerator = None if scalar(user.inputs[0]) == 1.0 else user.inputs[0]
                else:
                    continue
                build = _Build(source, -factor, numerator, one.values.dtype, user.outputs[0], namer)
                yield Match(user.outputs[0], nodes | {user}, build)


@dataclass(frozen=True)
class _Build:
    """Makes ``numerator · sigmoid(factor · source)``, without what is 1."""

    source: ir.Tensor
    factor: float
    numerator: ir.Tensor | None
    dtype: np.dtype
    root: ir.Tensor
    namer: ir.Namer

    def __call__(self) -> list[ir.Node]:
        nodes: list[ir.Node] = []
        argument = self.source
        if abs(self.factor - 1) > 1e-6:
            constant = ir.Constant(self.namer(f"{self.root.name}_factor"), np.array(self.factor, self.dtype))
            argument = self.like(f"{self.root.name}_scaled", self.source)
            nodes.append(ir.Node("Mul", self.namer("Mul"), inputs=[self.source, constant], outputs=[argument]))
        if self.numerator is None:
            return [*nodes, ir.Node("Sigmoid", inputs=[argument])]
        gate = self.like(f"{self.root.name}_sigmoid", self.source)
        sigmoid = ir.Node("Sigmoid", self.namer("Sigmoid"), inputs=[argument], outputs=[gate])
        return [*nodes, sigmoid, ir.Node("Mul", inputs=[self.numerator, gate])]

    def like(self, name: str, tensor: ir.Tensor) -> ir.Variable:
        return ir.Variable(self.namer(name), tensor.dtype, None if tensor.shape is None else list(tensor.shape))


def _swap(node: ir.Node) -> bool:
    """Case 3."""
    if node.op != "Mul" or node.domain:
        return False
    gate, source = node.inputs
    sigmoid = ir.producer(gate)
    if sigmoid is None or sigmoid.op != "Sigmoid" or sigmoid.inputs[0] is not source:
        return False
    node.inputs.clear()
    node.inputs.extend([source, gate])
    return True
