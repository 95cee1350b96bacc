"""Passes by name, options as text, and changed pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from qcompiler import Pass, registry
from qcompiler.errors import PassError


@dataclass(frozen=True)
class Sample(Pass):
    name: ClassVar[str] = "sample"
    count: int = 1
    share: float = 0.5
    fast: bool = False
    kind: str = "a"
    sizes: tuple[int, ...] = ()


@pytest.fixture(autouse=True)
def only_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {"sample": Sample})


def message(text: str) -> str:
    with pytest.raises(PassError) as caught:
        registry.parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("sample", Sample()),
        (" sample { count = 3 , share=2 } ", Sample(count=3, share=2.0)),
        ("sample{fast=true,kind=b}", Sample(fast=True, kind="b")),
        ("sample{fast=False}", Sample(fast=False)),
        ("sample{}", Sample()),
    ],
)
def test_options_take_the_type_of_their_field(text: str, expected: Sample) -> None:
    assert registry.parse(text) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("sampel", ("no pass 'sampel'", "did you mean sample?")),
        ("sample{cuont=3}", ("no option 'cuont'", "did you mean count?")),
        ("sample{count=three}", ("option 'count'", "cannot read 'three'")),
        ("sample{count=2.5}", ("option 'count'", "'2.5' is no int")),
        ("sample{count=true}", ("option 'count'", "'true' is no int")),
        ("sample{fast=1}", ("option 'fast'", "'1' is no bool")),
        ("sample{count}", ("'count' is no option", "OPTION=VALUE")),
        ("sample{count=1", ("is no pass", "NAME{OPTION=VALUE")),
        ("", ("is no pass",)),
    ],
)
def test_what_cannot_be_read_is_named(text: str, words: tuple[str, ...]) -> None:
    said = message(text)
    assert all(word in said for word in words), said


def test_python_values_are_taken_as_they_are() -> None:
    assert registry.make("sample", {"sizes": (1, 2)}) == Sample(sizes=(1, 2))


STAGES = {"clean": ("a", "sample{count=2}", "b"), "lower": ("sample",)}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ([], {"clean": ["a", "sample{count=2}", "b"], "lower": ["sample"]}),
        (["-sample"], {"clean": ["a", "b"], "lower": []}),
        (["+sample"], {"clean": ["a", "sample{count=2}", "b", "sample"], "lower": ["sample"]}),
        (["+sample{count=9}@a"], {"clean": ["a", "sample{count=9}", "sample{count=2}", "b"], "lower": ["sample"]}),
        (["sample{count=5}"], {"clean": ["a", "sample{count=5}", "b"], "lower": ["sample{count=5}"]}),
        (["-a", "+sample@b"], {"clean": ["sample{count=2}", "b", "sample"], "lower": ["sample"]}),
    ],
)
def test_pipelines_are_changed(changes: list[str], expected: dict[str, list[str]]) -> None:
    assert registry.edited(STAGES, changes) == expected
    assert STAGES["clean"] == ("a", "sample{count=2}", "b")


def test_changes_that_fit_nothing() -> None:
    for change, word in (("-c", "no pass 'c'"), ("+sample@c", "no pass 'c'"), ("+sampel", "did you mean sample?")):
        with pytest.raises(PassError, match=word.replace("?", r"\?")):
            registry.edited(STAGES, [change])


def test_a_pass_added_behind_one_that_stands_twice_runs_last() -> None:
    assert registry.edited({"clean": ("a", "b", "a")}, ["+sample@a"])["clean"] == ["a", "b", "a", "sample"]


def test_options_are_listed() -> None:
    assert registry.options_of(Sample)[:2] == [("count", "int", 1), ("share", "float", 0.5)]


def test_built_in_passes_come_by_entry_points() -> None:
    known = registry.available()
    assert {"place", "solve", "lower", "fold-constants"} <= set(known)
    assert all(one.name == name for name, one in known.items())
    assert all(registry.find(name)() is not None for name in known)  # every option has a default


FILE = """
from dataclasses import dataclass
from qcompiler import Pass
@dataclass(frozen=True)
class Mine(Pass):
    name = "mine"
    level: int = 1
"""


def test_load_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    assert registry.load_file(str(tmp_path / "mine.py")) == ["mine"]
    assert registry.parse("mine{level=3}").level == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text, words",
    [
        ("1 / 0", ("cannot be loaded", "ZeroDivisionError")),
        ("def broken(:", ("cannot be loaded", "SyntaxError")),
        ("x = 1", ("defines no pass", "subclass qcompiler.Pass")),
        (FILE.replace("@dataclass(frozen=True)\n", "").replace('name = "mine"', "pass"), ("is no pass", "has a name")),
    ],
)
def test_files_that_offer_nothing(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PassError) as caught:
        registry.load_file(str(tmp_path / "mine.py"))
    assert "mine.py" in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="no such file"):
        registry.load_file(str(tmp_path / "gone.py"))
