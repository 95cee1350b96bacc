"""Scales of weights in four bits with which none is cut off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir, numerics
from qcompiler.errors import PassError
from qcompiler.four_bits import Codes
from qcompiler.passes._weights import Weight, kept_normal, weights, with_numbers
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.plan import TensorQuant
from qcompiler.runtime import side_by_side
from qcompiler.scheme import PerBlock


@dataclass(frozen=True)
class NearestWeights(Pass):
    """The value that reaches farthest takes the code that does, the lowest one: where it is positive the scale is
    negative. Codes are those next to the weights. Where the context has a scratch file, codes are made at once and kept
    there: a weight is read from the disk once, while it is in memory.

    ``turned``: without it scales are positive and the lowest code is not used, as ``solve`` has it.
    """

    name: ClassVar[str] = "nearest-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    turned: bool = True

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        scratch, found = ctx.scratch, {}

        def solved(weight: Weight) -> tuple[Codes, np.ndarray | None]:
            codes = _codes(weight, self.turned)
            finite = np.isfinite(codes.scale).all()
            return codes, codes.packed().load() if scratch is not None and finite else None

        todo = weights(graph, ctx.plan)
        for weight, (codes, packed) in zip(todo, side_by_side(solved, todo)):
            found[weight] = codes.by_row(codes.scale), codes.by_row(codes.zero_point)
            if scratch is not None and packed is not None:
                scratch.keep(codes, packed)
        return PassResult(len(todo), plan=with_numbers(ctx.plan, found))


def _codes(weight: Weight, turned: bool) -> Codes:
    """In the order that the weight has in memory, which is read once from end to end."""
    along = weight.values.flags.c_contiguous
    values = weight.values if along else weight.values.T
    scheme = replace(weight.scheme, granularity=PerBlock(int(along), weight.block))
    with np.errstate(invalid="ignore"):
        low, high = numerics.weight_range(values, scheme)
        scale, zero_point = numerics.scale_and_zero_point(low, high, scheme)
        if turned and scheme.symmetric:
            farthest = np.where(high > -low, high, low)
            scale = kept_normal(farthest / np.float32(-8.0), farthest != 0.0)
    return Codes(values, TensorQuant(scheme).solved(scale, zero_point, "weights"))
