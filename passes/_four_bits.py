"""Matrices of constant codes in four bits behind a DequantizeLinear: finding them and what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from qcompiler import ir
from qcompiler.four_bits import Codes, pairs
from qcompiler.passes._edit import constant, operand


@dataclass(frozen=True)
class Matrix:
    """``codes`` ``[rows, columns]`` of int4 or uint4, summed over along ``axis`` in blocks of ``block``. ``scale`` and
    ``zero_point``, or None where all are zero: an entry a block. ``pieces``: into how many equal ones each block is
    cut where it is written."""

    codes: ir.Constant
    scale: ir.Constant
    zero_point: ir.Constant | None
    axis: int
    block: int
    pieces: int = 1

    @property
    def depth(self) -> int:
        return int(self.codes.shape[self.axis])

    @property
    def outputs(self) -> int:
        return int(self.codes.shape[1 - self.axis])

    @property
    def whole(self) -> bool:
        """Whether each output has one scale."""
        return self.block == self.depth

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are in the middle of the codes."""
        if self.zero_point is None:
            return self.codes.dtype.name == "int4"
        return bool(np.all(self.zero_point.values.astype(np.int8) == (0 if self.codes.dtype.name == "int4" else 8)))

    def identity(self) -> Hashable:
        """Equal for equal weights, be one the other's transpose."""
        if isinstance(self.codes.held, Codes):
            return self.codes.held.identity
        parts = (self.by_output(self.codes.values.astype(np.int8)), self.scales(), self.four_bit_zero_points())
        return tuple(hashlib.blake2b(np.ascontiguousarray(part).data).digest() for part in parts), self.block

    def by_output(self, array: np.ndarray) -> np.ndarray:
        return array if self.axis == 1 else array.T

    def scales(self) -> np.ndarray:
        """float ``[outputs, blocks]``."""
        return np.repeat(self.by_output(self._two_axes(self.scale.values)), self.pieces, axis=1)

    def four_bit_zero_points(self) -> np.ndarray:
        """uint8 ``[outputs, blocks]``, 0 to 15."""
        low = -8 if self.codes.dtype.name == "int4" else 0
        if self.zero_point is None:
            return np.full((self.outputs, self.depth // self.block * self.pieces), -low, np.uint8)
        found = self.by_output(self._two_axes(self.zero_point.values)).astype(np.int8) - low
        return np.repeat(found.astype(np.uint8), self.pieces, axis=1)

    def packed(self) -> np.ndarray | ir.Computed:
        """uint8 ``[outputs, blocks, ceil(block / 2)]``."""
        if isinstance(self.codes.held, Codes):
            return self.codes.held.packed(self.pieces)
        low = -8 if self.codes.dtype.name == "int4" else 0
        rows = (self.by_output(self.codes.values).astype(np.int8) - low).astype(np.uint8)
        return pairs(rows.reshape(self.outputs, -1, self.block // self.pieces))

    def _two_axes(self, array: np.ndarray) -> np.ndarray:
        shape = [self.depth // self.block, self.outputs]
        return array.reshape(shape if self.axis == 0 else shape[::-1])


@dataclass(frozen=True)
class Reader:
    """A product, or a Gather, that reads a matrix; ``graph`` holds it."""

    graph: ir.Graph
    node: ir.Node
    matrix: Matrix

    @property
    def gathers(self) -> bool:
        return self.node.op == "Gather"


def dequantized(tensor: ir.Tensor) -> Matrix | str | None:
    """The matrix that is dequantized to the tensor; why it is none that kernels take, or None where it is no such
    thing."""
    node = ir.producer(tensor)
    if node is None or node.op != "DequantizeLinear" or node.domain:
        return None
    codes, scale, zero_point = (operand(node, index) for index in range(3))
    if not isinstance(codes, ir.Constant) or codes.dtype.name not in ("int4", "uint4") or len(codes.shape) != 2:
        return None
    if not isinstance(scale, ir.Constant) or (zero_point is not None and not isinstance(zero_point, ir.Constant)):
        return "its scales are computed"
    axis, block = int(node.attrs.get("axis", 1)) % 2, int(node.attrs.get("block_size", 0))
    if not block and (len(scale.shape) != 1 or scale.shape[0] != codes.shape[axis]):
        return "it has one scale in all"
    axis = axis if block else 1 - axis
    depth = codes.shape[axis]
    if block and depth % block:
        return f"its {depth} terms are no multiple of its blocks of {block}"
    steps = np.abs(scale.values.astype(np.float32))
    if not np.all(np.isfinite(steps) & (steps >= np.finfo(scale.dtype).tiny)):
        return f"a scale of '{scale.name}' is zero, subnormal or not finite"
    return Matrix(codes, scale, zero_point, axis, block or depth)


def readers(graph: ir.Graph, refused: Callable[[ir.Node, str], None]) -> Iterator[Reader]:
    """Each node that reads a matrix as kernels can; of the others ``refused`` is told."""
    for inner, node in list(ir.all_nodes(graph)):
        index = 0 if node.op == "Gather" else 1
        if node.domain or node.op not in ("Gather", "Gemm", "MatMul") or index >= len(node.inputs):
            continue
        matrix = dequantized(node.inputs[index])
        if matrix is None:
            continue
        if isinstance(matrix, str):
            refused(node, matrix)
            continue
        reason = _other_form(node, matrix)
        if reason:
            refused(node, reason)
        else:
            yield Reader(inner, node, matrix)


def _other_form(node: ir.Node, matrix: Matrix) -> str:
    if node.op == "Gather":
        if node.attrs.get("axis", 0) != 0:
            return "it does not take whole rows"
        return "" if matrix.axis == 1 else "its blocks run across the rows that it takes"
    plain = all(node.attrs.get(name, default) == default for name, default in (("transA", 0), ("alpha", 1.0)))
    bias = operand(node, 2) if node.op == "Gemm" else None
    if bias is not None:
        plain = plain and node.attrs.get("beta", 1.0) == 1.0 and row(bias, matrix.outputs)
    if not plain:
        return "it has factors, a transposed input or a bias that is no row"
    turned = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    return "" if matrix.axis == int(turned) else "its blocks run across what it sums over"


def row(tensor: ir.Tensor, columns: int) -> bool:
    """Whether the tensor is a constant with one entry a column and nothing else."""
    values = constant(tensor)
    return values is not None and values.size == columns and values.shape[-1:] == (columns,)
