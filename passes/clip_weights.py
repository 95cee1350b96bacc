"""Scales of weights in four bits that make the least squared error, some weights cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes._weights import Weight, kept_normal, solve, weights, with_numbers
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

RATIOS = np.linspace(1.0, 0.6, 17)
"""How much of a block's reach its codes are tried to cover."""


@dataclass(frozen=True)
class ClipWeights(Pass):
    """Each block's scale is searched for: of those that cover a share of its reach, from all to 60 %, the one with the
    least squared error of the block, then the best one for the codes found (the minimum of a parabola). That cutting
    off a few of the largest values pays is the observation of Banner et al. 2019 ("Post training 4-bit quantization of
    convolutional networks for rapid-deployment", section 3).

    ``turned``: scales may be negative, so that the value that reaches farthest takes the lowest code, of which there is
    one more.
    """

    name: ClassVar[str] = "clip-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    turned: bool = True

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        found = {weight: clipped(weight, turned=self.turned) for weight in weights(graph, ctx.plan)}
        return PassResult(len(found), plan=with_numbers(ctx.plan, found))


def clipped(
    weight: Weight, importance: np.ndarray | None = None, *, turned: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of a weight; ``importance``: of each input, what its squared error counts."""
    shared = None if importance is None else importance.reshape(weight.blocks, weight.block).astype(np.float32)
    middle = 8 if weight.scheme.dtype == "uint4" else 0

    def solver(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = best_scales(blocks, shared, turned=turned)
        return scale, np.full(scale.shape, middle, np.int64)

    return solve(weight, solver)


def best_scales(blocks: np.ndarray, importance: np.ndarray | None = None, *, turned: bool = True) -> np.ndarray:
    """float32 ``[outputs, blocks]`` for weights ``[outputs, blocks, block]``; ``importance``: ``[blocks, block]``."""
    weighting = np.float32(1.0) if importance is None else importance
    places = np.argmax(np.abs(blocks), axis=2)[..., None]
    farthest = np.take_along_axis(blocks, places, 2)[..., 0]
    used = farthest != 0.0
    best, least = np.zeros_like(farthest), np.full(farthest.shape, np.inf, np.float32)
    bases = [np.abs(farthest) / 7.0, -farthest / 8.0] if turned else [np.abs(farthest) / 7.0]
    for base in bases:
        for ratio in RATIOS:
            scale = kept_normal(base * np.float32(ratio), used)
            for _ in range(2):
                codes = np.clip(np.rint(blocks / scale[..., None]), -8.0, 7.0)
                if not turned:
                    codes = np.maximum(codes, -7.0)
                error = np.sum(weighting * (codes * scale[..., None] - blocks) ** 2, axis=2)
                better = error < least
                best, least = np.where(better, scale, best), np.where(better, error, least)
                # The parabola's minimum for these codes.
                power = np.sum(weighting * codes * codes, axis=2)
                fitted = np.sum(weighting * codes * blocks, axis=2) / np.where(power > 0.0, power, 1.0)
                scale = kept_normal(np.where(power > 0.0, fitted, scale), used)
    return kept_normal(best, used)
