"""The search for factors that make an activation and the weight that reads it easier to round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.calibrate import Rows
from qcompiler.errors import PassError
from qcompiler.plan import Plan

STRENGTHS = (0.0, 0.35, 0.5, 0.6, 0.7, 0.85)
APART = (0, 1, 2, 4, 8, 16, 32)
"""How many channels may be multiplied in float."""
EXACT_ENOUGH = 10.0**-3.0
"""Noise-to-signal ratio of one product below which no channel is worth a product of its own."""
MOST_RAISED = 3.0
"""A channel that hardly moved in the samples is not raised further beside the one that reaches farthest: in others it
may move."""
WORST_CONDITION = 1e6
"""Of a transform: beyond it, nothing of single precision is left after there and back."""
BESIDE, EACH = 150.0, 5.0
"""About what a second product and the sum of both take, and each channel that it is of, in channels of the first: a
product in float takes some four times as long as with VNNI, and both results pass through memory once more."""
DEAR, DEAREST = 10.0, 20.0
"""Decibels that channels apart must gain for each time the product itself takes, and at most: in float it would take
two such times longer, and have no noise at all."""


def best_factor(
    x: Rows, weight: np.ndarray, counts: Sequence[int], *, by_row: bool, symmetric: bool = False
) -> tuple[np.ndarray, float, float]:
    """(f, float32 ``[K]``, gain in dB, plain noise-to-signal ratio) for the activation ``x`` and a weight ``[K, N]``.

    The nonzero factors have a geometric mean of one. ``counts``: how many channels may get the factor zero.
    ``by_row``: whether each row's error is judged against the row's own size, or all errors against all values.
    ``symmetric``: whether activations are rounded with codes around zero.
    """
    exact = x.values @ weight
    size = np.sum(exact * exact, axis=1) + np.float32(1e-30)
    size = size if by_row else np.full_like(size, size.mean())
    farthest = np.argsort(-x.reach, kind="stable")
    found: list[tuple[float, float, np.ndarray]] = []
    plain = 0.0
    for apart in counts:
        if apart >= len(farthest) or (found and found[0][1] <= EXACT_ENOUGH):
            break
        price = min(DEAR * (BESIDE + EACH * apart) / len(farthest), DEAREST) if apart else 0.0
        kept = np.ones(len(farthest), bool)
        kept[farthest[:apart]] = False
        options = [_noise(x, weight, size, kept, strength, symmetric) for strength in STRENGTHS]
        plain = plain or options[0][0]
        noise, factor = min(options, key=lambda option: option[0])
        found.append((10.0 * float(np.log10(max(noise, EXACT_ENOUGH))) + price, noise, factor))
    _, noise, factor = min(found, key=lambda option: option[0])
    return factor, float(10.0 * np.log10(plain / noise)) if noise > 0.0 else 0.0, plain


def even_factor(x: Rows, *, symmetric: bool) -> tuple[np.ndarray, float, float]:
    """The same for a depthwise convolution, whose weights are rounded channel by channel: every channel may reach
    equally far. Noise is judged channel by channel, against the channel's own size."""
    factor = (1.0 / np.maximum(x.reach, x.reach.max() / MOST_RAISED + 1e-30)).astype(np.float32)
    factor /= np.exp(np.mean(np.log(factor)))
    size = np.mean(x.values**2, axis=0) + np.float32(1e-30)

    def noise(by: np.ndarray) -> float:
        rows = x.values * by
        error = (rounded_rows(rows, float(np.max(x.reach * by)), symmetric) - rows) / by
        return float(np.mean(np.mean(error * error, axis=0) / size))

    plain, smoothed = noise(np.ones_like(factor)), noise(factor)
    return factor, float(10.0 * np.log10(plain / smoothed)) if smoothed > 0.0 else 0.0, plain


def _noise(
    x: Rows, weight: np.ndarray, size: np.ndarray, kept: np.ndarray, strength: float, symmetric: bool
) -> tuple[float, np.ndarray]:
    """(mean noise-to-signal ratio of the product's rows, factor) when the channels not ``kept`` are exact."""
    factor = kept.astype(np.float32)
    if strength:
        near, far = (_positive(values, kept) for values in (np.abs(weight).max(axis=1), x.reach))
        factor = (near ** (1.0 - strength) / far**strength).astype(np.float32)
        factor = np.where(kept, factor / np.exp(np.mean(np.log(factor[kept]))), np.float32(0.0))
    rows, columns = x.values * factor, weight * inverse(factor)[:, None]
    error = rounded_rows(rows, float(np.max(x.reach * factor)), symmetric) @ rounded_columns(columns) - rows @ columns
    return float(np.mean(np.sum(error * error, axis=1) / size)), factor


def _positive(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.maximum(values, values[kept].max() * 1e-5 + 1e-30)


def inverse(factor: np.ndarray) -> np.ndarray:
    """1 / f, and 0 where f is 0."""
    return np.divide(np.float32(1.0), factor, out=np.zeros_like(factor), where=factor != 0.0)


_CLIPPED = (1.0, 0.85, 0.7, 0.55)


def rounded_rows(values: np.ndarray, reach: float, symmetric: bool = False) -> np.ndarray:
    """Rounded to 8 bits with one scale, cut where the squared error is least."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    low, high = (low, max(high, reach)) if high >= -low else (min(low, -reach), high)
    if symmetric:
        low, high = -max(high, -low), max(high, -low)
    best, least = values, np.inf
    for share in _CLIPPED:
        step = np.float32(max((high - low) * share / 255.0, 1e-30))
        zero = np.rint(-low * share / step)
        found = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        error = float(np.sum((found - values) ** 2))
        if error < least:
            best, least = found, error
    return best


def rounded_columns(weight: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits with one scale a column."""
    step = np.maximum(np.abs(weight).max(axis=0), 1e-30) / np.float32(127.0)
    return np.rint(weight / step) * step


def around_zero(plan: Plan, name: str) -> bool:
    """Whether the tensor's codes lie around zero, half of them below it."""
    return any(site.tensor == name and quant.scheme.symmetric for site, quant in plan.sites.items())


def check_numbers(numbers: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Raises PassError when what a plan or a statistics file has for ``name`` has another shape, or is not finite."""
    if numbers.shape != shape:
        raise PassError(
            "the plan or the statistics are of another model",
            why=f"'{name}' takes {_times(shape)} numbers here, not {_times(numbers.shape)}",
            fix="make them anew for this model",
        )
    if not np.isfinite(numbers).all():
        raise _spoiled(name, "are not all finite")


def check_factors(factor: np.ndarray, channels: int, name: str, *, zero: bool = False) -> None:
    """The same for factors, which are positive; ``zero``: or zero."""
    check_numbers(factor, (channels,), name)
    if (factor < 0.0).any() or not (zero or factor.all()):
        raise _spoiled(name, "are not all positive")


def check_transform(transform: np.ndarray, channels: int, name: str) -> None:
    """The same for transforms, which have an inverse."""
    check_numbers(transform, (channels, channels), name)
    if np.linalg.cond(transform.astype(np.float64)) > WORST_CONDITION:
        raise _spoiled(name, "have no inverse, or none that float32 can hold")


def _spoiled(name: str, why: str) -> PassError:
    return PassError(f"the plan's or the statistics' numbers for '{name}' {why}", fix="make them anew for this model")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "single"
