"""A few rows of a few tensors, kept as they are: what smoothing simulates rounding on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.runtime import Feed, run, session

ROWS = 128
"""Rows kept of each tensor."""
SAMPLES = 16
"""Samples they are taken from."""


def sample_rows(graph: ir.Graph, tensors: Sequence[str], feeds: Iterable[Feed]) -> dict[str, np.ndarray]:
    """At most ``ROWS`` rows, float32 ``[rows, K]``, of each named tensor of the outermost graph, read along its last
    axis of K entries; evenly spaced over each of ``SAMPLES`` samples. Rows that are not finite are left out."""
    if not tensors:
        return {}
    probed = ir.clone(graph)
    by_name = ir.all_tensors(probed)
    returned = {tensor.name for tensor in probed.outputs}
    probed.outputs += [by_name[name] for name in tensors if name not in returned]
    kept: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    with session(probed, prompt=True) as model:
        for index, feed in enumerate(feeds):
            if index == SAMPLES:
                break
            for name, value in zip(tensors, run(model, feed, tensors)):
                rows = value.reshape(-1, value.shape[-1])
                step = max(1, len(rows) * SAMPLES // ROWS)
                rows = rows[index % step :: step]
                kept[name].append(rows[np.isfinite(rows).all(axis=1)].astype(np.float32))
    return {name: np.concatenate(parts)[:ROWS] for name, parts in kept.items() if sum(map(len, parts))}
