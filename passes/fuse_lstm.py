"""LSTMs with weights in 8 bits become the runtime's operator for them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes.fuse_matmul_bias import DOMAIN
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

INPUTS = 8
"""Of an LSTM: X, W, R, B, sequence_lens, initial_h, initial_c, P."""


@dataclass(frozen=True)
class FuseLstm(Pass):
    """``LSTM(x, DequantizeLinear(W), DequantizeLinear(R), ...)`` becomes ``com.microsoft::DynamicQuantizeLSTM``, an
    operator that is part of ONNX Runtime: it makes codes of x, and of what it returned a step before, as it runs.

    1. Codes of 8 bits, one scale for each output of each direction, no zero points. They are stored transposed, as that
       operator wants them.

    Left alone: all else, which is then dequantized in every run.
    """

    name: ClassVar[str] = "fuse-lstm"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for _, node in list(ir.all_nodes(graph)):
            if node.op != "LSTM" or node.domain or node.attrs.get("layout", 0) != 0:
                continue
            weights = [codes_by_output(tensor) for tensor in node.inputs[1:3]]
            if not all(weights):
                continue
            steps: list[ir.Tensor] = []
            for index, found in enumerate(weights, 1):
                assert found is not None
                codes, scale = found
                turned = ir.Constant(namer(f"{codes.name}_turned"), np.ascontiguousarray(codes.values.swapaxes(1, 2)))
                node.inputs[index] = turned
                by_output = scale.values[..., 0]
                zero = np.zeros(by_output.shape, codes.values.dtype)
                steps += [ir.Constant(scale.name, by_output), ir.Constant(namer(f"{codes.name}_zero_point"), zero)]
            left_out = [ir.Variable.empty() for _ in range(INPUTS - len(node.inputs))]
            node.inputs = [*node.inputs, *left_out, *steps]
            node.op, node.domain = "DynamicQuantizeLSTM", DOMAIN
            node.attrs = OrderedDict((name, value) for name, value in node.attrs.items() if name != "layout")
            rewrites += 1
        if rewrites:
            graph.domains.setdefault(DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites)


def codes_by_output(tensor: ir.Tensor) -> tuple[ir.Constant, ir.Constant] | None:
    """(codes ``[directions, outputs, terms]``, scales ``[directions, outputs, 1]``) of what is dequantized to the
    tensor."""
    node = ir.producer(tensor)
    if node is None or node.op != "DequantizeLinear" or not all(ir.is_constant(one) for one in node.inputs):
        return None
    codes, scale, *zero_point = node.inputs
    whole = codes.values.ndim == 3 and scale.values.shape == (*codes.values.shape[:2], 1)
    if not whole or codes.values.dtype != np.int8 or any(np.any(one.values) for one in zero_point):
        return None
    return codes, scale
