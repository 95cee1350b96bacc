"""Samples made up from what a model says of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.data.samples import Feed, Samples, is_float
from qcompiler.errors import DataError


def random_samples(inputs: Sequence[ir.Variable], count: int, seed: int = 0) -> Samples:
    """Made-up samples, for timing and for comparing two forms of one model; never to take ranges from.

    Floats are drawn from N(0, 1); integers are 0 or 1, which are valid as token, segment and mask alike, and 1 where
    the input is a scalar; booleans are true or false. A free batch axis gets 1: the first, or the only free one after a
    first that is fixed above 1 (a recurrent state). Another free axis gets 32, or 224 if it is one of the last two of
    a four-axis float input (a picture). Axes with the same symbol get the same size.

    Raises:
        DataError: the model does not say how many axes, or which element type, an input has.
    """
    inputs = tuple(inputs)
    shapes = _made_up_shapes(inputs)

    def feeds() -> Iterator[Feed]:
        for index in range(count):
            random = np.random.default_rng([seed, index])
            yield {tensor.name: _draw(random, tensor, shape) for tensor, shape in zip(inputs, shapes)}

    return Samples(inputs, feeds, where="random samples", count=count)


def _made_up_shapes(inputs: Sequence[ir.Variable]) -> list[tuple[int, ...]]:
    symbols: dict[str, int] = {}
    shapes = []
    for tensor in inputs:
        if tensor.shape is None or tensor.dtype is None or tensor.type_proto is not None:
            unknown = "element type" if tensor.dtype is None else "number of axes"
            raise DataError(
                f"the model does not say which {unknown} input '{tensor.name}' has", fix="give samples with --data"
            )
        picture = len(tensor.shape) == 4 and is_float(np.dtype(tensor.dtype))
        free = [axis for axis, size in enumerate(tensor.shape) if not isinstance(size, int)]
        batch = free[0] if len(free) == 1 and tensor.shape[0] != 1 else 0
        shape = []
        for axis, size in enumerate(tensor.shape):
            if not isinstance(size, int):
                default = 1 if axis == batch else 224 if picture and axis >= 2 else 32
                size = symbols.setdefault(size, default) if isinstance(size, str) else default
            shape.append(size)
        shapes.append(tuple(shape))
    return shapes


def _draw(random: np.random.Generator, tensor: ir.Variable, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(tensor.dtype)
    if is_float(dtype):
        return np.asarray(random.standard_normal(shape, dtype=np.float32)).astype(dtype)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0, 2, shape) if shape else 1, dtype)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape), bool)
    raise DataError(f"cannot make up values of {dtype} for input '{tensor.name}'", fix="give samples with --data")
