"""GRUs with weights in 8 bits become an operator of our own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, native
from qcompiler.passes._edit import operand
from qcompiler.passes.fuse_int8 import DEEPEST
from qcompiler.passes.fuse_lstm import codes_by_output
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

KEPT = ("direction", "linear_before_reset")
"""Attributes that the operator has too; its number of units is told by the weights."""


@dataclass(frozen=True)
class FuseGru(Pass):
    """``GRU(x, DequantizeLinear(W), DequantizeLinear(R), ...)`` becomes ``qcompiler::GRUInt8`` (docs/kernels.md), which
    makes codes of each row of x, and of the state, as it runs.

    1. Codes of 8 bits, one scale for each output of each direction, no zero points. They are stored transposed, as that
       operator wants them.

    Left alone: all else, which is then dequantized in every run; what ``unusual`` names is not placed to begin with.
    """

    name: ClassVar[str] = "fuse-gru"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for _, node in list(ir.all_nodes(graph)):
            if node.op != "GRU" or node.domain or len(node.inputs) < 3 or unusual(node):
                continue
            found = [codes_by_output(tensor) for tensor in node.inputs[1:3]]
            weights: list[ir.Tensor] = []
            for codes, scale in (one for one in found if one is not None and one[0].values.shape[2] <= DEEPEST):
                turned = np.ascontiguousarray(codes.values.swapaxes(1, 2))
                weights.append(ir.Constant(namer(f"{codes.name}_turned"), turned))
                weights.append(ir.Constant(namer(f"{codes.name}_scales"), scale.values[..., 0]))
            if len(weights) < 4:
                continue
            node.inputs = [node.inputs[0], *weights, *node.inputs[3:]]
            node.op, node.domain = "GRUInt8", native.DOMAIN
            node.attrs = OrderedDict((name, value) for name, value in node.attrs.items() if name in KEPT)
            returned = [tensor if tensor.name else None for tensor in node.outputs] + [None, None]
            node.outputs = [tensor or ir.Variable(namer(f"{node.name}_unread"), np.float32) for tensor in returned[:2]]
            rewrites += 1
        if rewrites:
            graph.domains.setdefault(native.DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites)


def unusual(node: ir.Node) -> str:
    """Why no kernel for codes computes this GRU; empty where one does."""
    usual = ["Sigmoid", "Tanh"]
    functions: Sequence[str] = node.attrs.get("activations") or usual
    if any(name.lower() != usual[index % 2].lower() for index, name in enumerate(functions)):
        return f"its activations are {', '.join(functions)}, not Sigmoid and Tanh"
    if node.attrs.get("clip"):
        return "it clips what its activations read"
    if node.attrs.get("layout", 0) != 0:
        return "its samples come before its steps"
    bias = operand(node, 3)
    if bias is not None and not ir.is_constant(bias):
        return f"its bias '{bias.name}' is computed"
    return ""
