"""Character error rate of a CTC head: edits that what is read needs to become what is written, a character.

Graves, Fernández, Gomez and Schmidhuber, "Connectionist Temporal Classification", ICML 2006: best path decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = True
BLANK = 0
PADDING = -1


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    return [decoded(row) for row in output]


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Edits over characters. Rows: scores ``[steps, classes]``, of which class 0 is the blank; labels: classes
    ``[length]``, padded with -1."""
    written = [np.asarray(label).ravel() for label in labels]
    written = [line[line != PADDING] for line in written]
    characters = sum(len(line) for line in written)
    if not characters:
        raise ValueError("there is no character in the labels")
    return sum(edits(decoded(row), line) for row, line in zip(rows, written)) / characters


def decoded(row: np.ndarray) -> np.ndarray:
    """The best class of each step, repetitions and blanks dropped."""
    if row.ndim != 2:
        raise ValueError(f"a row of a CTC head is [steps, classes], this one is {list(row.shape)}")
    best = row.argmax(-1)
    kept = best[np.flatnonzero(np.diff(best, prepend=PADDING))]
    return kept[kept != BLANK]


def edits(read: np.ndarray, written: np.ndarray) -> int:
    """The least number of insertions, deletions and substitutions (Levenshtein's distance)."""
    row = np.arange(len(written) + 1)
    steps = np.arange(len(written) + 1)
    for character in read:
        kept = np.minimum(row[:-1] + (written != character), row[1:] + 1)
        below = np.concatenate([[row[0] + 1], kept])
        row = np.minimum.accumulate(below - steps) + steps  # insertions, from the left
    return int(row[-1])
