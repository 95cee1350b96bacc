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
    """Scales and zero points of a weight; ``importance``: of each input, what its squared error counts. Zero points are
    searched for too where the scheme has them."""
    shared = None if importance is None else importance.reshape(weight.blocks, weight.block).astype(np.float32)

    def solver(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not weight.scheme.symmetric:
            return best_ranges(blocks, shared)
        scale = best_scales(blocks, shared, turned=turned)
        return scale, np.full(scale.shape, 8 if weight.scheme.dtype == "uint4" else 0, np.int64)

    return solve(weight, solver)


def best_ranges(blocks: np.ndarray, importance: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positive float32 scales and int64 zero points ``[outputs, blocks]``, codes from 0 to 15: the same search, over
    ranges around the middle of a block, and half a step beside it."""
    weighting = np.float32(1.0) if importance is None else importance
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    used = (low != 0.0) | (high != 0.0)
    best, zeros = np.ones_like(low), np.full_like(low, 8.0)
    least = np.full(low.shape, np.inf, np.float32)
    for ratio in RATIOS[::2]:
        for shift in (-0.5, 0.0, 0.5):
            scale = kept_normal((high - low) * np.float32(ratio / 15.0), used)
            zero = np.clip(np.rint(7.5 + shift - (low + high) / (2.0 * scale)), 0.0, 15.0)
            for _ in range(2):
                codes = np.clip(np.rint(blocks / scale[..., None]), -zero[..., None], 15.0 - zero[..., None])
                error = np.sum(weighting * (codes * scale[..., None] - blocks) ** 2, axis=2)
                better = error < least
                best, zeros = np.where(better, scale, best), np.where(better, zero, zeros)
                least = np.minimum(least, error)
                power = np.sum(weighting * codes * codes, axis=2)
                fitted = np.sum(weighting * codes * blocks, axis=2) / np.where(power > 0.0, power, 1.0)
                scale = kept_normal(np.where(fitted > 0.0, fitted, scale), used)
    return kept_normal(best, used), zeros.astype(np.int64)


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
