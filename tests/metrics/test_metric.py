"""Metrics by name and by file; whatever is wrong with them is said in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompiler.errors import DataError, MetricError
from qcompiler.metrics import Drop, labels_from, metric_from

FEEDS = [{"x": np.eye(4, dtype=np.float32)[[index, 3 - index]]} for index in range(4)]


def plain(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"size": feed["x"].sum(-1), "scores": feed["x"]}


def wrong_once(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"scores": np.where(feed["x"][:1, :1] == 1, feed["x"][::-1], feed["x"])}


def test_without_labels_the_float_model_is_right() -> None:
    metric = metric_from("top-1:scores", FEEDS, plain)
    assert metric.of(plain) == 1.0
    assert metric.of(wrong_once) == 0.75
    assert metric.drop(metric.of(plain), metric.of(wrong_once)) == 0.25


def test_labels_are_one_for_each_row() -> None:
    labels = np.array([0, 3, 1, 2, 2, 1, 3, 1])
    assert metric_from("top-1:scores", FEEDS, plain, labels).of(plain) == 7 / 8
    with pytest.raises(DataError, match=r"there are 7 labels for 8 samples; give one label a sample"):
        metric_from("top-1:scores", FEEDS, plain, labels[:7])


def test_of_an_error_less_is_better() -> None:
    metric = metric_from("perplexity:scores", FEEDS, plain, np.zeros(8))
    assert metric.lower_is_better and metric.drop(2.0, 2.5) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top-2", "there is no metric 'top-2'; use one of top-1"),
        ("top-1:y", "no output 'y'; use one of size, scores"),
        ("cer:scores", r"does not suit the model \(a row of a CTC head is \[steps, classes\], this one is \[4\]\)"),
        ("perplexity:scores", "no input holds the tokens"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(text: str, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        metric_from(text, FEEDS, plain)


CODE = """
import numpy as np
def share(model):
    return np.float32(model({"x": np.eye(4, dtype=np.float32)})["scores"].mean())
def broken(model):
    return [][1]
def endless(model):
    return float("nan")
def wordy(model):
    return "very good"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return path


def test_a_function_of_the_user_s_own(file: Path) -> None:
    metric = metric_from(f"{file}:share", [], plain, lower_is_better=True)
    assert metric.of(plain) == 0.25 and metric.lower_is_better


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("broken", r"own.py:broken: raised an error \(IndexError: list index out of range\)"),
        ("endless", "returned nan; return a finite number"),
        ("wordy", "returned a str; return one number"),
    ],
)
def test_a_function_that_gives_no_number(file: Path, function: str, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        metric_from(f"{file}:{function}", [], plain).of(plain)


def test_a_function_that_is_not_there(file: Path) -> None:
    with pytest.raises(DataError, match="has no function 'accuracy'"):
        metric_from(f"{file}:accuracy", [], plain)
    with pytest.raises(MetricError, match="reads its own labels"):
        metric_from(f"{file}:share", [], plain, np.zeros(3))


@pytest.mark.parametrize(
    ("text", "plain", "allowed"), [("0.5%", 80.0, 0.4), ("0.5", 80.0, 0.5), ("2 %", -10.0, 0.2), ("0", 3.0, 0.0)]
)
def test_a_drop_is_a_share_or_an_amount(text: str, plain: float, allowed: float) -> None:
    assert Drop.parse(text).allowed(plain) == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["a bit", "-1", "nan", "%", "inf%"])
def test_what_is_no_drop(text: str) -> None:
    with pytest.raises(ValueError):
        Drop.parse(text)


def test_labels_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "one.npz", y=np.arange(4))
    np.savez(tmp_path / "two.npz", x=np.arange(5), y=np.arange(6))
    assert len(labels_from(f"{tmp_path}/a.npy")) == 3
    assert len(labels_from(f"{tmp_path}/one.npz")) == 4
    assert len(labels_from(f"{tmp_path}/two.npz:y")) == 6


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=np.arange(5), y=np.arange(6))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    (tmp_path / "text.npy").write_text("1 2 3")
    for name, said in (
        ("two.npz", "holds several arrays; name one of x, y"),
        ("two.npz:z", "has no array 'z'"),
        ("words.npy", "labels are <U1"),
        ("text.npy", "labels cannot be read"),
        ("none.npy", "no such file"),
    ):
        with pytest.raises(DataError, match=said):
            labels_from(f"{tmp_path}/{name}")
