"""The user's own choices, checked against the graph: an unknown name is an error, not a no-op."""

from __future__ import annotations

import difflib
import fnmatch
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler import ir
from qcompiler.calibrate import OBSERVERS
from qcompiler.errors import RecipeError
from qcompiler.plan import BY_USER

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Recipe:
    """``keep_float``: names, shell patterns or operator types (``op:Conv``) of nodes to leave in float.
    ``observer``: for all tensors; ``observers``: tensor name or shell pattern to observer, of which the
    first that fits counts."""

    keep_float: tuple[str, ...] = ()
    observer: str | None = None
    observers: Mapping[str, str] = field(default_factory=dict)

    def kept(self, graph: ir.Graph) -> dict[str, str]:
        """Node names to keep in float, with the reason. Raises RecipeError for a pattern that fits nothing."""
        nodes = [node for _, node in ir.all_nodes(graph)]
        found: dict[str, str] = {}
        for pattern in self.keep_float:
            if pattern.startswith("op:"):
                fitting = [node.name for node in nodes if node.op == pattern[3:]]
                names = {node.op for node in nodes}
            else:
                names = {node.name for node in nodes}
                fitting = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not fitting:
                close = difflib.get_close_matches(pattern.removeprefix("op:"), sorted(names), 1)
                raise RecipeError(
                    f"no node fits '{pattern}'",
                    where="keep_float",
                    fix=f"did you mean {close[0]}?" if close else "see: qcompiler inspect",
                )
            found.update(dict.fromkeys(fitting, f"{BY_USER} ('{pattern}')"))
        return found


    def observers_of(self, graph: ir.Graph) -> dict[str, str]:
        """Observers by tensor. Raises RecipeError for a pattern that fits nothing and for an unknown observer."""
        names = sorted(ir.all_tensors(graph))
        found: dict[str, str] = {}
        for pattern, observer in self.observers.items():
            if observer not in OBSERVERS:
                close = difflib.get_close_matches(str(observer), list(OBSERVERS), 1)
                raise RecipeError(
                    f"there is no observer '{observer}'",
                    where=f"observers: '{pattern}'",
                    fix=f"did you mean {close[0]}?" if close else f"use {', '.join(OBSERVERS)}",
                )
            fitting = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not fitting:
                close = difflib.get_close_matches(pattern, names, 1, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else "see: qcompiler plan"
                raise RecipeError(f"no tensor fits '{pattern}'", where="observers", fix=hint)
            for name in fitting:
                found.setdefault(name, observer)
        return found


def load_recipe(source: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None) -> Recipe:
    """From a TOML file, a mapping with the same keys, or nothing. Raises RecipeError on an unknown key."""
    if source is None:
        return Recipe()
    if isinstance(source, Recipe):
        return source
    where = "recipe"
    if isinstance(source, Mapping):
        data = dict(source)
    else:
        where = str(source)
        try:
            data = tomllib.loads(Path(source).read_text("utf-8"))
        except OSError as error:
            raise RecipeError("cannot be read", where=where, why=error.strerror or str(error)) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError("is not TOML", where=where, why=str(error)) from None
    known = list(Recipe.__dataclass_fields__)
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise RecipeError(
                f"unknown key '{key}'",
                where=where,
                fix=f"did you mean {close[0]}?" if close else f"use {', '.join(known)}",
            )
    names = data.get("keep_float", ())
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise RecipeError("'keep_float' is not a list of names", where=where, fix='write keep_float = ["NODE", …]')
    observers = data.get("observers", {})
    if not isinstance(observers, Mapping):
        raise RecipeError("'observers' is no table", where=where, fix='write [observers] and lines TENSOR = "OBSERVER"')
    return Recipe(tuple(names), data.get("observer"), dict(observers))
