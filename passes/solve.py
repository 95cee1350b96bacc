"""Gives every site of the plan its scale and zero point, from statistics and weights."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir, microscaling, numerics
from qcompiler.calibrate import OBSERVERS, Statistics, TensorStatistics
from qcompiler.errors import PassError
from qcompiler.passes._shifts import align
from qcompiler.passes.fold_scale_into_dequantize import scaled
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Site, TensorQuant
from qcompiler.saturation import bounds
from qcompiler.scheme import PerAxis, Scheme


@dataclass(frozen=True)
class Solve(Pass):
    """1. Activations: the observer's range over all tensors of a tie, cut where no consumer tells values apart. Where a
       constant is added to codes, steps are chosen so that the sum has the same codes.
    2. Weights: the largest magnitude of each channel or block. Where a block's scale is a code, the best of a few.
    3. Biases: int32 at exactly scale(activation) · scale(weight); where that would overflow, the channel's weight scale
       is raised until it fits.

    Sites whose origin is ``user`` keep their numbers, those whose origin is ``dynamic`` get none. Without computed
    tensors to solve, no statistics are needed.
    """

    name: ClassVar[str] = "solve"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    observer: str = "mse"

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.plan is None:
            raise PassError("needs a plan", where=graph.name)
        if self.observer not in OBSERVERS:
            raise PassError(
                f"there is no observer '{self.observer}'", where=graph.name, fix=f"use {', '.join(OBSERVERS)}"
            )
        plan, tensors = ctx.plan, ir.all_tensors(graph)
        sites, returned = dict(plan.sites), ir.output_tensors(graph)
        ranges: dict[frozenset[str], tuple[float, float]] = {}
        for site, quant in sites.items():
            tensor = tensors[site.tensor]
            if quant.origin == "unsolved" and not ir.is_constant(tensor):
                if not isinstance(ctx.statistics, Statistics):
                    raise PassError("needs statistics", where=f"tensor '{site.tensor}'", fix="calibrate first")
                group = plan.group(site.tensor)
                if group not in ranges:
                    members = [tensors[name] for name in sorted(group)]
                    chosen = [ctx.observers[name] for name in sorted(group) if name in ctx.observers]
                    measured = [plan.ranges[name] for name in sorted(group) if name in plan.ranges]
                    if measured and not chosen:
                        ranges[group] = measured[0]
                    else:
                        observer = chosen[0] if chosen else self.observer
                        ranges[group] = range_of(observer, members, ctx.statistics, quant.scheme, returned)
                chosen_by = "user" if group & ctx.observers.keys() else "calibration"
                spelled = ctx.target is not None and ctx.target.spells_zero_points
                sites[site] = _covering(quant, *ranges[group], chosen_by, spelled)
        align(graph, plan, sites)
        nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        for site, quant in sites.items():
            tensor = tensors[site.tensor]
            if quant.origin == "unsolved" and ir.is_constant(tensor) and quant.scheme.dtype != "int32":
                sites[site] = quant.solved(*_weight_numbers(tensor.values, quant.scheme), "weights")
        natural = dict(sites)
        for site, quant in list(sites.items()):
            if quant.origin == "unsolved" and quant.scheme.dtype == "int32":
                _solve_bias(site, nodes[site.node], tensors[site.tensor].values, sites)
        rounding = dict(plan.rounding)
        for site, quant in sites.items():
            if site.tensor in rounding and quant.scale is not natural[site].scale:
                rounding[site.tensor] = _without_raised(rounding[site.tensor], natural[site], quant)
        return PassResult(len(sites), plan=replace(plan, sites=sites, rounding=rounding))


def range_of(
    observer: str,
    members: list[ir.Tensor],
    statistics: Statistics,
    scheme: Scheme,
    returned: Container[ir.Tensor] = (),
) -> tuple[float, float]:
    """The range that the tied tensors share, not yet widened to contain zero. Of ``returned`` tensors every value
    counts."""
    seen: TensorStatistics | None = None
    for tensor in members:
        if tensor.name in statistics.tensors:
            found = statistics.tensors[tensor.name]
            seen = found if seen is None else seen.merge(found)
    if seen is None:
        raise PassError(
            f"the statistics do not cover '{members[0].name}'", where="statistics", fix="calibrate this model again"
        )
    # Codes that are floats are densest around zero: a cut gains nothing.
    low, high = OBSERVERS[observer if scheme.spaced_evenly else "minmax"](seen, scheme)
    first, last = math.inf, -math.inf
    for tensor in members:
        lower, upper = bounds(tensor) if tensor not in returned else (-math.inf, math.inf)
        first, last = min(first, lower), max(last, upper)
    return max(low, first), min(high, last)


def _weight_numbers(values: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    if scheme.scaled_twice:
        scale = microscaling.weight_scales(values, scheme)
        return scale, np.zeros(scale.shape, np.int64)
    return numerics.scale_and_zero_point(*numerics.weight_range(values, scheme), scheme)


LEAST_SAVED = 0.9
"""Step with a zero point, of that around zero, for the arithmetic that spells it to be worth it."""


def _covering(quant: TensorQuant, low: float, high: float, origin: str, spelled: bool = False) -> TensorQuant:
    if quant.scheme.scaled_twice:  # the scales of its blocks are found in each run
        return quant.solved(np.asarray(microscaling.tensor_scale(max(-low, high))), np.zeros((), np.int64), origin)
    scale, zero_point = numerics.scale_and_zero_point(np.float64(low), np.float64(high), quant.scheme)
    if spelled and not quant.scheme.symmetric:
        around = numerics.scale_and_zero_point(np.float64(low), np.float64(high), replace(quant.scheme, symmetric=True))
        if scale > LEAST_SAVED * around[0]:
            return quant.solved(*around, origin)
    if low >= 0.0 and quant.scheme.code_range[1] * float(scale) > high > 0.0:
        # A runtime drops a Clip only if no code stands for more than its upper bound: float32 must not round up.
        scale = np.nextafter(scale, np.float32(0.0))
    return quant.solved(scale, zero_point, origin)


def _scaled_step(node: ir.Node, sites: dict[Site, TensorQuant]) -> np.ndarray:
    """The step of what the node reads where that is codes times a factor, as ``fold-scale-into-dequantize`` has it."""
    multiply = ir.producer(node.inputs[0])
    found = None if multiply is None else scaled(multiply)
    assert multiply is not None and found is not None
    source, factor = found
    step = next(q.scale for s, q in sites.items() if s.node == multiply.name and s.tensor == source.name)
    assert step is not None
    return np.asarray(step * np.float32(factor))


def _solve_bias(site: Site, node: ir.Node, values: np.ndarray, sites: dict[Site, TensorQuant]) -> None:
    by_index = {s.index: (s, q) for s, q in sites.items() if s.node == node.name}
    weight_site, weight = next((s, q) for s, q in by_index.values() if q.origin in ("weights", "user") and s.index == 1)
    activation = by_index[0][1].scale if 0 in by_index else _scaled_step(node, sites)
    assert activation is not None and weight.scale is not None and weight.zero_point is not None
    needed = np.abs(values.astype(np.float64)) / (float(activation) * 2.0**30)
    scale = np.broadcast_to(weight.scale, values.shape).astype(np.float64)
    silent = _silent_channels(node.inputs[weight_site.index].values, weight.scheme, scale)
    raised = np.maximum(np.where(silent, 0.0, scale), needed)
    raised = np.where(raised > 0, np.maximum(raised, numerics.SMALLEST_SCALE), scale).astype(np.float32)
    if weight.scale.ndim == 0:
        raised = raised.max()
    if not np.array_equal(raised, weight.scale):
        sites[weight_site] = weight = weight.solved(raised, weight.zero_point, weight.origin)
    product = activation * np.broadcast_to(raised, values.shape)
    bias = sites[site]
    if not isinstance(weight.scheme.granularity, PerAxis):
        product = product.reshape(-1)[0]
        bias = replace(bias, scheme=replace(bias.scheme, granularity=weight.scheme.granularity))
    sites[site] = bias.solved(product, np.zeros(product.shape, np.int64), "product")


def _without_raised(change: np.ndarray, before: TensorQuant, after: TensorQuant) -> np.ndarray:
    """A weight's rounding, which is meant for the steps of before, without the channels that have other steps now."""
    assert before.scale is not None and after.scale is not None
    same = np.broadcast_to(numerics.spread(before.scale == after.scale, after.scheme, change.shape), change.shape)
    return np.where(same, change, np.int8(0))


def _silent_channels(values: np.ndarray, scheme: Scheme, scale: np.ndarray) -> np.ndarray:
    """Channels whose weights are all zero: their scale is free, and the bias decides it."""
    low, high = numerics.weight_range(values, scheme)
    return np.broadcast_to((low == 0) & (high == 0), scale.shape)


