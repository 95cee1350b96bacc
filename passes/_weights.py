"""What the ways to round weights of four bits share: which weights there are, and writing down what was found."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qcompiler import ir, numerics
from qcompiler.four_bits import BYTES, reduced_axis
from qcompiler.plan import Plan, Site
from qcompiler.runtime import side_by_side
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme


@dataclass(eq=False)
class Weight:
    """One that has no scales yet. ``values``: ``[outputs, inputs]``, a view; ``sites``: its uses, of all the tensors
    that are views of it; ``block``: how many inputs share a scale."""

    values: np.ndarray
    block: int
    scheme: Scheme
    sites: list[Site] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.sites[0].tensor

    @property
    def blocks(self) -> int:
        return self.values.shape[1] // self.block


def weights(graph: ir.Graph, plan: Plan) -> list[Weight]:
    """The matrices of four bits that the plan places and nobody has solved; the same numbers only once."""
    tensors, found = ir.all_tensors(graph), dict[Hashable, Weight]()
    for site, quant in sorted(plan.sites.items(), key=lambda item: item[0]):
        tensor, scheme = tensors[site.tensor], quant.scheme
        if quant.origin != "unsolved" or not scheme.four_bits or isinstance(scheme.granularity, PerTensor):
            continue
        if not isinstance(tensor, ir.Constant) or len(tensor.shape) != 2:
            continue
        rows = tensor.values if reduced_axis(scheme) == 1 else tensor.values.T
        block = scheme.granularity.size if isinstance(scheme.granularity, PerBlock) else rows.shape[1]
        key = (rows.__array_interface__["data"][0], rows.shape, rows.strides, block)
        found.setdefault(key, Weight(rows, block, scheme)).sites.append(site)
    return list(found.values())


Solver = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From float32 ``[outputs, blocks, block]`` to float32 scales and int64 zero points ``[outputs, blocks]``."""


def solve(weight: Weight, solver: Solver) -> tuple[np.ndarray, np.ndarray]:
    """A weight's scales and zero points, found a few outputs at a time; NaN where the weight has values that are not
    finite."""
    outputs = weight.values.shape[0]
    step = max(1, BYTES // (4 * weight.values.shape[1]))
    parts = [slice(first, first + step) for first in range(0, outputs, step)]

    def solved(part: slice) -> tuple[np.ndarray, np.ndarray]:
        values = np.ascontiguousarray(weight.values[part], np.float32)
        blocks = values.reshape(-1, weight.blocks, weight.block)
        with np.errstate(invalid="ignore", over="ignore"):
            scale, zero_point = solver(blocks)
        return np.where(np.isfinite(blocks).all(axis=2), scale, np.float32(np.nan)), zero_point

    found = list(side_by_side(solved, parts))
    return np.concatenate([scale for scale, _ in found]), np.concatenate([zero for _, zero in found])


def with_numbers(plan: Plan, found: Mapping[Weight, tuple[np.ndarray, np.ndarray]]) -> Plan:
    """The plan with these scales and zero points ``[outputs, blocks]``."""
    sites = dict(plan.sites)
    for weight, numbers in found.items():
        for site in weight.sites:
            quant = sites[site]
            scale, zero_point = (shaped(array, quant.scheme) for array in numbers)
            sites[site] = quant.solved(scale, zero_point, "weights")
    return replace(plan, sites=sites)


def shaped(array: np.ndarray, scheme: Scheme) -> np.ndarray:
    """An array ``[outputs, blocks]`` as the scheme's scales are."""
    if isinstance(scheme.granularity, PerAxis):
        return array[:, 0]
    return array if reduced_axis(scheme) == 1 else array.T


def kept_normal(scale: np.ndarray, used: np.ndarray) -> np.ndarray:
    """float32 scales that no kernel refuses; 1 where the block is not ``used``, being all zero."""
    size = np.maximum(np.abs(scale), numerics.SMALLEST_SCALE)  # of NaN it makes NaN
    return np.where(used, np.copysign(size, scale), 1.0).astype(np.float32)


def batches(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
