"""A few rows of a few tensors, kept as they are: what smoothing simulates rounding on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qcompiler import ir
from qcompiler.errors import ModelError
from qcompiler.runtime import Feed, run, session

ROWS = 128
"""Rows kept of each tensor, where nobody asks for more."""
SAMPLES = 16
"""Samples they are taken from, where nobody asks for more."""
LARGEST = 1e12
"""Magnitude of values up to which the square of a product's error is certain to be a float32."""


@dataclass(frozen=True)
class Rows:
    """Of one tensor, read along one axis of K entries: ``values``, some of its rows, float32 ``[rows, K]``, and
    ``reach``, the largest magnitude of each channel over all rows of the samples looked at, float32 ``[K]``."""

    values: np.ndarray
    reach: np.ndarray


def sample_rows(
    graph: ir.Graph,
    tensors: Mapping[str, int],
    feeds: Iterable[Feed],
    *,
    most: int = ROWS,
    samples: int = SAMPLES,
    skip_bad: bool = False,
) -> dict[str, Rows]:
    """At ``most`` so many rows of each tensor of the outermost graph, given with the axis that its rows run along,
    evenly spaced over each of so many ``samples``. Rows that are not ``usable`` are left out, with ``skip_bad`` samples
    on which the model fails as well."""
    if not tensors:
        return {}
    probed = ir.clone(graph)
    by_name = ir.all_tensors(probed)
    returned = {tensor.name for tensor in probed.outputs}
    probed.outputs += [by_name[name] for name in tensors if name not in returned]
    kept: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    reach: dict[str, np.ndarray] = {}
    with session(probed, prompt=True) as model:
        index = 0
        for feed in feeds:
            try:
                values = run(model, feed, list(tensors))
            except ModelError:
                if skip_bad:
                    continue
                raise
            for (name, axis), value in zip(tensors.items(), values):
                axis %= value.ndim
                parts = value.astype(np.float32, copy=False).reshape(
                    math.prod(value.shape[:axis]), value.shape[axis], math.prod(value.shape[axis + 1 :])
                )
                good = usable(parts, axis=1)
                places = np.flatnonzero(good)
                if not len(places):
                    continue
                step = max(1, len(places) * samples // most)
                kept[name].append(_rows(parts, places[index % step :: step]))
                farthest = _farthest(parts) if good.all() else np.abs(_rows(parts, places)).max(axis=0)
                reach[name] = np.maximum(reach[name], farthest) if name in reach else farthest
            index += 1
            if index == samples:
                break
    return {name: Rows(np.concatenate(parts)[:most], reach[name]) for name, parts in kept.items() if parts}


def _rows(parts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The rows at these places of ``parts [before, K, behind]``, copied, ``[places, K]``."""
    before, behind = np.divmod(places, parts.shape[2])
    return np.asarray(parts[before, :, behind])


def _farthest(parts: np.ndarray) -> np.ndarray:
    """The largest magnitude of each of the K, found in the order in which the values lie in memory."""
    return np.maximum(parts.max(axis=2).max(axis=0), -parts.min(axis=2).min(axis=0))


def usable(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Where all values along the axes are finite and no larger than ``LARGEST``, as bool."""
    if values.max(initial=0.0) <= LARGEST and values.min(initial=0.0) >= -LARGEST:  # nearly always; NaN is neither
        return np.ones(np.delete(values.shape, axis), bool)
    far = values.max(axis=axis, initial=0.0) <= LARGEST  # NaN compares as false
    return np.asarray(far & (values.min(axis=axis, initial=0.0) >= -LARGEST))
