"""Finding passes by name, and making them with options given as text. Built-in passes come in like everyone's."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.util
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from qcompiler.errors import PassError
from qcompiler.pipeline import Pass

GROUP = "qcompiler.passes"
"""The entry-point group that packages offer their passes in: ``name = "module:Class"``."""

_loaded: dict[str, type[Pass]] = {}


def available() -> dict[str, type[Pass]]:
    """Every pass by its name: entry points of installed packages, then those of files given to ``load_file``."""
    return {**_installed(), **_loaded}


@functools.cache
def _installed() -> dict[str, type[Pass]]:
    found: dict[str, type[Pass]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            one = entry.load()
        except Exception as error:  # a foreign package may fail in any way
            raise PassError(
                f"the pass '{entry.name}' cannot be imported",
                where=entry.value,
                why=f"{type(error).__name__}: {error}",
                fix="repair or uninstall the package that offers it",
            ) from error
        found[entry.name] = _checked(one, entry.value)
    return found


def load_file(path: str) -> list[str]:
    """Runs a Python file of the user's and makes the passes it defines available; returns their names."""
    where = str(path)
    if not Path(path).is_file():
        raise PassError("no such file", where=where, fix="check the path given to --load")
    name = f"qcompiler_loaded_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PassError("is not a Python file", where=where, fix="give a .py file to --load")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may fail in any way
        why = f"{type(error).__name__}: {error}"
        raise PassError("cannot be loaded", where=where, why=why, fix="repair it") from error
    mine = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Pass) and c.__module__ == name]
    if not mine:
        raise PassError("defines no pass", where=where, fix="subclass qcompiler.Pass in it")
    for one in mine:
        _loaded[_checked(one, where).name] = one
    return [one.name for one in mine]


def find(name: str) -> type[Pass]:
    """The pass of that name. Raises PassError when there is none."""
    passes = available()
    if name not in passes:
        raise PassError(f"there is no pass '{name}'", fix=_suggest(name, passes, "see: qcompiler passes"))
    return passes[name]


def make(name: str, options: dict[str, Any] | None = None) -> Pass:
    """A pass by its name. Raises PassError when there is none, or when it has no such option."""
    one, given = find(name), dict(options or {})
    known = {field.name: field for field in dataclasses.fields(one)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise PassError(
                f"the pass '{name}' has no option '{key}'",
                fix=_suggest(key, known, f"it has {', '.join(known) or 'none'}"),
            )
    hints = typing.get_type_hints(one)
    for key, value in given.items():
        given[key] = _converted(value, hints[key], f"pass {name}: option '{key}'")
    return one(**given)


def parse(text: str) -> Pass:
    """``name`` or ``name{option=value,option=value}``."""
    matched = re.fullmatch(r"\s*([\w.-]+)\s*(?:\{(.*)\})?\s*", text)
    if matched is None:
        raise PassError(f"'{text}' is no pass", fix="write NAME or NAME{OPTION=VALUE,…}")
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in (matched[2] or "").split(","))):
        key, separator, value = part.partition("=")
        if not separator:
            raise PassError(f"'{part}' is no option", where=f"pass {matched[1]}", fix="write OPTION=VALUE")
        options[key.strip()] = value.strip()
    return make(matched[1], options)


def edited(stages: Mapping[str, Sequence[str]], changes: Iterable[str]) -> dict[str, list[str]]:
    """The passes of each stage after the user's changes: ``-NAME`` leaves one out wherever it stands, ``+NAME@AFTER``
    puts one in behind another (at the end of ``clean`` without ``@AFTER``), ``NAME{…}`` gives options to one that is
    there."""
    result = {stage: list(names) for stage, names in stages.items()}

    def places(name: str) -> list[tuple[str, int]]:
        found = [(stage, i) for stage, names in result.items() for i, text in enumerate(names) if _head(text) == name]
        if not found:
            heads = [_head(text) for names in result.values() for text in names]
            raise PassError(f"the pipeline has no pass '{name}'", fix=_suggest(name, heads, "see: qcompiler passes"))
        return found

    for change in changes:
        if change.startswith("-"):
            for stage, index in reversed(places(change[1:])):
                del result[stage][index]
        elif change.startswith("+"):
            text, _, after = change[1:].partition("@")
            parse(text)
            stage, index = places(after)[-1] if after else ("clean", len(result.setdefault("clean", [])) - 1)
            result[stage].insert(index + 1, text)
        else:
            parse(change)
            for stage, index in places(_head(change)):
                result[stage][index] = change
    return result


def options_of(one: type[Pass]) -> list[tuple[str, str, Any]]:
    """(name, type, default) of each option of a pass."""
    hints = typing.get_type_hints(one)
    return [
        (field.name, getattr(hints[field.name], "__name__", str(hints[field.name])), field.default)
        for field in dataclasses.fields(one)  # type: ignore[arg-type]
    ]


def _head(text: str) -> str:
    return text.partition("{")[0].strip()


def _checked(one: Any, where: str) -> type[Pass]:
    if not (isinstance(one, type) and issubclass(one, Pass) and dataclasses.is_dataclass(one) and one.name):
        raise PassError(
            "is no pass", where=where, fix="make it a frozen dataclass that subclasses qcompiler.Pass and has a name"
        )
    return one


def _converted(value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, str) or hint is str:
        return value
    try:
        parsed = ast.literal_eval(value.capitalize() if value.lower() in ("true", "false", "none") else value)
    except (ValueError, SyntaxError):
        raise PassError(f"cannot read '{value}'", where=where, fix=f"give a value of type {hint}") from None
    wanted = hint if isinstance(hint, type) else typing.get_origin(hint) or object
    if wanted is float and isinstance(parsed, int) and not isinstance(parsed, bool):
        return float(parsed)
    if (isinstance(wanted, type) and not isinstance(parsed, wanted)) or (wanted is int and isinstance(parsed, bool)):
        raise PassError(f"'{value}' is no {wanted.__name__}", where=where, fix="give a value of that type")
    return parsed


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}?" if close else otherwise
