"""Attention of many heads becomes the one operator that ONNX Runtime has for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from qcompiler import ir
from qcompiler.passes._edit import constant, is_float32
from qcompiler.passes._replacing import DOMAIN, Replaced
from qcompiler.passes._shape_dims import Size
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.passes._walk import Walk
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_HEADS_FIRST, _KEYS = [0, 2, 1, 3], [0, 2, 3, 1]
_BROADCASTS_MASKS = (1, 20)
"""Version of ONNX Runtime."""


@dataclass(frozen=True)
class FuseAttention(Pass):
    """``softmax(q · kᵀ · scale + mask) · v`` of each head (Vaswani et al. 2017, section 3.2), with the Reshapes and
    Transposes that part the heads and join them, becomes MultiHeadAttention of the domain ``com.microsoft``.

    ONNX Runtime then copies less, and without a mask goes over the scores block by block and never holds them all, of
    which there are as many as positions times positions for each head.

    1. Queries, keys and values of float32 ``[batch, positions, features]``, heads parted by Reshape and Transpose.
    2. Constant factors of one element, by Mul or Div, on queries, keys or scores.
    3. Without a mask, or with one of float32 ``[batch or 1, heads or 1, queries, keys]``, and what then makes zero of
       the rows that see nothing.

    Left alone: where nothing is in 8 bits, as other runtimes may be meant to read that; masks that would have to be
    expanded, and all masks where ONNX Runtime is older than 1.20, which does not broadcast them
    to the heads; sizes that are not known to be the same; results between that others read, or that are returned.
    """

    name: ClassVar[str] = "fuse-attention"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None or not ctx.plan.intended:
            return PassResult(0)
        finder, namer, rewrites = _Finder(graph), ir.Namer(graph), 0
        for inner, node in list(ir.all_nodes(graph)):
            found = finder.attention(node) if node.op == "Reshape" and not node.domain and node.inputs else None
            if found is None:
                continue
            inputs: list[ir.Tensor | None] = [found.query.whole, found.key.whole, found.value.whole]
            if found.mask is not None:
                inputs += [None, None, found.mask]
            old = Replaced(node, inner, namer, graph.opset)
            result = old.outputs[0] if found.rows is None else None
            attrs = {"num_heads": found.query.count, "scale": found.scale}
            attended = old.write("MultiHeadAttention", *inputs, result=result, domain=DOMAIN, **attrs)
            if found.rows is not None:
                rows = old.write("Squeeze", found.rows, np.array([1]))
                old.write("Mul", attended, rows, result=old.outputs[0])
            rewrites += 1
        ir.remove_dead(graph)
        return PassResult(rewrites)


@dataclass(frozen=True)
class _Heads:
    """``whole``, ``[batch, positions, count · width]``, parted into so many heads, and multiplied by the factor."""

    whole: ir.Tensor
    batch: int | Size
    positions: int | Size
    count: int
    width: int
    factor: float


@dataclass(frozen=True)
class _Attention:
    query: _Heads
    key: _Heads
    value: _Heads
    mask: ir.Tensor | None
    rows: ir.Tensor | None
    """What each row of the result is multiplied by, ``[batch or 1, 1, queries or 1, 1]``."""
    scale: float


class _Finder:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.returned = graph, ir.output_tensors(graph)

    @cached_property
    def sizes(self) -> ShapeValues:
        """Asked for where nodes are in place: most graphs never get there, and this pass runs on every candidate."""
        return ShapeValues(self.graph)

    def attention(self, joined: ir.Node) -> _Attention | None:
        """What the Reshape that joins the heads returns, where it is attention."""
        walk = Walk(joined.inputs[0], self.returned)
        back, rows = walk.up(["Transpose"]), self.rows(walk)
        attended, softmax = walk.up(["MatMul"]), walk.up(["Softmax"])
        if back is None or attended is None or softmax is None or walk.tensor is None:
            return None
        if list(back.attrs.get("perm", ())) != _HEADS_FIRST or softmax.attrs.get("axis", -1) not in (-1, 3):
            return None
        for tensor, mask in self.with_mask(walk.tensor):
            walk = Walk(tensor, self.returned)
            scale = _factor(walk)
            product = walk.up(["MatMul"])
            if product is None:
                continue
            query, key = self.heads(product.inputs[0], _HEADS_FIRST), self.heads(product.inputs[1], _KEYS)
            value = self.heads(attended.inputs[1], _HEADS_FIRST)
            if query is None or key is None or value is None or value.factor != 1.0:
                continue
            found = _Attention(query, key, value, mask, rows, scale * query.factor * key.factor)
            if self.fits(found, joined.outputs[0]):
                return found
        return None

    def rows(self, walk: Walk) -> ir.Tensor | None:
        """What multiplies the rows, which the walk goes past: see ``move-nan-guard``."""
        node = None if walk.tensor is None else ir.producer(walk.tensor)
        if node is None or node.op != "Mul" or node.domain or len(node.inputs) != 2:
            return None
        dims = self.sizes.dims(node.inputs[1])
        if dims is None or len(dims) != 4 or dims[1] != 1 or dims[3] != 1 or not is_float32(node.inputs[1]):
            return None
        return node.inputs[1] if walk.up(["Mul"]) is not None else None

    def with_mask(self, scores: ir.Tensor) -> Iterator[tuple[ir.Tensor, ir.Tensor | None]]:
        """(scores, mask) as they may be."""
        walk = Walk(scores, self.returned)
        add = walk.up(["Add"])
        if add is None:
            yield scores, None
        else:
            yield add.inputs[0], add.inputs[1]
            yield add.inputs[1], add.inputs[0]

    def heads(self, tensor: ir.Tensor, order: list[int]) -> _Heads | None:
        walk = Walk(tensor, self.returned)
        factor = _factor(walk)
        transpose, parted = walk.up(["Transpose"]), walk.up(["Reshape"])
        whole = walk.tensor
        if transpose is None or parted is None or whole is None or list(transpose.attrs.get("perm", ())) != order:
            return None
        given, made = self.sizes.dims(whole), self.sizes.dims(parted.outputs[0])
        if given is None or made is None or len(given) != 3 or len(made) != 4 or made[:2] != given[:2]:
            return None
        features, width = given[2], made[3]
        if not isinstance(features, int) or not isinstance(width, int) or width < 1 or features % width:
            return None
        return _Heads(whole, given[0], given[1], features // width, width, factor) if is_float32(whole) else None

    def fits(self, found: _Attention, result: ir.Tensor) -> bool:
        query, key, value, mask = found.query, found.key, found.value, found.mask
        if not query.batch == key.batch == value.batch or key.positions != value.positions or found.scale <= 0.0:
            return False
        if not query.count == key.count == value.count or query.width != key.width:
            return False
        if self.sizes.dims(result) != [query.batch, query.positions, value.count * value.width]:
            return False
        rows = None if found.rows is None else self.sizes.dims(found.rows)
        if rows is not None and (rows[0] not in (1, query.batch) or rows[2] not in (1, query.positions)):
            return False
        if mask is None:
            return True
        if _runtime() < _BROADCASTS_MASKS:
            return False
        dims = self.sizes.dims(mask)
        if dims is None or len(dims) != 4 or not is_float32(mask):
            return False
        return (
            dims[0] in (1, query.batch)
            and dims[1] in (1, query.count)
            and dims[2:] == [query.positions, key.positions]
        )


def _runtime() -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def _factor(walk: Walk) -> float:
    """What constants of one element multiply the tensor by, which the walk goes past."""
    factor = 1.0
    while walk.tensor is not None:
        node = ir.producer(walk.tensor)
        if node is None or node.op not in ("Mul", "Div") or node.domain or len(node.inputs) != 2:
            break
        numbers = [constant(tensor) for tensor in node.inputs]
        place = 1 if numbers[1] is not None or node.op == "Div" else 0
        number = numbers[place]
        if number is None or number.size != 1 or number.ndim > 1 or number.dtype != np.float32:
            break
        value = float(number.reshape(-1)[0])
        if not np.isfinite(value) or value == 0.0 or walk.up([node.op], 1 - place) is None:
            break
        factor *= value if node.op == "Mul" else 1.0 / value
    return factor
