"""Errors: one tree, one line."""

from __future__ import annotations

import inspect
import pickle

import pytest

from qcompiler import errors
from qcompiler.errors import ModelError, QCompilerError

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def test_there_is_one_tree() -> None:
    assert len(ALL) >= 10 and all(issubclass(one, QCompilerError) for one in ALL)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_says_what_where_why_and_what_to_do(kind: type[QCompilerError]) -> None:
    error = kind("is broken", where="file.onnx", why="cut short", fix="download it again")
    assert str(error) == "file.onnx: is broken (cut short); download it again"


@pytest.mark.parametrize(
    "parts, said",
    [
        ({}, "is broken"),
        ({"where": "a"}, "a: is broken"),
        ({"why": "b"}, "is broken (b)"),
        ({"fix": "c"}, "is broken; c"),
    ],
)
def test_parts_may_be_missing(parts: dict[str, str], said: str) -> None:
    assert str(ModelError("is broken", **parts)) == said


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(ModelError("two\nlines", why="a\n\n  long\ttrace")) == "two lines (a long trace)"


def test_an_error_survives_a_process_boundary() -> None:
    error = ModelError("is broken", where="a", why="b", fix="c")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and (copy.what, copy.where, copy.why, copy.fix) == ("is broken", "a", "b", "c")
