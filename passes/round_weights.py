"""Rounds weights so that what rounding one does to an output, rounding the others takes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir, numerics
from qcompiler.calibrate.moments import Moments, as_rows, blocks_of
from qcompiler.errors import PassError
from qcompiler.pipeline import Diagnostic, MomentsPass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import one_thread_each, side_by_side


@dataclass(frozen=True)
class RoundWeights(MomentsPass):
    """GPTQ (Frantar et al. 2022, equations 2 and 3) for 8-bit weights: one input channel after the other is rounded,
    and the error is taken back by the channels still to come, as far as the second moments of the inputs say that they
    go together. Channels with the largest moments come first.

    1. Weights of Conv (any groups), MatMul and Gemm that only such nodes of the outermost graph read, all alike.
    2. A convolution or product of more than 512 inputs is taken in parts of about equal size.
    3. A weight for which samples that were held out do not agree that this helps stays rounded to nearest.

    What it decides is ``plan.rounding``.
    """

    name: ClassVar[str] = "round-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    damping: float = 0.1
    least_gain: float = 0.3

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        layouts: dict[str, tuple[object, ...]] = {}
        refused: set[str] = set()
        placed = {site.tensor for site, quant in plan.sites.items() if site.index == 1 and _by_itself(quant)}
        for inner, node in ir.all_nodes(graph):
            for index, tensor in enumerate(node.inputs):
                if tensor.name not in placed or not ir.is_constant(tensor):
                    continue
                product = node.op in ("Conv", "MatMul", "Gemm") and not node.domain and not node.attrs.get("transA", 0)
                flat = tensor.values.ndim == 2 or node.op == "Conv"
                layout = (node.op == "Conv", node.attrs.get("transB", 0), node.attrs.get("group", 1))
                alike = layouts.setdefault(tensor.name, layout) == layout
                if inner is graph and product and flat and alike and index == 1 and node.name in plan.intended:
                    found.setdefault(tensor.name, []).append(node.name)
                else:
                    refused.add(tensor.name)
        return {name: users for name, users in found.items() if name not in refused}

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        plan, moments = ctx.plan, ctx.moments or {}
        nodes = {node.name: node for node in graph.nodes}
        readers = self.wanted(graph, plan)
        quants = {site.tensor: quant for site, quant in plan.sites.items() if site.index == 1}
        rounding, diagnostics, rewrites = dict(plan.rounding), [], 0

        def rounded(name: str) -> tuple[np.ndarray, float] | None:
            node, quant = nodes[readers[name][0]], quants[name]
            weight = node.inputs[1].values
            ends = numerics.weight_range(weight, quant.scheme)
            scale, zero_point = numerics.scale_and_zero_point(*ends, quant.scheme)
            steps = np.broadcast_to(numerics.spread(scale, quant.scheme, weight.shape), weight.shape)
            offset = np.broadcast_to(numerics.spread(zero_point, quant.scheme, weight.shape), weight.shape)
            first, last = quant.scheme.code_range
            exact = as_rows(node, weight) / as_rows(node, steps)
            zero = as_rows(node, offset)[..., :1].astype(np.float32)
            ends = (first - zero, last - zero)
            nearest = np.clip(np.rint(exact), *ends)
            if quant.scheme.paired:
                most = np.abs(nearest) + as_rows(node, numerics.pair_room(_as_weight(node, nearest), quant.scheme))
                ends = (np.maximum(ends[0], -most), np.minimum(ends[1], most))
            found = np.empty_like(exact)
            for part, moment in zip(blocks_of(exact.shape[2]), moments[name].fitted):
                low, high = (end if end.shape[2] == 1 else end[..., part] for end in ends)
                try:
                    factors = factored(moment, self.damping)
                except np.linalg.LinAlgError:
                    return None
                found[..., part] = compensated(exact[..., part], factors, low, high)
            # What a plan holds of it is a byte a weight.
            change = np.clip(found - nearest, -127, 127).astype(np.int8)
            found = nearest + change
            before, after = (noise(exact - codes, as_rows(node, steps), moments[name]) for codes in (nearest, found))
            gain = 10.0 * np.log10(before / after) if after > 0.0 else 0.0
            return _as_weight(node, change), float(gain)

        names = [name for name in readers if name in moments]
        with one_thread_each():
            for name, made in zip(names, side_by_side(rounded, names)):
                if made is None:
                    reason = "rounded to nearest: its inputs' moments cannot be factored"
                    diagnostics.append(Diagnostic(name, reason))
                    continue
                change, gain = made
                if gain >= self.least_gain:
                    rounding[name], rewrites = change, rewrites + 1
                    diagnostics.append(Diagnostic(name, f"rounded with the others in mind, {gain:.1f} dB less noise"))
        return PassResult(rewrites, tuple(diagnostics), replace(plan, rounding=rounding))


def _as_weight(node: ir.Node, rows: np.ndarray) -> np.ndarray:
    """Rows ``[G, N, K]`` in the weight's own shape."""
    shaped = np.empty(node.inputs[1].values.shape, rows.dtype)
    as_rows(node, shaped)[...] = rows
    return shaped


def _by_itself(quant: TensorQuant) -> bool:
    """Whether the weight's own values decide its scale."""
    return quant.origin in ("unsolved", "weights") and quant.scheme.dtype in ("int8", "uint8")


def compensated(
    exact: np.ndarray,
    factors: tuple[np.ndarray, np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    """Whole numbers between ``low`` and ``high`` ``[G, 1 or N, 1 or K]`` for the weights ``exact`` ``[G, N, K]`` in
    units of their scales. ``factors``: of the moments, see ``factored``.
    ``steps``: float32 ``[G, N, K]``, the scales where an output has several."""
    length = exact.shape[2]
    order, factor = factors
    left = np.take_along_axis(exact.swapaxes(1, 2), order[:, :, None], 1).astype(np.float32)  # [G, K, N]
    units = None if steps is None else np.take_along_axis(steps.swapaxes(1, 2), order[:, :, None], 1)
    left = left if units is None else left * units  # what errors are taken back in is alike for all
    low, high = (_in_order(end.astype(np.float32), order) for end in (low, high))
    for first in range(0, length, _RUN):
        last = min(first + _RUN, length)
        errors = np.empty_like(left[:, first:last])
        for place in range(first, last):
            column = left[:, place]
            unit = np.float32(1.0) if units is None else units[:, place]
            code = np.minimum(np.maximum(np.rint(column / unit), low[:, place]), high[:, place])
            error = (column - code * unit) / factor[:, place, place, None]
            left[:, place] = code
            left[:, place + 1 : last] -= factor[:, place + 1 : last, place, None] * error[:, None]
            errors[:, place - first] = error
        left[:, last:] -= factor[:, last:, first:last] @ errors
    codes = np.empty_like(left)
    np.put_along_axis(codes, order[:, :, None], left, 1)
    return codes.swapaxes(1, 2)


def _in_order(ends: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``[G, K, 1 or N]`` of the ends ``[G, 1 or N, 1 or K]``."""
    turned = ends.swapaxes(1, 2)
    if turned.shape[1] == 1:  # the same for all, of which no copy is needed
        return np.broadcast_to(turned, (len(turned), order.shape[1], turned.shape[2]))
    return np.take_along_axis(turned, order[:, :, None], 1)


def factored(moment: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """The order in which inputs are rounded, int64 ``[G, K]``, and float32 ``[G, K, K]``: the lower triangular root of
    the inverse of the ordered moments, to whose diagonal ``damping`` is added, as a share of its mean. An error of the
    input at place i that those behind it take back as they can counts ``1 / root[i, i]²``. Raises LinAlgError."""
    diagonal = np.einsum("gkk->gk", moment).astype(np.float64)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    mean = diagonal.mean(axis=1)[:, None, None]
    if not np.isfinite(mean).all():
        raise np.linalg.LinAlgError("moments are not finite")
    ridge = np.where(mean > _NOTHING, damping * mean, 1.0) * np.eye(moment.shape[1])
    ordered = np.take_along_axis(np.take_along_axis(moment, order[:, :, None], 1), order[:, None, :], 2)
    inverse = np.linalg.inv(ordered + ridge)
    return order, np.linalg.cholesky((inverse + inverse.swapaxes(1, 2)) / 2).astype(np.float32)


_NOTHING = 1e-30
"""Squares below: what inputs that small make of a weight is nothing, and their moments are no numbers to go by."""
_OUTPUTS = 1024
"""Outputs whose noise is computed together: a language model's last product has a hundred times as many."""
_RUN = 32
"""Columns whose errors reach those behind them together."""


def noise(errors: np.ndarray, steps: np.ndarray, moments: Moments) -> float:
    """Power that the errors ``[G, N, K]``, in units of ``steps``, have at the outputs of samples that were held out."""
    total = 0.0
    for part, moment in zip(blocks_of(errors.shape[2]), moments.held_out):
        for first in range(0, errors.shape[1], _OUTPUTS):
            some = slice(first, first + _OUTPUTS)
            scaled = (errors[:, some, part] * steps[:, some, part]).astype(np.float64)
            total += float(np.sum((scaled @ moment) * scaled))
    return total
