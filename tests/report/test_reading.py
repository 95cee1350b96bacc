"""Reading a report back: equal, old ones too, and never anything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report.reports import full, hostile

from qcompiler.errors import ReportError
from qcompiler.report import Report
from qcompiler.report.reading import load_report


def written(folder: Path, data: Any) -> Path:
    path = folder / "report.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.mark.parametrize("report", [full(), Report(), hostile()])
def test_it_is_the_same_report(tmp_path: Path, report: Report) -> None:
    assert load_report(written(tmp_path, report.to_json())) == report


def test_an_older_report_lacks_what_came_later(tmp_path: Path) -> None:
    data = full().to_dict()
    for name in ("memory", "front", "depth", "histograms"):
        del data[name]
    report = load_report(written(tmp_path, data))
    assert report.memory is None and report.front == report.depth == report.histograms == []
    assert report.nodes == full().nodes


def test_a_newer_report_may_hold_more(tmp_path: Path) -> None:
    data = full().to_dict()
    data["colour"] = data["speed"]["colour"] = "blue"
    assert load_report(written(tmp_path, data)) == full()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": "qcompiler-report/2"}, ("has format qcompiler-report/2", "this version reads qcompiler-report/1")),
        ({"format": "qcompiler-plan/1"}, ("is not a report",)),
        ({"format": None}, ("is not a report",)),
        ({"model": 7}, ("is damaged", "model is 7")),
        ({"nodes": {}}, ("is damaged", "nodes is {}")),
        ({"nodes": [{"name": "a"}]}, ("is damaged", "nodes[0].op is missing")),
        ({"speed": {"speedup": "fast"}}, ("is damaged", "speed.source_ms is missing")),
        ({"source_bytes": True}, ("is damaged", "source_bytes is true")),
        ({"source_bytes": 1.5}, ("is damaged", "source_bytes is 1.5")),
        ({"operators": {"Conv": "many"}}, ("is damaged", "operators['Conv'] is \"many\"")),
        ({"stages": [{"name": "load", "seconds": 10**400, "peak_mb": 1}]}, ("is damaged", "too large")),
        ({"histograms": [full().to_dict()["histograms"][0] | {"counts": [1, None]}]}, ("histograms[0].counts[1]",)),
    ],
)
def test_what_is_no_report_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    path = written(tmp_path, full().to_dict() | change)
    with pytest.raises(ReportError) as error:
        load_report(path)
    assert str(error.value).startswith(f"{path}: ") and "compile … --report" in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "text, word",
    [("", "is not JSON"), ("[1, 2]", "holds no JSON object"), ("[" * 100_000, "is not JSON"), ("{", "is not JSON")],
)
def test_what_is_no_object_is_refused(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ReportError, match=word):
        load_report(written(tmp_path, text))
    with pytest.raises(ReportError, match="no such file"):
        load_report(tmp_path / "gone.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="is not JSON"):
        load_report(tmp_path / "bytes.json")
    with pytest.raises(ReportError, match="cannot be read"):
        load_report(tmp_path)
