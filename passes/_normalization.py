"""What stands in a normalization over the last axes, however it is written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import Monomial, scalar


def root_power(node: ir.Node) -> int | None:
    """The power to which the node's output is one over the root of its input; None when the node is no root."""
    if node.domain:
        return None
    if node.op == "Sqrt":
        return -1
    return {0.5: -1, -0.5: 1}.get(scalar(node.inputs[1]) or 0.0) if node.op == "Pow" else None


def made_by(tensor: ir.Tensor, *ops: str) -> bool:
    node = ir.producer(tensor)
    return node is not None and not node.domain and node.op in ops


def last_axes(reduce: ir.Node, source: ir.Tensor) -> int | str:
    """How many of the last axes the node reduces, or why it does something else."""
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1:
        if not ir.is_constant(reduce.inputs[1]):
            return "its axes are computed"
        axes = [int(axis) for axis in reduce.inputs[1].values]
    rank = None if source.shape is None else len(source.shape)
    if not axes or reduce.attrs.get("keepdims", 1) != 1:
        return "it reduces all axes, or drops the reduced ones"
    if rank is None and max(axes) >= 0:
        return "its axes count from the front and the rank is not known"
    from_back = sorted(axis - (rank or 0) if axis >= 0 else axis for axis in axes)
    if from_back != list(range(-len(from_back), 0)):
        return f"it normalizes over axes {list(axes)}, which are not the last ones"
    return len(from_back)


def normalized_shape(tensors: Sequence[ir.Tensor], source: ir.Tensor, axes: int) -> tuple[int, ...] | None:
    """The shape that gamma and beta must have: their own, or that of the source's last axis when they are numbers.

    More dimensions are fine when they are 1 and do not raise the rank of the result.
    """
    known = source.shape
    shapes = set()
    for tensor in tensors:
        shape = tensor.values.shape
        if len(shape) < axes or set(shape[:-axes]) - {1}:
            return None
        if len(shape) > (axes if known is None else len(known)):
            return None
        shapes.add(tuple(shape[-axes:]))
    if not tensors and known is not None and axes == 1 and isinstance(known[-1], int):
        return (known[-1],)  # for more axes the ones would be as large as an activation
    if len(shapes) != 1:
        return None
    (only,) = shapes
    sizes = only if known is None else known[-axes:]
    return only if all(not isinstance(size, int) or size == own for size, own in zip(sizes, only)) else None


def filled(monomial: Monomial, factor: float, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What gamma or beta is: the one constant that is left, or a number, times ``factor``; of the ``shape``."""
    if not monomial:
        return np.full(shape, factor, dtype)
    ((tensor, _),) = monomial
    values = tensor.values.reshape(shape)
    return values if factor == 1.0 else (values.astype(np.float64) * factor).astype(dtype)
