"""How much outputs point the same way, as embeddings are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = False


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    return list(output)


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """The mean cosine of each row and its label, both read as one vector."""
    return float(np.mean([_cosine(row, label) for row, label in zip(rows, labels)]))


def _cosine(row: np.ndarray, label: np.ndarray) -> float:
    a, b = row.astype(np.float64).ravel(), np.asarray(label, np.float64).ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else float(not (a - b).any())
