"""Lets every channel between convolutions reach equally far, by way of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._channel_groups import ChannelsPass, Group, joined_groups, summed
from qcompiler.passes._smoothing import STRENGTHS, check_factors, inverse, rounded_columns, rounded_rows
from qcompiler.passes.smooth_conv import is_depthwise, smoothable, taps_of
from qcompiler.plan import Plan

HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators of which h(f · x) = f · h(x) in each channel, for f above 0."""
FARTHER = 2.0
"""How many times as far as in the samples a channel that never met the bound of a Clip may still reach."""
MOST_RAISED = 16.0
"""How many times a channel is raised at most, beside the one that reaches farthest."""


@dataclass
class Bounded(Group):
    """Tensors that are multiplied by the same factors. ``bounds``: what a Clip lets through at most, by the name of
    what it returns."""

    bounds: dict[str, float] = field(default_factory=dict)

    def watched(self, plan: Plan) -> list[str]:
        """Names of the tensors that are rounded, and of those that a Clip bounds."""
        rounded = {site.tensor for site in plan.sites}
        return [tensor.name for tensor in self.tensors if tensor.name in rounded or tensor.name in self.bounds]

    def multiply(self, factor: np.ndarray, namer: ir.Namer) -> None:
        """Edits the weights."""

        def constant(old: ir.Tensor, values: np.ndarray) -> ir.Constant:
            return ir.Constant(namer(f"{old.name}_equalized"), values.astype(np.float32))

        for node in self.makers:
            for index in (1, 2):
                if index < len(node.inputs) and node.inputs[index].name:
                    old = node.inputs[index]
                    by = factor.reshape([-1] + [1] * (old.values.ndim - 1))
                    node.inputs[index] = constant(old, old.values * by)
        for node in self.readers:
            old = node.inputs[1]
            axis = 0 if is_depthwise(node) else 1
            shape = [-1 if own == axis else 1 for own in range(old.values.ndim)]
            node.inputs[1] = constant(old, old.values * inverse(factor).reshape(shape))


@dataclass(frozen=True)
class EqualizeChannels(ChannelsPass[Bounded]):
    """Cross-layer equalization (Nagel et al. 2019, section 4.1; Meller et al. 2019 for activations): convolutions
    that make a tensor have their output channels multiplied by factors, those that read it are divided by them, and
    all channels of what is between can then be rounded with one step. It costs nothing.

    1. Between them may be Relu, LeakyRelu, pooling, and Add of such tensors: everything that a residual connection
       joins gets the same factors.
    2. Through a Clip between zero and a bound, channels are only raised, and so far that what the samples held stays
       below the bound: what reaches farther than ``FARTHER`` times that is cut off, as other ranges cut it.
    3. Convolutions that read each channel alone take any factor; of others, whose weights have one scale for all that
       they read, the strength is searched as ``smooth-matmul`` does.
    4. Only where it saves ``least_gain`` dB of the noise of rounding, summed over the tensors of a group; with a Clip
       ``least_gain_of_a_bound``, since other samples may reach farther.
    5. Groups that convolutions alone read, straight from another one or through Relu, are left to ``smooth-conv``.
    """

    name: ClassVar[str] = "equalize-channels"
    done: ClassVar[str] = "channels equalized"
    least_gain: float = 1.0
    least_gain_of_a_bound: float = 4.0

    def groups(self, graph: ir.Graph) -> list[Bounded]:
        left = smoothable(graph)
        found = []
        for group in joined_groups(graph, _linked):
            makers = ((tensor.name, ir.producer(tensor)) for tensor in group.tensors)
            bounds = {name: float(node.inputs[2].values) for name, node in makers if node and node.op == "Clip"}
            if not all(node.inputs[0] in left for node in group.readers):
                found.append(Bounded(group.tensors, group.makers, group.readers, bounds))
        return found

    def best(self, group: Bounded, rows: Mapping[str, Rows], symmetric: bool) -> tuple[np.ndarray, float]:
        return best_factor(group, rows, symmetric)

    def least(self, group: Bounded) -> float:
        return self.least_gain_of_a_bound if group.bounds else self.least_gain

    def apply(self, group: Bounded, numbers: np.ndarray, namer: ir.Namer, key: str) -> None:
        check_factors(numbers, group.channels, key)
        group.multiply(numbers, namer)


def _linked(node: ir.Node) -> list[ir.Tensor]:
    """What the node reads and returns that must have the same factors; nothing where it does not scale along."""
    if node.domain:
        return []
    if node.op in HOMOGENEOUS and len(node.outputs) == 1:
        return [node.inputs[0], node.outputs[0]]
    if node.op == "Clip" and len(node.inputs) == 3 and all(ir.is_constant(tensor) for tensor in node.inputs[1:]):
        low, high = (np.asarray(tensor.values) for tensor in node.inputs[1:])
        if low.size == high.size == 1 and low == 0.0 and high > 0.0:
            return [node.inputs[0], node.outputs[0]]
    return summed(node)


def best_factor(group: Bounded, rows: Mapping[str, Rows], symmetric: bool) -> tuple[np.ndarray, float]:
    """(f, float32 ``[C]``, gain in dB) of the strength with the least noise, summed over the tensors."""
    reach = np.max([one.reach for one in rows.values()], axis=0).astype(np.float64)
    if not reach.max() > 0.0:
        return np.ones(len(reach), np.float32), 0.0
    taps: dict[str, list[np.ndarray]] = {}
    for node in group.readers:
        if not is_depthwise(node):
            taps.setdefault(node.inputs[0].name, []).append(taps_of(node))
    joined = {name: np.concatenate(parts, axis=1) for name, parts in taps.items() if name in rows}
    near = np.max([np.abs(one).max(axis=1) for one in joined.values()], axis=0) if joined else np.ones_like(reach)
    far = np.maximum(reach, reach.max() / MOST_RAISED)
    near = np.maximum(near, near.max() * 1e-5 + 1e-30)
    options = [near ** (1.0 - strength) / far**strength for strength in STRENGTHS[1:]] if joined else []
    plain = _noise(rows, joined, np.ones(len(reach), np.float32), symmetric)
    best, least = np.ones(len(reach), np.float32), plain
    for option in (*options, 1.0 / far):
        factor = _bounded(option, group, rows, reach)
        noise = _noise(rows, joined, factor, symmetric)
        if noise < least:
            best, least = factor, noise
    return best, float(10.0 * np.log10(plain / least)) if least > 0.0 else 0.0


def _bounded(factor: np.ndarray, group: Bounded, rows: Mapping[str, Rows], reach: np.ndarray) -> np.ndarray:
    """The factor at a scale where the tensor reaches as far as it did, or within what the Clips allow."""
    most = np.full(len(factor), MOST_RAISED)
    for name, bound in group.bounds.items():
        room = bound / np.maximum(rows[name].reach * FARTHER, bound / MOST_RAISED)
        most = np.minimum(most, np.maximum(room, 1.0))
    far = max(reach.max(), min(group.bounds.values(), default=0.0) / FARTHER)
    factor = factor * (far / np.max(factor * reach))
    return (np.clip(factor, 1.0, most) if group.bounds else factor).astype(np.float32)


def _noise(rows: Mapping[str, Rows], taps: Mapping[str, np.ndarray], factor: np.ndarray, symmetric: bool) -> float:
    """Noise-to-signal ratios, summed: of the products of each tensor that products read, channel by channel of
    others."""
    total = 0.0
    for name, one in rows.items():
        scaled = one.values * factor
        error = rounded_rows(scaled, float(np.max(one.reach * factor)), symmetric) - scaled
        if name in taps:
            weight = taps[name] * inverse(factor)[:, None]
            exact = scaled @ weight
            error = (scaled + error) @ rounded_columns(weight) - exact
            total += float(np.sum(error * error) / (np.sum(exact * exact) + 1e-30))
        else:
            size = np.mean(one.values**2, axis=0)
            share = np.mean((error / factor) ** 2, axis=0) / (size + 1e-3 * size.mean() + 1e-30)
            total += float(np.mean(share))
    return total
