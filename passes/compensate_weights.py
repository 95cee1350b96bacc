"""Rounds weights to four bits so that what rounding one does to an output, rounding the others takes back."""

from __future__ import annotations

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
from qcompiler.pipeline import Diagnostic, MomentsPass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan
from qcompiler.runtime import one_thread_each, side_by_side

MOST_DAMPING = 1.0
ROWS = 256
"""Outputs that are worked on at a time."""


@dataclass(frozen=True)
class CompensateWeights(MomentsPass):
    """GPTQ (Frantar et al. 2022, equations 2 and 3) for weights in blocks: one input after the other is rounded, and
    the error is taken back by the inputs still to come, as far as the second moments of what is multiplied say that
    they go together. Inputs with the largest moments come first, each with the scale of its own block.

    1. Scales, and zero points where the scheme has them, are those of least squared error, each input's error counted
       by what those behind it cannot take back; see ``clip-weights``.
    2. Codes; then scales anew, those with the least error at the output for the codes, of all blocks of an output at
       once; then codes again. What is best on the samples is kept, output by output. Whether it helps is asked of
       samples that were held out; what is kept is for all of them.
    3. Where the moments' factorization fails, damping grows tenfold; from ``MOST_DAMPING`` on the weight is rounded by
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
                    for site in weight.sites:
                        along = reduced_axis(ctx.plan.sites[site].scheme) == 1
                        changes[site.tensor] = found.change if along else found.change.T
        plan = replace(with_numbers(ctx.plan, numbers), four_bit_rounding=changes)
        return PassResult(len(todo), tuple(diagnostics), plan)

    def rounded(self, weight: Weight, moments: Moments | None) -> _Found:
        if moments is None:
            return _Found(*clipped(weight, turned=self.turned), None, ["no product reads it: rounded by itself"])
        remarks: list[str] = []
        parts, values = moments.parts(), np.asarray(weight.values, np.float32)
        gathered = len({site.index for site in weight.sites}) > 1

        def lessened(seen: tuple[np.ndarray, ...]) -> list[np.ndarray]:
            """With what an embedding adds."""
            extra = self.tied if gathered else 0.0
            return [one[0] + extra * np.mean(np.diag(one[0])) * np.eye(one.shape[1], dtype=one.dtype) for one in seen]

        fitted, everything = lessened(moments.fitted), lessened(moments.all())
        diagonal = np.concatenate([np.diag(part) for part in everything])
        plain = clipped(weight, diagonal + 1e-6 * diagonal.mean(), turned=self.turned)
        if not np.isfinite(plain[0]).all():
            return _Found(*plain, None, [])

        def noise(scale: np.ndarray, codes: np.ndarray) -> float:
            errors = values - codes * _spread(scale, weight.block)
            return float(np.sum(_row_noise(errors, parts, [one[0] for one in moments.held_out])))

        alone, damping = noise(plain[0], _nearest(weight, *plain)), self.damping
        while damping < MOST_DAMPING:
            try:
                counts = np.concatenate([_left_over(part, damping) for part in everything])
                start, zero_point = clipped(weight, counts, turned=self.turned)
                ours = noise(*self._compensated(weight, start, zero_point, parts, fitted, damping, 1))
                if not ours < alone:
                    return _Found(*plain, None, [*remarks, "rounded by itself: samples held out see no gain"])
                scale, codes = self._compensated(weight, start, zero_point, parts, everything, damping, self.rounds)
                break
            except np.linalg.LinAlgError:
                damping *= 10.0
                remarks.append(f"its moments cannot be factored: damping raised to {damping:g}")
        else:
            return _Found(*plain, None, [*remarks, "rounded by itself"])
        gain = 10.0 * np.log10(alone / ours) if ours > 0.0 else np.inf
        remarks.append(f"rounded with the others in mind, {gain:.1f} dB less noise")
        change = (codes - _nearest(weight, scale, zero_point)).astype(np.int8)
        return _Found(scale, zero_point, change, remarks)

    def _compensated(
        self,
        weight: Weight,
        start: np.ndarray,
        zero_point: np.ndarray,
        parts: list[slice],
        moments: list[np.ndarray],
        damping: float,
        rounds: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scales ``[outputs, blocks]`` and codes ``[outputs, inputs]``, counted from the zero point."""
        scales, codes = np.empty_like(start), np.empty(weight.values.shape, np.float32)
        ends = _ends(weight, zero_point, -8.0 if self.turned else -7.0)
        for batch in batches(len(start), ROWS):
            values = np.ascontiguousarray(weight.values[batch], np.float32)
            scale, least = start[batch], np.full(len(values), np.inf)
            low, high = (_spread(end[batch], weight.block)[None] for end in ends)
            for _ in range(rounds):
                steps = _spread(scale, weight.block)[None]
                coded = [
                    compensated(
                        (values / steps)[..., part], moment[None], low[..., part], high[..., part], damping,
                        steps[..., part],
                    )[0]
                    for part, moment in zip(parts, moments)
                ]
                found = np.concatenate(coded, axis=1)
                for fit in (False, True):
                    if fit:
                        scale = _fitted(values, found, scale, weight.block, parts, moments)
                    noise = _row_noise(values - found * _spread(scale, weight.block), parts, moments)
                    better = noise < least
                    least = np.where(better, noise, least)
                    scales[batch][better], codes[batch][better] = scale[better], found[better]
        return scales, codes


@dataclass
class _Found:
    """Scales and zero points ``[outputs, blocks]``, by how much codes differ from the nearest, int8
    ``[outputs, inputs]`` or None, and what there is to say."""

    scale: np.ndarray
    zero_point: np.ndarray
    change: np.ndarray | None
    remarks: list[str]


def _left_over(moment: np.ndarray, damping: float) -> np.ndarray:
    """Of each input, what its squared error counts when the inputs rounded after it take back what they can."""
    order, root = factored(moment[None], damping)
    found = np.empty(len(moment), np.float32)
    found[order[0]] = 1.0 / np.diag(root[0]) ** 2
    return found


def _ends(weight: Weight, zero_point: np.ndarray, lowest: float = -8.0) -> tuple[np.ndarray, np.ndarray]:
    """Each block's lowest and highest code, counted from its zero point; ``lowest``: where that is in the middle."""
    if weight.scheme.symmetric:
        return np.full(zero_point.shape, lowest, np.float32), np.full(zero_point.shape, 7.0, np.float32)
    return (-zero_point).astype(np.float32), (15 - zero_point).astype(np.float32)


def _spread(scale: np.ndarray, block: int) -> np.ndarray:
    return np.repeat(scale, block, axis=1)


def _nearest(weight: Weight, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes, counted from the zero point, with nothing taken back."""
    low, high = (_spread(end, weight.block) for end in _ends(weight, zero_point))
    return np.clip(np.rint(np.asarray(weight.values, np.float32) / _spread(scale, weight.block)), low, high)


def _fitted(
    values: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    block: int,
    parts: list[slice],
    moments: list[np.ndarray],
) -> np.ndarray:
    """The scales with the least noise for these codes: of each output the solution of (CᵀMC) s = CᵀMw, where C has the
    codes of a block in that block's column. Scales that would turn around or come near zero stay."""
    outputs, inputs = codes.shape
    blocks = inputs // block
    matrix, right = np.zeros((outputs, blocks, blocks)), np.zeros((outputs, blocks))
    owner = np.arange(inputs) // block
    for part, moment in zip(parts, moments):
        mine, owners = codes[:, part], owner[part]
        columns = np.arange(blocks)[:, None] == owners  # [blocks, inputs of the part]
        right += (mine * (values[:, part] @ moment)) @ columns.T
        for one in np.unique(owners):
            reached = (mine * columns[one]) @ moment * mine
            matrix[:, one] += reached @ columns.T
    ridge = 1e-6 * np.einsum("nbb->nb", matrix).mean(axis=1)[:, None, None] * np.eye(blocks) + 1e-30 * np.eye(blocks)
    fitted = np.linalg.solve(matrix + ridge, (right + ridge.diagonal(axis1=1, axis2=2) * scale)[..., None])[..., 0]
    near = np.isfinite(fitted) & (fitted / scale > 0.5) & (fitted / scale < 2.0)
    return kept_normal(np.where(near, fitted, scale), scale != 0.0)


def _row_noise(errors: np.ndarray, parts: list[slice], moments: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(len(errors))
    for part, moment in zip(parts, moments):
        total += np.einsum("nk,nk->n", errors[:, part] @ moment, errors[:, part])
    return total

