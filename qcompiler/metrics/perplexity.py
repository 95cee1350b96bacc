"""Perplexity of a language model: how many tokens it hesitates between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

LOWER_IS_BETTER = True
IGNORED = -100


def labels(output: np.ndarray, feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    """The tokens that follow, from the input that holds one integer for each position of the output."""
    for values in feed.values():
        if values.dtype.kind in "iu" and values.shape == output.shape[:-1] and values.max(initial=0) > 1:
            following = np.full(values.shape, IGNORED, np.int64)
            following[..., :-1] = values[..., 1:]
            return list(following)
    raise ValueError("no input holds the tokens of the output's positions: give labels")


def score(rows: Iterable[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """exp of the mean of −ln p(label). Rows: logits ``[positions, tokens]``; labels: the token that each position
    should say, ``[positions]``, negative where it does not count."""
    surprise, count = 0.0, 0
    for row, label in zip(rows, labels):
        wanted = np.asarray(label).reshape(row.shape[:-1])
        logits, wanted = row[wanted >= 0].astype(np.float64), wanted[wanted >= 0].astype(np.int64)
        largest = logits.max(-1, keepdims=True)
        total = np.log(np.sum(np.exp(logits - largest), -1)) + largest[..., 0]
        surprise += float(np.sum(total - np.take_along_axis(logits, wanted[..., None], -1)[..., 0]))
        count += wanted.size
    if not count:
        raise ValueError("no label counts")
    return math.exp(surprise / count)
