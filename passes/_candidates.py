"""Which nodes are candidates for few bits, and what of them is read."""

from __future__ import annotations

import math

import numpy as np

from qcompiler import ir
from qcompiler.passes.fuse_gru import unusual
from qcompiler.passes.subpixel_conv import phases
from qcompiler.scheme import PerBlock
from qcompiler.target import Operator, Target, is_float


def why_not(node: ir.Node, entry: Operator | None, target: Target) -> str:
    """Why a node that computes with floats is no candidate for 8 bits; empty when it is, or is of no interest."""
    few = target.weight.four_bits
    if entry is None:
        if few and node.op == "MatMul" and not node.domain and ir.is_constant(node.inputs[0]):
            return f"its weight '{node.inputs[0].name}' is on the left, and kernels for four bits read it on the right"
        return "" if target.weights_alone else target.excluded.get(node.op, "")
    for tensor in activations(node, entry):
        if not is_float(tensor):
            return f"'{tensor.name}' is not float32" if entry.heavy else ""
    if entry.weight is not None:
        weight = node.inputs[entry.weight]
        if entry.recurrent is not None and {weight.values.ndim, node.inputs[entry.recurrent].values.ndim} != {3}:
            return "its weights are not of a direction, an output and a term each"
        if node.op == "GRU" and unusual(node):
            return unusual(node)
        if entry.subpixel and phases(node) is None:
            return "its result is not as long as its input times the strides, or it has groups"
        for index in (entry.weight, entry.recurrent) if not few else ():  # few bits: seen when they are rounded
            if index is not None and not np.isfinite(node.inputs[index].values).all():
                return f"weight '{node.inputs[index].name}' has values that are not finite"
        if weight.values.ndim != 2 and node.op in ("MatMul", "Gather"):
            return f"weight '{weight.name}' is not a matrix"
        terms = weight.values.size // (weight.values.shape[entry.weight_axis] if entry.weight_axis is not None else 1)
        if terms < entry.least_depth:
            return f"a product of {terms} terms is not worth rounding"
        channels = weight.values.shape[:2]
        if min(channels) < entry.least_channels:
            return f"with {channels[0]} x {channels[1]} channels it does not fill a kernel"
        rows = rows_of(node)
        if rows is not None and rows < entry.least_rows:
            return "a product of a vector only reads its weight"
        block = target.weight_scheme(entry, weight.values.ndim).granularity
        if (few or isinstance(block, PerBlock)) and node.op in ("Conv", "ConvTranspose"):
            return f"weights in {'four bits' if few else 'blocks'} are for products"
        if few and target.kind is not None and weight.values.size < target.kind.least_weights:
            return f"its weight of {weight.values.size} numbers is too small for four bits to pay"
        if weight.values.size < entry.least_weights:
            return f"its weight of {weight.values.size} numbers is too small for 8 bits to pay"
        if not entry.activations and not few and any(reader.op != node.op for reader in weight.outputs):
            return f"its weight '{weight.name}' would be kept in float beside the codes, for others"
        if isinstance(block, PerBlock) and weight.values.shape[block.axis] % block.size:
            return f"its {weight.values.shape[block.axis]} terms are no multiple of {block.size}"
        axes = len(node.inputs[0].shape or ())
        if isinstance(target.activation.granularity, PerBlock) and axes not in _BLOCK_RANKS:
            return f"blocks of '{node.inputs[0].name}' cannot be scaled in a run: it has {axes} axes"
    return ""


_BLOCK_RANKS = (2, 3)
"""Axes that a tensor may have whose blocks get their scales in each run."""


def rows_of(node: ir.Node) -> int | None:
    """How many rows a product with a constant matrix has for one sample, that is with 1 for a first axis that is free;
    None where that is not known."""
    shape = node.inputs[0].shape
    if not shape or node.op not in ("Gemm", "MatMul"):
        return None
    first, *others = shape[:-1] or [1]
    if not all(isinstance(size, int) for size in others):
        return None
    return math.prod([first if isinstance(first, int) else 1, *others])


def indices(node: ir.Node, entry: Operator) -> list[int]:
    read = range(len(node.inputs)) if entry.variadic else entry.activations
    return [index for index in read if index < len(node.inputs)]


def activations(node: ir.Node, entry: Operator) -> list[ir.Tensor]:
    return [node.inputs[index] for index in indices(node, entry)]


AROUND = frozenset(("Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Sub", "Transpose", "Where"))
"""What may stand between a Softmax and the two products of attention: scaling, masking, changes of layout."""
_FARTHEST = 8


def in_attention(node: ir.Node) -> bool:
    """Whether the product makes what a Softmax reads, or multiplies what it returns by values."""
    before = ir.producer(node.inputs[0])
    for _ in range(_FARTHEST):
        if before is None or before.op not in AROUND:
            break
        before = ir.producer(before.inputs[0])
    if before is not None and before.op == "Softmax":
        return True
    after = node.outputs[0].outputs
    for _ in range(_FARTHEST):
        if len(after) != 1 or after[0].op not in AROUND:
            break
        after = after[0].outputs[0].outputs
    return len(after) == 1 and after[0].op == "Softmax"
