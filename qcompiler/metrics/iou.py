"""Mean intersection over union of a segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = False
HALF = 0.5


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    return [classes(row) for row in output]


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """The mean over the classes that occur of |found ∩ wanted| / |found ∪ wanted|. Rows: scores ``[classes, …]``, or
    one probability ``[1, …]``; labels: the class of each place, ``[…]``, negative where it does not count."""
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    for row, label in zip(rows, labels):
        found = classes(row)
        wanted = np.reshape(label, found.shape)
        found, wanted = found[wanted >= 0], wanted[wanted >= 0]
        for one in np.union1d(found, wanted).astype(int).tolist():
            both[one] = both.get(one, 0) + int(np.sum((found == one) & (wanted == one)))
            either[one] = either.get(one, 0) + int(np.sum((found == one) | (wanted == one)))
    if not either:
        raise ValueError("no label counts")
    return float(np.mean([both[one] / either[one] for one in either]))


def classes(row: np.ndarray) -> np.ndarray:
    """The class of each place."""
    return row.argmax(0) if row.shape[0] > 1 else (row[0] > HALF).astype(np.int64)
