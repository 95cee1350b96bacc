"""Rounds weights to four bits so that what rounding one does to an output, rounding the others takes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate.moments import Moments
from qcompiler.errors import PassError
from qcompiler.four_bits import reduced_axis
from qcompiler.passes._weights import Weight, batches, kept_normal, weights, with_numbers
from qcompiler.passes.clip_weights import clipped
from qcompiler.passes.round_weights import compensated, factored
from qcompiler.pipeline import Diagnostic, GradualPass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, Site
from qcompiler.runtime import one_thread_each, side_by_side

MOST_DAMPING = 1.0
ROWS = 256
"""Outputs that are worked on at a time."""
TRIED = 1024
"""Outputs at most that samples held out are asked about."""


@dataclass(frozen=True)
class CompensateWeights(GradualPass):
    """GPTQ (Frantar et al. 2022, equations 2 and 3) for weights in blocks: one input after the other is rounded, and
    the error is taken back by the inputs still to come, as far as the second moments of what is multiplied say that
    they go together. Inputs with the largest moments come first, each with the scale of its own block.

    1. Where the samples have come through weights that are rounded, x̃ in place of x, codes are made for the weight W*
       whose product with x̃ is nearest to W x, as in GPTAQ (Li et al. 2025): W* = W + W D (M + λ)⁻¹, with D the mean of
       (x − x̃) x̃ᵀ, M that of x̃ x̃ᵀ, and λ the damping.
    2. Scales, and zero points where the scheme has them, are those of least squared error, each input's error counted
       by what those behind it cannot take back; see ``clip-weights``.
    3. Codes; then scales anew, those with the least error at the output for the codes, of all blocks of an output at
       once; then codes again. What is best on the samples is kept, output by output. Whether it helps is asked of
       samples that were held out; what is kept is for all of them.
    4. Where the moments' factorization fails, damping grows tenfold; from ``MOST_DAMPING`` on the weight is rounded by
       itself. So is one for which the samples held out see no gain, and one that no product of the outermost graph
       reads: an embedding. Each is reported.

    ``tied``: of a weight that is an embedding too, what is added to the moments' diagonal for it, as a share of its
    mean: there each weight counts by itself.
    """

    name: ClassVar[str] = "compensate-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    damping: float = 0.05
    tied: float = 3.0
    rounds: int = 2
    turned: bool = True

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, list[str]]:
        products = {
            node.name
            for node in graph.nodes
            if node.op in ("Gemm", "MatMul") and not node.domain and not node.attrs.get("transA", 0)
        }
        found: dict[str, list[str]] = {}
        for weight in weights(graph, plan):
            for site in weight.sites:
                if site.node in products and site.index == 1:
                    found.setdefault(site.tensor, []).append(site.node)
        return found

    def groups(self, graph: ir.Graph, plan: Plan) -> list[list[Site]]:
        return [weight.sites for weight in weights(graph, plan)]

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        moments: dict[str, Moments] = ctx.moments or {}
        todo = weights(graph, ctx.plan)
        changes, numbers, diagnostics = dict(ctx.plan.four_bit_rounding), {}, list[Diagnostic]()

        def rounded(weight: Weight) -> _Found:
            seen = next((moments[site.tensor] for site in weight.sites if site.tensor in moments), None)
            return self.rounded(weight, seen)

        with one_thread_each():
            for weight, found in zip(todo, side_by_side(rounded, todo)):
                numbers[weight] = found.scale, found.zero_point
                diagnostics += [Diagnostic(weight.name, remark) for remark in found.remarks]
                if found.change is not None:
                    change = found.change if ctx.scratch is None else ctx.scratch.put(found.change)
                    for site in weight.sites:
                        along = reduced_axis(ctx.plan.sites[site].scheme) == 1
                        changes[site.tensor] = change if along else change.T
        plan = replace(with_numbers(ctx.plan, numbers), four_bit_rounding=changes)
        return PassResult(len(todo), tuple(diagnostics), plan)

    def rounded(self, weight: Weight, moments: Moments | None) -> _Found:
        if moments is None:
            return _Found(*clipped(weight, turned=self.turned), None, ["no product reads it: rounded by itself"])
        remarks: list[str] = []
        gathered = len({site.index for site in weight.sites}) > 1

        def lessened(seen: tuple[np.ndarray, ...]) -> list[np.ndarray]:
            """With what an embedding adds."""
            extra = self.tied if gathered else 0.0
            return [one[0] + extra * np.mean(np.diag(one[0])) * np.eye(one.shape[1], dtype=one.dtype) for one in seen]

        fitted, everything = lessened(moments.fitted), lessened(moments.all())
        diagonal = np.concatenate([np.diag(part) for part in everything])
        plain = diagonal + np.float32(1e-6) * diagonal.mean()
        if not all(np.isfinite(weight.values[batch]).all() for batch in batches(len(weight.values), ROWS)):
            return _Found(*clipped(weight, plain, turned=self.turned), None, [])
        few = replace(weight, values=weight.values[:: -(-len(weight.values) // TRIED)])
        damping = self.damping
        while damping < MOST_DAMPING:
            try:
                drift = () if moments.drift is None else moments.drift.fitted
                trial = _Problem(moments.parts(), fitted, drift, damping)
                alone = _held_out(few, moments, *clipped(few, plain, turned=self.turned), None)
                ours = _held_out(few, moments, *self._compensated(few, trial, 1))
                if not ours < alone:
                    remarks.append("rounded by itself: samples held out see no gain")
                    break
                whole = _Problem(moments.parts(), everything, moments.all_drift(), damping)
                found = self._compensated(weight, whole, self.rounds)
                gain = 10.0 * np.log10(alone / ours) if ours > 0.0 else np.inf
                return _Found(*found, [*remarks, f"rounded with the others in mind, {gain:.1f} dB less noise"])
            except np.linalg.LinAlgError:
                damping *= 10.0
                remarks.append(f"its moments cannot be factored: damping raised to {damping:g}")
        else:
            remarks.append("rounded by itself")
        return _Found(*clipped(weight, plain, turned=self.turned), None, remarks)

    def _compensated(self, weight: Weight, problem: _Problem, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scales and zero points ``[outputs, blocks]``, and by how much codes differ from the nearest, int8
        ``[outputs, inputs]``."""
        block, shape = weight.block, (len(weight.values), weight.blocks)
        scales, zero_points = np.empty(shape, np.float32), np.empty(shape, np.int64)
        changes = np.empty(weight.values.shape, np.int8)
        for batch in batches(len(scales), ROWS):
            values = np.ascontiguousarray(weight.values[batch], np.float32)
            target = problem.target(values)
            scale, zero_point = clipped(replace(weight, values=target), problem.counts, turned=self.turned)
            ends = _ends(weight, zero_point, -8.0 if self.turned else -7.0)
            low, high = (_spread(end, block)[None] for end in ends)
            best, codes, least = scale.copy(), np.empty_like(values), np.full(len(values), np.inf)
            for _ in range(rounds):
                steps = _spread(scale, block)[None]
                coded = [
                    compensated(
                        (target / steps)[..., part], factors, low[..., part], high[..., part], steps[..., part]
                    )[0]
                    for part, factors in zip(problem.parts, problem.factors)
                ]
                found = np.concatenate(coded, axis=1)
                for fit in (False, True):
                    if fit:
                        scale = _fitted(target, found, scale, block, problem)
                    noise = _row_noise(target - found * _spread(scale, block), problem.parts, problem.moments)
                    better = noise < least
                    least = np.where(better, noise, least)
                    best[better], codes[better] = scale[better], found[better]
            scales[batch], zero_points[batch] = best, zero_point
            changes[batch] = codes - _nearest(values, best, _ends(weight, zero_point), block)
        return scales, zero_points, changes


@dataclass
class _Found:
    """Scales and zero points ``[outputs, blocks]``, by how much codes differ from the nearest, int8
    ``[outputs, inputs]`` or None, and what there is to say."""

    scale: np.ndarray
    zero_point: np.ndarray
    change: np.ndarray | None
    remarks: list[str]


class _Problem:
    """What a weight is rounded for: the second moments of ``parts`` of its inputs, and the weight W* that is to be met.
    ``counts``: of each input, what its squared error counts when the inputs rounded after it take back what they can.

    Raises:
        LinAlgError: the moments cannot be factored.
    """

    def __init__(
        self, parts: list[slice], moments: list[np.ndarray], drift: tuple[np.ndarray, ...], damping: float
    ) -> None:
        self.parts, self.moments = parts, moments
        self.factors = [factored(moment[None], damping) for moment in moments]
        self.counts = np.empty(parts[-1].stop, np.float32)
        for part, (order, root) in zip(parts, self.factors):
            self.counts[part][order[0]] = 1.0 / np.diag(root[0]) ** 2
        self._moved = []  # D (M + λ)⁻¹
        for moment, off in zip(moments, drift):
            ridge = (damping * np.mean(np.diag(moment)) or 1.0) * np.eye(len(moment))
            self._moved.append(np.linalg.solve(moment + ridge, off[0].T).T.astype(np.float32))

    def target(self, values: np.ndarray) -> np.ndarray:
        found = values.copy()
        for part, moved in zip(self.parts, self._moved):
            found[:, part] += values[:, part] @ moved
        return found

    def groups(self, block: int) -> list[slice]:
        """Blocks of inputs whose errors show together: those of a part, or all where a block is in two parts."""
        ends = [part.stop for part in self.parts]
        if any(end % block for end in ends):
            return [slice(0, ends[-1] // block)]
        return [slice(part.start // block, part.stop // block) for part in self.parts]


def _ends(weight: Weight, zero_point: np.ndarray, lowest: float = -8.0) -> tuple[np.ndarray, np.ndarray]:
    """Each block's lowest and highest code, counted from its zero point; ``lowest``: where that is in the middle."""
    if weight.scheme.symmetric:
        return np.full(zero_point.shape, lowest, np.float32), np.full(zero_point.shape, 7.0, np.float32)
    return (-zero_point).astype(np.float32), (15 - zero_point).astype(np.float32)


def _spread(scale: np.ndarray, block: int) -> np.ndarray:
    return np.repeat(scale, block, axis=1)


def _nearest(values: np.ndarray, scale: np.ndarray, ends: Sequence[np.ndarray], block: int) -> np.ndarray:
    """Codes, counted from the zero point, with nothing taken back; ``ends``: the lowest and highest of each block."""
    low, high = (_spread(end, block) for end in ends)
    return np.clip(np.rint(values / _spread(scale, block)), low, high)


def _held_out(
    weight: Weight, moments: Moments, scale: np.ndarray, zero_point: np.ndarray, change: np.ndarray | None
) -> float:
    """Power of the error at the outputs, W x − Q x̃ = W (x − x̃) + (W − Q) x̃, over the samples held out."""
    total, ends = 0.0, _ends(weight, zero_point)
    for batch in batches(len(scale), ROWS):
        values = np.ascontiguousarray(weight.values[batch], np.float32)
        codes = _nearest(values, scale[batch], [end[batch] for end in ends], weight.block)
        codes = codes if change is None else codes + change[batch]
        errors = values - codes * _spread(scale[batch], weight.block)
        total += float(np.sum(_row_noise(errors, moments.parts(), [one[0] for one in moments.held_out])))
        if moments.drift is not None:
            for part, off, power in zip(moments.parts(), moments.drift.held_out, moments.drift.power):
                own = values[:, part]
                total += float(np.sum(own @ power[0] * own) + 2.0 * np.sum(own @ off[0] * errors[:, part]))
    return total


def _fitted(values: np.ndarray, codes: np.ndarray, scale: np.ndarray, block: int, problem: _Problem) -> np.ndarray:
    """The scales with the least noise for these codes: of each output the solution of (CᵀMC) s = CᵀMw, where C has the
    codes of a block in that block's column. Scales that would turn around or come near zero stay."""
    blocks = codes.shape[1] // block
    matrix, right = np.zeros((len(codes), blocks, blocks)), np.zeros((len(codes), blocks))
    fitted = np.empty_like(scale)
    for part, moment in zip(problem.parts, problem.moments):
        first, last = part.start // block, -(-part.stop // block)
        edges = np.clip(np.arange(first, last + 1) * block - part.start, 0, part.stop - part.start)
        mine = codes[:, part]
        right[:, first:last] += np.add.reduceat(mine * (values[:, part] @ moment), edges[:-1], axis=1)
        for one, start, end in zip(range(first, last), edges, edges[1:]):
            reached = (mine[:, start:end] @ moment[start:end]) * mine
            matrix[:, one, first:last] += np.add.reduceat(reached, edges[:-1], axis=1)
    for group in problem.groups(block):
        own, near = matrix[:, group, group], scale[:, group]
        unit = np.eye(own.shape[1])
        ridge = (1e-6 * np.einsum("nbb->nb", own).mean(axis=1)[:, None, None] + 1e-30) * unit
        wanted = right[:, group] + ridge.diagonal(axis1=1, axis2=2) * near
        fitted[:, group] = np.linalg.solve(own + ridge, wanted[..., None])[..., 0]
    near = np.isfinite(fitted) & (fitted / scale > 0.5) & (fitted / scale < 2.0)
    return kept_normal(np.where(near, fitted, scale), scale != 0.0)


def _row_noise(errors: np.ndarray, parts: list[slice], moments: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(len(errors))
    for part, moment in zip(parts, moments):
        total += np.einsum("nk,nk->n", errors[:, part] @ moment, errors[:, part])
    return total
