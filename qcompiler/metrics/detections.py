"""How many detections find their match: same class, and boxes that overlap by half."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = False
LEAST_SCORE = 0.25
OVERLAP = 0.5
"""Intersection over union, for a match and for two detections to be of one thing."""
FINISHED = 6


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    return [boxes(row) for row in output]


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """F1, 2 · matches / (found + wanted), 1 where there is nothing to find and nothing is found.

    Rows: ``[detections, 6]``: two corners, score, class; or ``[4 + classes, places]`` as YOLOv8 returns them, the first
    four being the centre, width and height. Labels: ``[detections, 6]``, score 0 for none.
    """
    matches = total = 0
    for row, label in zip(rows, labels):
        found, wanted = boxes(row), np.reshape(label, (-1, FINISHED))
        wanted = wanted[wanted[:, 4] > 0.0]
        matches += matched(found, wanted)
        total += len(found) + len(wanted)
    return 2.0 * matches / total if total else 1.0


def boxes(row: np.ndarray) -> np.ndarray:
    """float64 ``[detections, 6]``: two corners, score and class of what is sure enough, the surest first, each thing
    once."""
    finished = row.ndim == 2 and row.shape[1] == FINISHED
    if not finished and (row.ndim != 2 or row.shape[0] < 5):
        raise ValueError(f"{list(row.shape)} is no list of detections")
    row = row.astype(np.float64)
    if not finished:
        row = row.T
        scores = row[:, 4:]
        corners = np.concatenate([row[:, :2] - row[:, 2:4] / 2.0, row[:, :2] + row[:, 2:4] / 2.0], 1)
        row = np.column_stack([corners, scores.max(1), scores.argmax(1)])
    row = row[row[:, 4] >= LEAST_SCORE]
    row = row[np.argsort(-row[:, 4], kind="stable")]
    kept: list[np.ndarray] = []
    for one in row:
        if all(one[5] != other[5] or overlap(one, other) <= OVERLAP for other in kept):
            kept.append(one)
    return np.array(kept).reshape(-1, FINISHED)


def matched(found: np.ndarray, wanted: np.ndarray) -> int:
    """How many of those found match one of those wanted, the surest first, each wanted one once."""
    left = list(range(len(wanted)))
    count = 0
    for one in found:
        fitting = [i for i in left if wanted[i, 5] == one[5] and overlap(one, wanted[i]) >= OVERLAP]
        if fitting:
            left.remove(max(fitting, key=lambda i: overlap(one, wanted[i])))
            count += 1
    return count


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, given by two corners each."""
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    inside = float(np.prod(np.maximum(sides, 0.0)))
    either = float(np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2])) - inside
    return inside / either if either > 0.0 else 0.0
