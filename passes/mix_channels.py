"""Mixes the channels between convolutions so that rounding makes the least noise, by way of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._channel_groups import ChannelsPass, Group, joined_groups, summed
from qcompiler.passes._smoothing import check_transform, rounded_rows
from qcompiler.passes.smooth_conv import is_depthwise, taps_of

ROTATIONS = 4
"""How many random ones are tried."""
LEAST_POWER = 1e-2
"""Power, beside the channels' mean, that any direction is taken to have: samples never show all."""
FEWEST_ROWS = 2
"""Rows a channel that the transform is fitted on; with fewer, smaller powers are not told from none."""


@dataclass(frozen=True)
class MixChannels(ChannelsPass[Group]):
    """What convolutions make, ``x``, becomes ``A · x``, and what reads it multiplies by ``A⁻¹``: with nothing but sums
    in between, any invertible A can go into the weights on both sides. It costs nothing. QuaRot (Ashkboos et al.
    2024) and SpinQuant (Liu et al. 2024) take rotations; this is the transform of least noise.

    1. Between them may be nothing, or Add of such tensors: everything that a residual connection joins is mixed
       alike. Not Relu or Clip, which look at each channel, nor convolutions of each channel alone.
    2. Rounding ``A · x`` with one step makes noise of about equal power in all channels, as large as the widest
       channel asks for. With S the second moments of x and G those of the weights that read it, and the channels of
       A · x scaled to unit power, its sum at the outputs is tr(A⁻ᵀ G A⁻¹). By Cauchy and Schwarz that is at least
       (tr M^½)² / C with M = S^½ G S^½, which A = Q M^¼ S^-½ attains, for a rotation Q that makes all channels
       equally strong. A random one does so nearly; the best of a few is taken.
    3. Only where it saves ``least_gain`` dB of noise on rows that it was not fitted on.
    """

    name: ClassVar[str] = "mix-channels"
    done: ClassVar[str] = "channels mixed"
    rows: ClassVar[int] = 4096
    samples: ClassVar[int] = 48
    least_gain: float = 1.0

    def groups(self, graph: ir.Graph) -> list[Group]:
        return [
            group
            for group in joined_groups(graph, summed)
            if not any(is_depthwise(node) for node in group.readers)
            and all(node.attrs.get("group", 1) == 1 for node in group.makers)
        ]

    def best(self, group: Group, rows: Mapping[str, Rows], symmetric: bool) -> tuple[np.ndarray, float]:
        return best_transform(group, {name: one.values for name, one in rows.items()}, symmetric)

    def least(self, group: Group) -> float:
        return self.least_gain

    def apply(self, group: Group, numbers: np.ndarray, namer: ir.Namer, key: str) -> None:
        check_transform(numbers, group.channels, key)
        multiply(group, numbers, namer)


def best_transform(group: Group, values: Mapping[str, np.ndarray], symmetric: bool) -> tuple[np.ndarray, float]:
    """(A, float32 ``[C, C]``, gain in dB): ``values``: rows ``[rows, C]`` of the tensors that are rounded."""
    channels = group.channels
    fitted = {name: rows[::2].astype(np.float64) for name, rows in values.items()}
    judged = {name: rows[1::2].astype(np.float64) for name, rows in values.items()}
    if any(len(rows) < FEWEST_ROWS * channels for rows in fitted.values()):
        return np.eye(channels, dtype=np.float32), 0.0
    # Each tensor and each reader counts alike, whatever the scale of its numbers.
    moments = sum(_relative(rows.T @ rows / len(rows)) for rows in fitted.values())
    assert isinstance(moments, np.ndarray)
    gram = np.zeros_like(moments)
    for node in group.readers:
        taps = taps_of(node).astype(np.float64)
        one = taps @ taps.T
        gram += one / max(np.trace(one @ moments), 1e-30)
    moments = _relative(moments) + LEAST_POWER * np.eye(channels)
    root = _power(moments, 0.5)
    least = _power(root @ gram @ root, 0.25) @ np.linalg.inv(root)
    plain = best = _noise(np.eye(channels), gram, judged, symmetric)
    transform = np.eye(channels)
    for seed in range(ROTATIONS):
        rotation, signs = np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))
        one = rotation * np.sign(np.diag(signs)) @ least
        noise = _noise(one, gram, judged, symmetric)
        if noise < best:
            best, transform = noise, one
    gain = float(10.0 * np.log10(plain / best)) if best > 0.0 else 0.0
    return (transform / np.sqrt(np.mean(transform**2) * channels)).astype(np.float32), gain


def _relative(moments: np.ndarray) -> np.ndarray:
    """At a scale where the channels' mean power is one."""
    return np.asarray(moments / max(np.trace(moments) / len(moments), 1e-30))


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    powers = np.maximum(values, values.max() * 1e-9) ** exponent
    return np.asarray(vectors * powers @ vectors.T)


def _noise(transform: np.ndarray, gram: np.ndarray, values: Mapping[str, np.ndarray], symmetric: bool) -> float:
    """At what the readers make, summed over the tensors, each rounded with a step of its own."""
    back = np.linalg.inv(transform)
    weighted = back.T @ gram @ back
    total = 0.0
    for rows in values.values():
        mixed = rows @ transform.T
        error = rounded_rows(mixed, float(np.abs(mixed).max()), symmetric) - mixed
        total += float(np.einsum("ri,ij,rj->", error, weighted, error, optimize=True)) / len(rows)
    return total


def multiply(group: Group, transform: np.ndarray, namer: ir.Namer) -> None:
    """Edits the weights."""
    forth = transform.astype(np.float64)
    back = _inverse(forth)

    def constant(old: ir.Tensor, values: np.ndarray) -> ir.Constant:
        return ir.Constant(namer(f"{old.name}_mixed"), values.astype(np.float32))

    for node in group.makers:
        for index in (1, 2):
            if index < len(node.inputs) and node.inputs[index].name:
                old = node.inputs[index]
                mixed = _product(forth, old.values.reshape(len(forth), -1).astype(np.float64))
                node.inputs[index] = constant(old, mixed.reshape(old.values.shape))
    for node in group.readers:
        old = node.inputs[1]
        moved = np.moveaxis(old.values, 1, 0)
        mixed = _product(back.T, moved.reshape(len(back), -1).astype(np.float64))
        node.inputs[1] = constant(old, np.moveaxis(mixed.reshape(moved.shape), 0, 1))


# Statistics know a model by the bytes of its weights, also on other machines, where BLAS would sum in another order.


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of matrices of float64, the same to the bit on every machine."""
    total = np.zeros((left.shape[0], right.shape[1]))
    for index in range(left.shape[1]):
        total += left[:, index, None] * right[None, index]
    return total


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The same, by Gauss and Jordan with partial pivoting."""
    size = len(matrix)
    rows = np.concatenate([matrix, np.eye(size)], axis=1)
    for index in range(size):
        pivot = index + int(np.argmax(np.abs(rows[index:, index])))
        rows[[index, pivot]] = rows[[pivot, index]]
        rows[index] /= rows[index, index]
        others = rows[:, index].copy()
        others[index] = 0.0
        rows -= others[:, None] * rows[None, index]
    return rows[:, size:]
