"""Takes out of a channel what it always holds, and gives it to the biases of the convolutions that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._channel_groups import ChannelsPass, Group
from qcompiler.passes._smoothing import check_numbers, rounded_rows
from qcompiler.passes.smooth_conv import is_depthwise, smoothable

DEVIATIONS = 3.0
"""How many standard deviations below its mean a channel is taken to reach."""


@dataclass(frozen=True)
class AbsorbBias(ChannelsPass[Group]):
    """Bias absorption (Nagel et al. 2019, section 4.1.3): ``Conv(Relu(a), W) + b`` with a channel of ``a`` that never
    falls below c becomes ``Conv(Relu(a - c), W) + (b + W c)``: the codes need not reach as far. It costs nothing.

    1. ``a`` comes from a convolution with a bias, straight or through Relu, and is read by convolutions without
       padding alone: behind zeros at a border there would be no c to add.
    2. Through Relu c is positive, three standard deviations below the channel's mean as samples show it, and no more
       than the least that they hold. Where nothing looks at the sign, c is the mean.
    3. Only where it saves ``least_gain`` dB of the noise of rounding.

    ``mix-channels`` gains more where nothing is in between. This one is in no pipeline; to have it tried:
    ``--passes +absorb-bias@equalize-channels``.
    """

    name: ClassVar[str] = "absorb-bias"
    done: ClassVar[str] = "absorbed"
    rows: ClassVar[int] = 2048
    least_gain: float = 0.5

    def groups(self, graph: ir.Graph) -> list[Group]:
        found: dict[str, Group] = {}
        for tensor, readers in (*smoothable(graph).items(), *smoothable(graph, depthwise=True).items()):
            maker = ir.producer(tensor)
            if maker is not None and maker.op == "Relu" and len(maker.inputs[0].outputs) == 1:
                maker = ir.producer(maker.inputs[0])
            if maker is None or maker.op != "Conv" or maker.domain or len(maker.inputs) < 3:
                continue
            bias = maker.inputs[2]
            alone = ir.is_constant(bias) and bias.values.dtype == np.float32 and len(bias.outputs) == 1
            if alone and all(_takes(reader) for reader in readers):
                found.setdefault(maker.name, Group([tensor], [maker], readers))
        return list(found.values())

    def best(self, group: Group, rows: Mapping[str, Rows], symmetric: bool) -> tuple[np.ndarray, float]:
        (tensor,), (maker,) = group.tensors, group.makers
        return best_constant(rows[tensor.name].values, ir.producer(tensor) is maker, symmetric)

    def least(self, group: Group) -> float:
        return self.least_gain

    def apply(self, group: Group, numbers: np.ndarray, namer: ir.Namer, key: str) -> None:
        check_numbers(numbers, (group.channels,), key)
        absorb(group.makers[0], group.readers, numbers, namer)


def _takes(node: ir.Node) -> bool:
    """Whether the convolution sees no zeros at a border, and has a constant bias, or room for one."""
    padded = any(node.attrs.get("pads") or ()) or str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    return not padded and all(ir.is_constant(tensor) or not tensor.name for tensor in node.inputs[1:])


def best_constant(values: np.ndarray, free: bool, symmetric: bool) -> tuple[np.ndarray, float]:
    """(c, float32 ``[C]``, gain in dB) for rows ``[rows, C]``; ``free``: whatever its sign, nothing is cut."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    low = np.minimum(mean - DEVIATIONS * deviation, values.min(axis=0))
    constant = (mean if free else np.maximum(low, 0.0)).astype(np.float32)

    def noise(rows: np.ndarray) -> float:
        return float(np.mean((rounded_rows(rows, float(np.abs(rows).max()), symmetric) - rows) ** 2))

    plain, absorbed = noise(values), noise(values - constant)
    return constant, float(10.0 * np.log10(plain / absorbed)) if absorbed > 0.0 else 0.0


def absorb(maker: ir.Node, readers: list[ir.Node], constant: np.ndarray, namer: ir.Namer) -> None:
    """Edits the biases."""

    def bias(values: np.ndarray, hint: str) -> ir.Constant:
        return ir.Constant(namer(f"{hint}_absorbed"), values.astype(np.float32))

    old = maker.inputs[2]
    maker.inputs[2] = bias(old.values - constant, old.name)
    for node in readers:
        weight = node.inputs[1].values
        sums = weight.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=np.float64)  # [O, C], or [C, 1] of each alone
        added = sums[:, 0] * constant if is_depthwise(node) else (sums * constant).sum(axis=1)
        if len(node.inputs) > 2 and node.inputs[2].name:
            node.inputs[2] = bias(node.inputs[2].values + added, node.inputs[2].name)
        else:
            node.inputs = [*list(node.inputs)[:2], bias(added, node.name)]
