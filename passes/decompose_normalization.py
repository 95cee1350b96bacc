"""Normalizations that ONNX Runtime has fused with what is before them are taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import rank
from qcompiler.passes._replacing import DOMAIN, Refusal, Replaced, Way, decomposed, float_type, is_read
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_OPSET = 17
"""The first operator set with LayerNormalization."""
_EPSILON = 1e-12
"""Of the domain's operators, where they name none."""
_SIMPLIFIED_EPSILON = 1e-5


@dataclass(frozen=True)
class DecomposeNormalization(Pass):
    """Becomes standard operators, at every depth:

    1. SkipLayerNormalization: the sum with its bias, and LayerNormalization of it;
    2. SkipSimplifiedLayerNormalization, and SimplifiedLayerNormalization of the last axis: the sum, and
       ``x / sqrt(mean(x²) + epsilon) · scale`` (RMSNorm, Zhang and Sennrich 2019, equation 4);
    3. EmbedLayerNormalization: a Gather from each table, their sum, its LayerNormalization, and the number of ones in
       each row of the mask.

    The tables are embeddings then, and the sums what residual connections are: both are quantized like others.

    Left alone: where nothing is quantized for a target that has them itself. Refused: operator sets below 17; means and
    deviations that are read; other axes; rows of a mask that are counted where there is no mask.
    """

    name: ClassVar[str] = "decompose-normalization"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return decomposed(graph, ctx, _WAYS)


def _skip(old: Replaced) -> None:
    _check(old, 0, 1, 2)
    x, skip, scale = old.inputs[:3]
    total = _sum(old, [x, skip, old.input(4)], old.output(3))
    _normalize(old, total, scale, old.input(3))


def _skip_simplified(old: Replaced) -> None:
    _check(old, 0, 1, 2)
    kind = float_type(*old.inputs, old.output(0))
    x, skip, scale = old.inputs[:3]
    total = _sum(old, [x, skip, old.input(3)], old.output(3))
    _by_square(old, total, scale, kind, float(old.attrs.get("epsilon", _EPSILON)))


def _simplified(old: Replaced) -> None:
    _check(old, 0, 1)
    count, axis = rank(old.inputs[0]), int(old.attrs.get("axis", -1))
    if axis != -1 and axis + 1 != count:
        raise Refusal("it normalizes more than the last axis")
    kind = float_type(*old.inputs, old.output(0))
    _by_square(old, old.inputs[0], old.inputs[1], kind, float(old.attrs.get("epsilon", _SIMPLIFIED_EPSILON)))


def _embed(old: Replaced) -> None:
    _check(old, 0, 2, 3, 5, 6)
    ids, segments, words, positions, kinds, scale, shift = old.inputs[:7]
    counted, mask, places = old.output(1), old.input(7), old.input(8)
    if counted is not None and mask is None and is_read(counted, old):
        raise Refusal("it counts ones of a mask that it has not")
    found: list[ir.Tensor] = [old.write("Gather", words, ids, axis=0)]
    if places is None:
        length = old.write("Gather", old.write("Shape", ids), _whole([1]), axis=0)
        found.append(old.write("Slice", positions, _whole([0]), length, _whole([0])))
    else:
        found.append(old.write("Gather", positions, places, axis=0))
    if segments.name and kinds.name:
        found.append(old.write("Gather", kinds, segments, axis=0))
    _normalize(old, _sum(old, found, old.output(2)), scale, shift)
    if counted is not None and mask is not None:
        ones = old.cast(old.write("Equal", old.cast(mask, np.int64), np.array(1, np.int64)), np.int32)
        old.write("ReduceSum", ones, _whole([1]), result=counted, keepdims=0)


def _check(old: Replaced, *needed: int) -> None:
    old.needs(*needed)
    if old.opset < _OPSET:
        raise Refusal(f"LayerNormalization needs opset {_OPSET}, the model has {old.opset}")
    embeds = old.node.op == "EmbedLayerNormalization"
    for index in () if embeds else (1, 2):
        extra = old.output(index)
        if extra is not None and is_read(extra, old):
            raise Refusal(f"'{extra.name}', for training, is read")


def _sum(old: Replaced, parts: Sequence[ir.Tensor | None], result: ir.Variable | None) -> ir.Tensor:
    """Of the parts that are there, in their order; into ``result`` if there is one."""
    first, *others = [part for part in parts if part is not None]
    for index, part in enumerate(others):
        last = index == len(others) - 1
        first = old.write("Add", first, part, result=result if last else None)
    return first


def _normalize(old: Replaced, x: ir.Tensor, scale: ir.Tensor, shift: ir.Tensor | None) -> None:
    epsilon = float(old.attrs.get("epsilon", _EPSILON))
    parameters = [scale] if shift is None or not shift.name else [scale, shift]
    old.write("LayerNormalization", x, *parameters, result=old.output(0), axis=-1, epsilon=epsilon)


def _by_square(old: Replaced, x: ir.Tensor, scale: ir.Tensor, kind: np.dtype, epsilon: float) -> None:
    square = old.write("Pow", x, np.array(2.0, kind))
    if old.opset >= 18:
        mean = old.write("ReduceMean", square, _whole([-1]), keepdims=1)
    else:
        mean = old.write("ReduceMean", square, axes=[-1], keepdims=1)
    deviation = old.write("Sqrt", old.write("Add", mean, np.array(epsilon, kind)))
    old.write("Mul", old.write("Div", x, deviation), scale, result=old.output(0))


def _whole(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


_WAYS: dict[tuple[str, str], Way] = {
    (DOMAIN, "SkipLayerNormalization"): _skip,
    (DOMAIN, "SkipSimplifiedLayerNormalization"): _skip_simplified,
    ("", "SimplifiedLayerNormalization"): _simplified,
    (DOMAIN, "EmbedLayerNormalization"): _embed,
}
