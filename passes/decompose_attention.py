"""Self-attention that ONNX Runtime has fused with its products is taken apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, rank
from qcompiler.passes._replacing import DOMAIN, Refusal, Replaced, decomposed, float_type, is_read
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_FILTER = -10000.0
"""What is added to scores that a mask hides, where no number is named."""


@dataclass(frozen=True)
class DecomposeAttention(Pass):
    """Attention of the domain ``com.microsoft``, which holds the weights of query, key and value in one matrix, becomes
    a MatMul and an Add for each, and ``softmax(q · kᵀ · scale + mask) · v`` of each head (Vaswani et al. 2017,
    section 3.2), at every depth:

    1. with weights that are constant, and with or without a bias;
    2. without a mask, with one of ``[batch, length]`` or ``[batch, length, length]`` that hides where it is no more
       than 0, or with the number of keys that each row has;
    3. where no position sees those behind it, and with more that is added to the scores.

    Its weights are most of a transformer's; inside of the one node nobody quantizes them.

    Left alone: where nothing is quantized for a target that has it itself. Refused: weights that are computed; keys and
    values of steps before; rotary embeddings; masks of other shapes, or of an unknown number of axes.
    """

    name: ClassVar[str] = "decompose-attention"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return decomposed(graph, ctx, {(DOMAIN, "Attention"): _attention})


def _attention(old: Replaced) -> None:
    old.needs(0, 1)
    x, heads, mask = old.inputs[0], int(old.attrs.get("num_heads", 0)), old.input(3)
    weight = constant(old.inputs[1])
    bias = old.input(2)
    shift = None if bias is None else constant(bias)
    if weight is None or (bias is not None and shift is None):
        raise Refusal("its weights are computed")
    if weight.ndim != 2 or (shift is not None and shift.shape != weight.shape[1:]):
        raise Refusal(f"its weights of shape {list(weight.shape)} are no matrix with a bias for each column")
    if old.attrs.get("do_rotary", 0):
        raise Refusal("it rotates queries and keys")
    present = old.output(1)
    if old.input(4) is not None or (present is not None and is_read(present, old)):
        raise Refusal("it keeps keys and values from step to step")
    sizes = [int(size) for size in old.attrs.get("qkv_hidden_sizes", ())] or [weight.shape[-1] // 3] * 3
    if heads < 1 or len(sizes) != 3 or sum(sizes) != weight.shape[-1] or any(size % heads for size in sizes):
        raise Refusal(f"{weight.shape[-1]} columns of weights are not query, key and value of {heads} heads")
    if mask is not None:
        _check(mask, x)

    kind = float_type(old.inputs[1])
    scale = float(old.attrs.get("scale", 0.0)) or 1.0 / math.sqrt(sizes[0] // heads)
    ends = np.cumsum([0, *sizes])
    parts: list[ir.Tensor] = []
    for index, order in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        columns = slice(ends[index], ends[index + 1])
        part: ir.Tensor = old.write("MatMul", x, weight[:, columns])
        if shift is not None:
            part = old.write("Add", part, shift[columns])
        if index == 0:
            part = old.write("Mul", part, np.array(scale, kind))
        part = old.write("Reshape", part, np.array([0, 0, heads, sizes[index] // heads], np.int64))
        parts.append(old.write("Transpose", part, perm=order))
    query, key, value = parts
    scores: ir.Tensor = old.write("MatMul", query, key)
    length = old.write("Gather", old.write("Shape", x), np.array([1], np.int64), axis=0)
    hidden = float(old.attrs.get("mask_filter_value", _FILTER))
    if mask is not None:
        scores = old.write("Add", scores, _hiding(old, mask, length, np.array(hidden, kind)))
    if old.attrs.get("unidirectional", 0):
        scores = old.write("Add", scores, _behind(old, length, kind))
    if old.input(5) is not None:
        scores = old.write("Add", scores, old.inputs[5])
    seen = old.write("MatMul", old.write("Softmax", scores, axis=-1), value)
    rows = old.write("Transpose", seen, perm=[0, 2, 1, 3])
    old.write("Reshape", rows, np.array([0, 0, sizes[2]], np.int64), result=old.output(0))


def _check(mask: ir.Tensor, x: ir.Tensor) -> None:
    count = rank(mask)
    if count not in (1, 2, 3):
        raise Refusal(f"its mask has {'an unknown number of' if count is None else count} axes")
    if count == 1 and (x.shape is None or not x.shape or mask.shape[0] in (None, "") or mask.shape[0] != x.shape[0]):
        raise Refusal("its mask may hold where rows begin as well as where they end")


def _hiding(old: Replaced, mask: ir.Tensor, length: ir.Tensor, hidden: np.ndarray) -> ir.Tensor:
    """What is added to scores ``[batch, heads, length, length]`` for the mask."""
    count = rank(mask)
    if count == 1:
        places = _places(old, length)
        seen = old.write("Less", places, old.write("Unsqueeze", _wide(old, mask), np.array([1], np.int64)))
    else:
        seen = old.write("Greater", _wide(old, mask), np.array(0, np.int64))
    added = old.write("Where", seen, np.array(0.0, hidden.dtype), hidden)
    return old.write("Unsqueeze", added, np.array([1] if count == 3 else [1, 2], np.int64))


def _behind(old: Replaced, length: ir.Tensor, kind: np.dtype) -> ir.Tensor:
    """What is added to scores of keys behind the query: the lowest number there is."""
    places = _places(old, length)
    later = old.write("Greater", places, old.write("Unsqueeze", places, np.array([1], np.int64)))
    return old.write("Where", later, np.array(np.finfo(kind).min, kind), np.array(0.0, kind))


def _places(old: Replaced, length: ir.Tensor) -> ir.Tensor:
    """int64 ``[length]``: 0, 1, …"""
    count = old.write("Squeeze", length, np.array([0], np.int64))
    return old.write("Range", np.array(0, np.int64), count, np.array(1, np.int64))


def _wide(old: Replaced, mask: ir.Tensor) -> ir.Tensor:
    return old.cast(mask, np.int64)

