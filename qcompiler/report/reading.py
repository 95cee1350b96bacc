"""Reads a report's JSON back. Nothing in it is trusted: every field is held against the type that its record says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from qcompiler.errors import ReportError
from qcompiler.report.record import FORMAT, Report

Record = TypeVar("Record")
_NOT_FINITE = ("inf", "-inf", "nan")
_REWRITE = "write it again with: qcompiler compile … --report FILE.json"


def load_report(path: str | os.PathLike[str]) -> Report:
    """The report in a file that ``Report.to_json`` made, of this version or an older one of the same format, which may
    lack fields. Raises ReportError."""
    return decoded(read_json(path), str(path))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file. Raises ReportError."""
    where = str(path)
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise ReportError("no such file", where=where, fix="check the path") from None
    except OSError as error:
        raise ReportError("cannot be read", where=where, why=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ReportError("is not JSON", where=where, why=str(error), fix="check the path") from None
    if not isinstance(data, dict):
        raise ReportError("holds no JSON object", where=where, fix="check the path")
    return data


def decoded(data: Mapping[str, Any], where: str) -> Report:
    """Raises ReportError, which names the field, where the data is no report."""
    check_format(data, where)
    return record_of(Report, data, where, _REWRITE)


def check_format(data: Mapping[str, Any], where: str) -> None:
    """Raises ReportError unless the data is a report of the format that this version reads."""
    found = data.get("format")
    if found == FORMAT:
        return
    if isinstance(found, str) and found.startswith("qcompiler-report/"):
        raise ReportError(f"has format {found}", where=where, why=f"this version reads {FORMAT}", fix=_REWRITE)
    raise ReportError("is not a report", where=where, why=f"its format is not {FORMAT}", fix=_REWRITE)


def record_of(kind: type[Record], data: Mapping[str, Any], where: str, fix: str) -> Record:
    """A dataclass of this kind, every field held against its type; fields that it does not have are passed over.
    Raises ReportError, which names the field."""
    try:
        found = _read(kind, dict(data), "")
    except (ValueError, OverflowError) as error:
        raise ReportError("is damaged", where=where, why=str(error), fix=fix) from None
    assert isinstance(found, kind)
    return found


def _read(kind: Any, value: Any, place: str) -> Any:
    """The value as this kind. ``place``: where it stands, for errors. Raises ValueError."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # X | None
        return None if value is None else _read(parts[0], value, place)
    if origin is list and isinstance(value, list):
        return [_read(parts[0], item, f"{place}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _read(parts[1], item, f"{place}[{key!r}]") for key, item in value.items()}
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _record(kind, value, place)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is float and value in _NOT_FINITE:
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"{place} is {json.dumps(value)[:40]}")


def _record(kind: type, value: dict[str, Any], place: str) -> Any:
    """An instance of a record; fields that it does not have are a newer version's."""
    hints, prefix = get_type_hints(kind), f"{place}." if place else ""
    for one in fields(kind):
        if one.name not in value and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{prefix}{one.name} is missing")
    return kind(**{name: _read(hint, value[name], prefix + name) for name, hint in hints.items() if name in value})
