"""Built-in measures on rows small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.metrics import cosine, ctc, detections, iou, perplexity, top1


def one_hot(classes: list[int], count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


def test_top1_counts_every_place_of_a_row() -> None:
    rows = [one_hot([0, 1, 2], 3), one_hot([2, 2, 2], 3)]
    assert top1.score(rows, [np.array([0, 1, 1]), np.array([2, 2, 2])]) == pytest.approx(5 / 6)
    assert top1.score([np.array([0.1, 0.9])], [1]) == 1.0


def test_cosine_of_rows() -> None:
    rows = [np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])]
    assert cosine.score(rows, rows) == pytest.approx(1.0)
    assert cosine.score(rows, rows[::-1]) == 0.0
    assert cosine.score([np.zeros(2)], [np.zeros(2)]) == 1.0


def test_ctc_drops_repetitions_and_blanks() -> None:
    row = one_hot([0, 3, 3, 0, 3, 2, 2], 4)
    assert ctc.decoded(row).tolist() == [3, 3, 2]
    assert ctc.score([row], [np.array([3, 3, 2, -1, -1])]) == 0.0
    assert ctc.score([row], [np.array([3, 2])]) == 0.5  # one too many, of two
    assert ctc.score([one_hot([0], 4)], [np.array([1, 2, 3])]) == 1.0


letters = st.lists(st.integers(1, 3), max_size=6).map(np.array)


@given(letters, letters)
def test_edits_are_levenshtein_s(a: np.ndarray, b: np.ndarray) -> None:
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = distance(i - 1, j - 1) + int(a[i - 1] != b[j - 1])
        return min(same, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    assert ctc.edits(a, b) == distance(len(a), len(b))


def test_no_character_to_read_is_no_rate() -> None:
    with pytest.raises(ValueError, match="no character"):
        ctc.score([one_hot([0], 4)], [np.array([-1])])


def test_perplexity_of_a_guess_is_the_number_of_tokens() -> None:
    row = np.zeros((3, 8), np.float32)
    assert perplexity.score([row], [np.array([1, 7, -100])]) == pytest.approx(8.0)
    sure = np.log(np.array([[0.25, 0.75], [0.5, 0.5]]))
    assert perplexity.score([sure], [np.array([1, 0])]) == pytest.approx(1.0 / math.sqrt(0.75 * 0.5))


def test_perplexity_takes_its_labels_from_the_tokens_that_follow() -> None:
    feed = {"mask": np.ones((1, 3), np.int64), "ids": np.array([[5, 6, 7]])}
    (label,) = perplexity.labels(np.zeros((1, 3, 9)), feed)
    assert label.tolist() == [6, 7, -100]
    with pytest.raises(ValueError, match="give labels"):
        perplexity.labels(np.zeros((1, 4, 9)), feed)


def test_iou_is_the_mean_over_classes() -> None:
    row = np.moveaxis(one_hot([0, 0, 1, 1], 2), -1, 0)  # [classes, places]
    assert iou.score([row], [np.array([0, 1, 1, 1])]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert iou.score([row], [np.array([0, -1, 1, 1])]) == 1.0
    assert iou.score([np.array([[0.2, 0.8]])], [np.array([0, 1])]) == 1.0


CORNERS = np.array([[0.0, 0.0, 10.0, 10.0, 0.9, 1.0], [20.0, 20.0, 30.0, 30.0, 0.8, 0.0]])


def test_detections_match_by_class_and_overlap() -> None:
    assert detections.score([CORNERS], [CORNERS]) == 1.0
    other_class = CORNERS * [1, 1, 1, 1, 1, 0] + [0, 0, 0, 0, 0, 2]
    assert detections.score([CORNERS], [other_class]) == 0.0
    shifted = CORNERS + np.array([4, 0, 4, 0, 0, 0])  # 60 of 140: too little
    assert detections.score([CORNERS], [shifted]) == 0.0
    assert detections.score([CORNERS], [CORNERS[:1]]) == pytest.approx(2 / 3)
    assert detections.score([CORNERS * [1, 1, 1, 1, 0.1, 1]], [np.zeros((3, 6))]) == 1.0


def test_detections_are_read_off_a_yolo_head() -> None:
    """[4 + classes, places]: two places see the same thing."""
    head = np.zeros((6, 9))
    head[:, 0] = [5, 5, 10, 10, 0.1, 0.9]
    head[:, 1] = [5.5, 5, 10, 10, 0.0, 0.8]
    assert detections.boxes(head).tolist() == [[0.0, 0.0, 10.0, 10.0, 0.9, 1.0]]
    with pytest.raises(ValueError, match="no list of detections"):
        detections.boxes(np.zeros((4, 9)))
