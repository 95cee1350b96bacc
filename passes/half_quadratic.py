"""Zero points of weights in four bits that leave errors few and large rather than many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes._weights import kept_normal, solve, weights, with_numbers
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class HalfQuadratic(Pass):
    """Half-Quadratic Quantization (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models",
    2023): the error W − s(q − z) is split into a sparse part e, found by shrinkage for the norm |e|^p with p < 1, and
    the rest, for which the best zero point is a mean; the two take turns.

    The paper's zero point is a float; here the kernels want one of the 16 codes. So its neighbours above and below are
    both tried at the end, and the scale is fitted to the codes that come of it, least squares.
    """

    name: ClassVar[str] = "half-quadratic"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    norm: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    rounds: int = 20

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        todo = weights(graph, ctx.plan)
        for weight in todo:
            if weight.scheme.symmetric:
                fix = "place weights as uint4, asymmetric (--rounding hqq does)"
                raise PassError("moves zero points, and these are fixed", where=f"weight '{weight.name}'", fix=fix)
        found = {weight: solve(weight, self.solved) for weight in todo}
        return PassResult(len(found), plan=with_numbers(ctx.plan, found))

    def solved(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points ``[outputs, blocks]`` of ``blocks`` ``[outputs, blocks, block]``."""
        low, high = np.minimum(blocks.min(axis=2), 0.0), np.maximum(blocks.max(axis=2), 0.0)
        used = high > low
        scale = kept_normal((high - low) / 15.0, used)[..., None]
        zero = -low[..., None] / scale
        best, least, beta = zero, np.full(low.shape, np.inf, np.float32)[..., None], self.beta
        for _ in range(self.rounds):
            codes = np.clip(np.rint(blocks / scale + zero), 0.0, 15.0)
            error = blocks - (codes - zero) * scale
            size = np.abs(error)
            total = size.sum(axis=2, keepdims=True)
            best, least = np.where(total < least, zero, best), np.minimum(total, least)
            with np.errstate(divide="ignore"):
                shrunk = np.maximum(size - size ** (self.norm - 1.0) / beta, 0.0)
            zero = np.mean(codes - (blocks - np.copysign(shrunk, error)) / scale, axis=2, keepdims=True)
            beta *= self.growth
        return _whole(blocks, scale, best, used)


def _whole(
    blocks: np.ndarray, scale: np.ndarray, zero: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The better of the two whole zero points around each, with the scale fitted to its codes."""
    found_scale, found_zero = scale[..., 0], np.zeros(used.shape, np.int64)
    least = np.full(used.shape, np.inf, np.float32)
    for whole in (np.floor(zero), np.ceil(zero)):
        whole = np.clip(whole, 0.0, 15.0)
        fitted = scale
        for _ in range(3):
            steps = np.clip(np.rint(blocks / fitted + whole), 0.0, 15.0) - whole
            error = np.sum((steps * fitted - blocks) ** 2, axis=2)
            better = error < least
            found_scale = np.where(better, fitted[..., 0], found_scale)
            found_zero = np.where(better, whole[..., 0].astype(np.int64), found_zero)
            least = np.minimum(error, least)
            power = np.sum(steps * steps, axis=2, keepdims=True)
            fit = np.sum(steps * blocks, axis=2, keepdims=True) / np.where(power > 0.0, power, 1.0)
            fitted = kept_normal(np.where(power > 0.0, fit, fitted), used[..., None])
    return kept_normal(found_scale, used), found_zero
