"""Single numbers get as many axes as what they meet, where the runtime is slow without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

ELEMENTWISE = frozenset((
    "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Pow", "Sub",
    "Where",
))  # fmt: skip
BY_ITSELF = frozenset(("Abs", "Cast", "Clip", "Exp", "Log", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"))
"""Operators that make each value from one of their first input."""
_DEEPEST = 6


@dataclass(frozen=True)
class RankConstants(Pass):
    """``Add(x, 1)`` becomes ``Add(x, [[[1]]])`` where the last of x's three axes has the length 1, and so for all that
    is computed element by element with a constant of one value.

    Where ranks differ, ONNX Runtime 1.32 walks along x's last axis and comes back for the number each time, that is for
    each value where x ends in an axis of 1. ``tools/bench_layers.py`` measures what that is worth behind a convolution.

    Left alone: operands of unknown rank; results of reductions, which are short, and behind which the runtime looks for
    the one number of a normalization.
    """

    name: ClassVar[str] = "rank-constants"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        ranked: dict[tuple[ir.Constant, int], ir.Constant] = {}
        for _, node in list(ir.all_nodes(graph)):
            if node.op not in ELEMENTWISE or node.domain:
                continue
            rank = _rank(node)
            for index, tensor in enumerate(node.inputs):
                if not _single(tensor) or tensor.values.ndim >= rank:
                    continue
                if (tensor, rank) not in ranked:
                    values = tensor.values.reshape((1,) * rank)
                    ranked[tensor, rank] = ir.Constant(namer(f"{tensor.name}_ranked"), values)
                node.inputs[index] = ranked[tensor, rank]
                rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
        return PassResult(rewrites)


def _single(tensor: ir.Tensor) -> bool:
    return isinstance(tensor, ir.Constant) and tensor.values.size == 1


def _rank(node: ir.Node) -> int:
    """Axes of what single numbers are to be spread over; 0 where it does not end in an axis of 1, or is not known."""
    others = [tensor for tensor in node.inputs if not _single(tensor)]
    ranks = {_ending_in_one(tensor, _DEEPEST) for tensor in others}
    return ranks.pop() if len(ranks) == 1 else 0


def _ending_in_one(tensor: ir.Tensor, depth: int) -> int:
    """How many axes a tensor has of which the last has the length 1; 0 where that is not so. What the compiler has just
    written has no shape yet, but that of what it is made from."""
    if tensor.shape is not None:
        return len(tensor.shape) if tensor.shape and tensor.shape[-1] == 1 and not _reduced(tensor) else 0
    node = ir.producer(tensor)
    if node is None or node.domain or depth == 0 or node.op not in ELEMENTWISE | BY_ITSELF:
        return 0
    read = node.inputs[:1] if node.op in BY_ITSELF else [one for one in node.inputs if not _single(one)]
    ranks = {_ending_in_one(one, depth - 1) for one in read}
    return ranks.pop() if len(ranks) == 1 else 0


def _reduced(tensor: ir.Tensor) -> bool:
    node = ir.producer(tensor)
    return node is not None and node.op.startswith("Reduce")
