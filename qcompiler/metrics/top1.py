"""How often the largest score is the right one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = False


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    return list(output.argmax(-1))


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Share of the rows, 0 … 1. Rows: scores ``[…, classes]``; labels: the right class of each, ``[…]``."""
    right = total = 0
    for row, label in zip(rows, labels):
        found = row.argmax(-1)
        right += int(np.sum(found == np.reshape(label, found.shape)))
        total += found.size
    return right / total
