"""Feeds from the user's own code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qcompiler.data.samples import listed
from qcompiler.errors import DataError


def user_function(path: Path, name: str) -> Callable[[], Iterator[Any]]:
    return guarded(imported(path, name), f"{path}:{name}")


def imported(path: Path, name: str) -> Callable[..., Any]:
    """A function of the user's own file, which is run for it. Raises DataError."""
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="check the path")
    spec = importlib.util.spec_from_file_location(f"qcompiler_own_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as for a script, so that the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataError("cannot be imported", where=str(path), why=_said(error)) from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, name, None)
    if not callable(function):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DataError(f"has no function '{name}'", where=str(path), why=f"it has {listed(defined)}")
    return function


def guarded(function: Callable[[], Any], where: str) -> Callable[[], Iterator[Any]]:
    """Calls foreign code and iterates over what it returns; whatever it raises becomes a DataError."""

    def feeds() -> Iterator[Any]:
        try:
            returned = function()
            iterator = iter(returned) if isinstance(returned, Iterable) and not isinstance(returned, Mapping) else None
        except Exception as error:
            raise DataError("raised an error", where=where, why=_said(error)) from error
        if iterator is None:
            raise DataError(f"returned a {type(returned).__name__}", where=where, fix="return an iterable of feeds")
        index = 0
        while True:
            try:
                feed = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(f"raised an error at sample {index}", where=where, why=_said(error)) from error
            yield feed
            index += 1

    return feeds


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
