"""An addition right behind a DequantizeLinear costs nothing where it moves the zero point by whole steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_TOLERANCE = 1e-3
"""How far a shift may be from a whole number of steps, in steps: float32's rounding of step and constant."""


@dataclass(frozen=True)
class FoldShiftIntoDequantize(Pass):
    """``QuantizeLinear(DequantizeLinear(q, s, z) + c, s, z - c/s)`` is ``q``: what reads it is given the codes, and the
    addition lives on in the zero point with which they are read, where a Conv finds the zero that it pads with too.

    1. ``c`` a scalar, constant or a constant dequantized, on either side of the Add.

    Left alone: a shift that is no whole number of steps, or a QuantizeLinear with another step, zero point or type. It
    is for ``solve`` to choose the step so that the shift is a whole number of them. An addition that nothing
    quantizes is left alone as well: in float it costs what it did.
    """

    name: ClassVar[str] = "fold-shift-into-dequantize"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewrites = 0
        returned = ir.output_tensors(graph)
        for _, quantize in ir.all_nodes(graph):
            if quantize.op != "QuantizeLinear" or quantize.outputs[0] in returned:
                continue
            codes = _same_codes(quantize)
            if codes is not None:
                ir.replace_uses(quantize.outputs[0], codes, graph)
                rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


def shifted(node: ir.Node) -> tuple[ir.Tensor, float] | None:
    """(tensor, constant) where the node adds a finite scalar constant to a tensor; None elsewhere."""
    if node.op != "Add" or node.domain:
        return None
    for index in (0, 1):
        value, other = _scalar(node.inputs[index]), node.inputs[1 - index]
        if value is not None and not ir.is_constant(other) and np.isfinite(value):
            return other, value
    return None


def _same_codes(quantize: ir.Node) -> ir.Tensor | None:
    """The codes that the QuantizeLinear gives back, shifted."""
    add = ir.producer(quantize.inputs[0])
    found = None if add is None else shifted(add)
    dequantize = None if found is None else ir.producer(found[0])
    if found is None or dequantize is None or dequantize.op != "DequantizeLinear":
        return None
    before, after = _parameters(dequantize), _parameters(quantize)
    if before is None or after is None:
        return None
    (step, zero_point), (other_step, other_zero_point) = before, after
    steps = found[1] / float(step)
    moved = int(zero_point) - int(other_zero_point)
    same = zero_point.dtype == other_zero_point.dtype and np.isclose(step, other_step, rtol=1e-6, atol=0.0)
    return dequantize.inputs[0] if same and abs(steps - moved) <= _TOLERANCE else None


def _parameters(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """The constant step and zero point of a whole tensor."""
    if len(node.inputs) != 3 or not all(ir.is_constant(t) and t.values.ndim == 0 for t in node.inputs[1:]):
        return None
    return np.asarray(node.inputs[1].values), np.asarray(node.inputs[2].values)


def _scalar(tensor: ir.Tensor) -> float | None:
    """The value of a scalar constant of float32, stored as such or as codes."""
    node = ir.producer(tensor)
    if node is not None and node.op == "DequantizeLinear" and ir.is_constant(node.inputs[0]):
        codes, parameters = np.asarray(node.inputs[0].values), _parameters(node)
        if codes.size != 1 or codes.ndim > 1 or parameters is None:
            return None
        return float((codes.reshape(-1)[0].astype(np.int64) - int(parameters[1])) * parameters[0])
    if not ir.is_constant(tensor) or tensor.values.size != 1 or tensor.values.ndim > 1:
        return None
    return float(tensor.values.reshape(-1)[0]) if tensor.values.dtype == np.float32 else None
