"""A batch normalization that nothing takes in, spelled as what a target computes in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32, rank
from qcompiler.passes._linear import Refusal, normalization, rounded
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

_RANKS = (3, 4)
"""Of signals and pictures, whose convolutions runtimes have in 8 bits."""


@dataclass(frozen=True)
class SpellBatchNorm(Pass):
    """``BatchNormalization(x)`` with constant parameters, at every depth, becomes

    1. ``x · scale + shift``, one of each a channel, where the target looks such a chain up in a table;
    2. else a convolution of one tap of each channel by itself, ``Conv(x, scale, shift)``. A weight of one number has a
       scale of its own, so 8 bits hold it exactly, and a Relu behind it vanishes in its Q.

    Networks that normalize what they concatenate or add (DenseNet, Huang et al. 2017, figure 2; ResNet v2, He et al.
    2016, figure 4) have them in front of their convolutions, where they cannot be folded. Where such a place stays in
    float, ``recognize-batchnorm`` puts the node back.

    Left alone: inputs that are not float32 of three or four axes. Refused: one that trains; parameters that are
    computed, or whose scale and shift do not fit float32.
    """

    name: ClassVar[str] = "spell-batchnorm"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        tabulated = ctx.target is not None and all(ctx.target.tabulates(op) for op in ("Mul", "Add"))
        refused: list[Diagnostic] = []
        for inner, node in list(ir.all_nodes(graph)):
            if node.op != "BatchNormalization" or node.domain or not _is_picture(node.inputs[0]):
                continue
            try:
                scale, shift = (rounded(one, np.dtype(np.float32)) for one in normalization(node, graph.opset))
            except Refusal as refusal:
                refused.append(Diagnostic(node.name, str(refusal), "refused"))
                continue
            if tabulated:
                _as_scale_and_shift(node, inner, namer, scale, shift)
            else:
                _as_convolution(node, namer, scale, shift)
            rewrites += 1
        return PassResult(rewrites, tuple(refused))


def _is_picture(tensor: ir.Tensor) -> bool:
    return rank(tensor) in _RANKS and is_float32(tensor)


def _as_convolution(node: ir.Node, namer: ir.Namer, scale: np.ndarray, shift: np.ndarray) -> None:
    source, count = node.inputs[0], len(node.inputs[0].shape)
    weight = ir.Constant(namer(f"{node.name}_scale"), scale.reshape(-1, *[1] * (count - 1)))
    bias = ir.Constant(namer(f"{node.name}_shift"), shift)
    node.op, node.attrs = "Conv", {"group": len(scale), "kernel_shape": [1] * (count - 2)}
    node.inputs, node.outputs = [source, weight, bias], node.outputs[:1]


def _as_scale_and_shift(
    node: ir.Node, inner: ir.Graph, namer: ir.Namer, scale: np.ndarray, shift: np.ndarray
) -> None:
    source, result = node.inputs[0], node.outputs[0]
    shape = (-1, *[1] * (len(source.shape) - 2))
    factor = ir.Constant(namer(f"{node.name}_scale"), scale.reshape(shape))
    summand = ir.Constant(namer(f"{node.name}_shift"), shift.reshape(shape))
    scaled = ir.Variable(namer(f"{node.name}_scaled"), source.dtype, source.shape)
    node.op, node.attrs, node.inputs, node.outputs = "Mul", {}, [source, factor], [scaled]
    inner.nodes.append(
        ir.Node("Add", namer(f"{node.name}_shifted"), inputs=[scaled, summand], outputs=[result])
    )
