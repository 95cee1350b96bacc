"""Weights of products that stay in float are stored in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.plan import BY_USER

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN"})


@dataclass(frozen=True)
class HalveWeights(Pass):
    """A constant W of float32 becomes ``Cast(W in float16)``, where the plan quantizes other nodes and so few bits are
    asked for. ONNX Runtime computes the Cast once, when it loads the model: products run in float32 as they did.

    1. Every reader of W is a product. A weight of one then moves by less than 1/2000 of itself, 70 dB below it, which
       is nothing beside what 8 bits are; of a table of angles, say, that could not be told.
    2. W has ``least_weights`` numbers or more.

    Left alone: numbers beyond float16's largest, or not finite; nodes that the user keeps in float.
    """

    name: ClassVar[str] = "halve-weights"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING
    least_weights: int = 4096

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None or not ctx.plan.intended:
            return PassResult(0)
        exact = {name for name, reason in ctx.plan.kept.items() if reason.startswith(BY_USER)}
        namer, returned = ir.Namer(graph), ir.output_tensors(graph)
        readers: dict[ir.Constant, list[tuple[ir.Graph, ir.Node]]] = {}
        for inner, node in ir.all_nodes(graph):
            for tensor in dict.fromkeys(node.inputs):
                if ir.is_constant(tensor):
                    readers.setdefault(tensor, []).append((inner, node))
        halved = 0
        for weight, uses in readers.items():
            products = all(node.op in PRODUCTS and not node.domain and node.name not in exact for _, node in uses)
            if products and weight not in returned and self.fits(weight):
                _halve(weight, uses, namer)
                halved += 1
        return PassResult(halved)

    def fits(self, weight: ir.Constant) -> bool:
        if weight.dtype != np.float32 or len(weight.shape) < 2 or np.prod(weight.shape) < self.least_weights:
            return False
        return bool(np.max(np.abs(weight.values)) <= np.finfo(np.float16).max)  # of NaN that does not hold


def _halve(weight: ir.Constant, uses: list[tuple[ir.Graph, ir.Node]], namer: ir.Namer) -> None:
    def values() -> np.ndarray:
        return np.asarray(weight.values).astype(np.float16)

    stored = ir.Constant(namer(f"{weight.name}_halved"), ir.Computed(weight.shape, np.float16, values))
    made: dict[ir.Graph, ir.Variable] = {}
    for inner, node in uses:
        if inner not in made:
            made[inner] = ir.Variable(namer(f"{weight.name}_float"), np.dtype(np.float32), list(weight.shape))
            name = namer(f"{weight.name}_Cast")
            cast = ir.Node("Cast", name, {"to": int(TensorProto.FLOAT)}, inputs=[stored], outputs=[made[inner]])
            inner.nodes.append(cast)
        node.inputs = [made[inner] if tensor is weight else tensor for tensor in node.inputs]
