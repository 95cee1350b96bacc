"""Einsum of two operands takes the form of a product of matrices, which can be quantized."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import is_float32, rank
from qcompiler.passes._replacing import Refusal, Replaced
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
"""What older operator sets have other forms of, such as Unsqueeze, is not written."""


@dataclass(frozen=True)
class CanonicalEinsum(Pass):
    """``Einsum(x, W)`` and ``Einsum(x, y)`` become Transpose, Reshape and MatMul.

    Keras writes its dense layers and heads of attention as Einsum (``abc,cde->abde``, ``abcd,cde->abe``,
    ``aecd,abcd->acbe``), of which ONNX Runtime has no 8-bit form.

    1. A constant weight: the axes that are summed over come last in x and first in the weight, and become one; the
       weight is laid out anew here.
    2. Two computed tensors of the same axes but one each, and one that is summed over: scores and contexts of
       attention.
    3. An ellipsis for as many axes of each operand that has one.

    Refused: an ellipsis for other axes, an axis that is named twice in one operand or summed in one alone, one operand
    or more than two, axes of both that stay beside a constant weight, more than one axis of a computed tensor on a
    side.
    """

    name: ClassVar[str] = "canonical-einsum"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, refused, rewrites = ir.Namer(graph), [], 0
        for inner, node in list(ir.all_nodes(graph)):
            if node.op != "Einsum" or node.domain or graph.opset < OLDEST_OPSET:
                continue
            try:
                _rewrite(node, inner, namer, graph.opset)
                rewrites += 1
            except Refusal as refusal:
                refused.append(Diagnostic(node.name, f"Einsum stays: {refusal}", "refused"))
        if rewrites:
            ir.sort(graph)
            ir.infer_shapes(graph)
        return PassResult(rewrites, tuple(refused))


_ELLIPSIS = "..."


@dataclass(frozen=True)
class _Equation:
    """Axes by letter. ``batch``: of both operands and the result; ``summed``: of both; ``left``, ``right``: of one."""

    first: str
    second: str
    result: str

    def _of(self, *, first: bool, second: bool, result: bool) -> str:
        operands, wanted = (self.first, self.second, self.result), (first, second, result)
        letters = dict.fromkeys(self.result + self.first + self.second)
        return "".join(letter for letter in letters if tuple(letter in axes for axes in operands) == wanted)

    @property
    def batch(self) -> str:
        return self._of(first=True, second=True, result=True)

    @property
    def summed(self) -> str:
        return self._of(first=True, second=True, result=False)

    @property
    def left(self) -> str:
        return self._of(first=True, second=False, result=True)

    @property
    def right(self) -> str:
        return self._of(first=False, second=True, result=True)


def _read(node: ir.Node) -> _Equation:
    equation = node.attrs.get("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    operands, arrow, result = text.partition("->")
    parts = operands.split(",")
    if len(parts) != 2 or len(node.inputs) != 2:
        raise Refusal("it has not two operands")
    if not arrow:  # ONNX, Einsum: those of the ellipsis, then the axes that are named once, in alphabetical order
        named = operands.replace(_ELLIPSIS, "").replace(",", "")
        result = _ELLIPSIS * (_ELLIPSIS in operands) + "".join(sorted(axis for axis in named if named.count(axis) == 1))
    if _ELLIPSIS in text:
        parts, result = _spelled_out(node, parts, result)
    found = _Equation(parts[0], parts[1], result)
    if any(len(set(axes)) != len(axes) for axes in (*parts, result)):
        raise Refusal("an axis is named twice in one operand")
    if any(rank(tensor) != len(axes) for tensor, axes in zip(node.inputs, parts)):
        raise Refusal("the number of an operand's axes is not known to be that of the equation")
    if set(found.batch + found.summed + found.left + found.right) != set("".join(parts)):
        raise Refusal("an axis of one operand alone is summed over")
    if not set(result) <= set("".join(parts)):
        raise Refusal("the result has an axis that no operand has")
    sizes: dict[str, int] = {}
    for tensor, axes in zip(node.inputs, parts):
        for axis, size in zip(axes, tensor.shape or ()):
            if isinstance(size, int) and sizes.setdefault(axis, size) != size:  # 1 is repeated, which MatMul would not
                raise Refusal("an axis of both is not of one size")
    if not found.summed:
        raise Refusal("nothing is summed over")
    return found


def _spelled_out(node: ir.Node, parts: list[str], result: str) -> tuple[list[str], str]:
    """The axes of the operands and the result, with letters in the place of ellipses."""
    many = {
        (rank(tensor) or 0) - len(axes) + len(_ELLIPSIS)
        for tensor, axes in zip(node.inputs, parts) if _ELLIPSIS in axes
    }
    free = sorted(set(string.ascii_letters) - set("".join([*parts, result])))
    if len(many) != 1 or not 0 <= min(many) <= len(free) or _ELLIPSIS not in result:
        raise Refusal("an ellipsis stands for axes of no certain number")
    letters = "".join(free[: min(many)])
    return [axes.replace(_ELLIPSIS, letters) for axes in parts], result.replace(_ELLIPSIS, letters)


def _rewrite(node: ir.Node, graph: ir.Graph, namer: ir.Namer, opset: int) -> None:
    axes = _read(node)
    first, second = node.inputs
    if ir.is_constant(first) and not ir.is_constant(second):
        axes, first, second = _Equation(axes.second, axes.first, axes.result), second, first
    if not is_float32(first) or not is_float32(second):
        raise Refusal("its operands are not known to be float32")
    old = Replaced(node, graph, namer, opset)
    if ir.is_constant(second) and not ir.is_constant(first):
        _with_weight(old, axes, first, np.asarray(second.values))
    else:
        _of_two(old, axes, first, second)


def _with_weight(old: Replaced, axes: _Equation, x: ir.Tensor, weight: np.ndarray) -> None:
    if axes.batch:
        raise Refusal("an axis of both stays beside a constant weight")
    sizes = dict(zip(axes.second, weight.shape))
    rows, columns = ([sizes[letter] for letter in letters] for letters in (axes.summed, axes.right))
    if 0 in weight.shape:
        raise Refusal("the weight is empty")
    laid_out = weight.transpose([axes.second.index(letter) for letter in axes.summed + axes.right])
    matrix = np.ascontiguousarray(laid_out.reshape(math.prod(rows), math.prod(columns)))
    made = _in_order(old, x, axes.first, axes.left + axes.summed)
    kept = [0] * len(axes.left)  # Reshape: as they are
    if len(rows) > 1:
        made = old.write("Reshape", made, np.array([*kept, math.prod(rows)]))
    plain = len(columns) == 1 and axes.result == axes.left + axes.right
    made = old.write("MatMul", made, matrix, result=old.output(0) if plain else None)
    if plain:
        return
    in_order = axes.result == axes.left + axes.right
    if len(columns) != 1:
        result = old.output(0) if in_order else None
        made = old.write("Reshape", made, np.array([*kept, *columns], np.int64), result=result)
    if not in_order:
        _in_order(old, made, axes.left + axes.right, axes.result, old.output(0))


def _of_two(old: Replaced, axes: _Equation, first: ir.Tensor, second: ir.Tensor) -> None:
    if any(len(letters) != 1 for letters in (axes.left, axes.right, axes.summed)):
        raise Refusal("of two computed tensors each has not one axis of its own and one that is summed over")
    one = _in_order(old, first, axes.first, axes.batch + axes.left + axes.summed)
    other = _in_order(old, second, axes.second, axes.batch + axes.summed + axes.right)
    order = axes.batch + axes.left + axes.right
    if order == axes.result:
        old.write("MatMul", one, other, result=old.output(0))
    else:
        _in_order(old, old.write("MatMul", one, other), order, axes.result, old.output(0))


def _in_order(
    old: Replaced, x: ir.Tensor, given: Sequence[str], wanted: Sequence[str], result: ir.Variable | None = None
) -> ir.Tensor:
    """The tensor with its axes in another order; itself where that is the same."""
    if list(given) == list(wanted) and result is None:
        return x
    return old.write("Transpose", x, result=result, perm=[list(given).index(letter) for letter in wanted])
