"""The page: well-formed, whole, on its own, and with the numbers of the JSON."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report.reports import SCRIPT, full, hostile

from qcompiler.report import Report
from qcompiler.report.page import FOLDER, UNBROKEN, number, page, percent
from qcompiler.report.reading import load_report

SECTIONS = ("serving", "outputs", "front", "depth", "histograms", "nodes", "stages")
VOID = {"meta", "input", "br", "link", "hr", "img"}
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href"}


class Page(HTMLParser):
    """What is in a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.scripts: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        assert len(known) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, known))
        if tag not in VOID:
            self._open.append((tag, known.get("id", "")))
        if tag == "tr":
            self.rows.setdefault(self._table(), []).append([])
        if tag in ("td", "th"):
            self.rows[self._table()][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, (tag, self._open)
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for tag, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
            if tag == "script":
                self.scripts.append(data)
        if any(tag in ("td", "th") for tag, _ in self._open):
            self.rows[self._table()][-1][-1] += data

    def _table(self) -> str:
        return next((name for tag, name in reversed(self._open) if tag == "table"), "")

    def attributes(self, name: str) -> list[str]:
        return [known[name] for _, known in self.tags if name in known]


@pytest.mark.parametrize("report", [full(), Report(), hostile(), Report(model="net", precision="float")])
def test_it_is_well_formed_and_whole_and_loads_nothing(report: Report) -> None:
    text = page(report, 0.04)
    found = Page(text)
    sections = [known["id"] for tag, known in found.tags if tag == "section"]
    assert sections == list(SECTIONS)
    assert all(found.texts[f"{name}-title"] for name in SECTIONS)
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(known.get("aria-label") for tag, known in found.tags if tag == "svg")
    for name in LOADING:
        for value in found.attributes(name):
            assert name == "href" and value.startswith("#") and value[1:] in ids, (name, value)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {tag for tag, _ in found.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}


def test_figures_are_those_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(full().to_json())
    data = json.loads((tmp_path / "report.json").read_text())
    found = Page(page(load_report(tmp_path / "report.json"), 0.36))
    texts, speed = found.texts, data["speed"]
    assert float(texts["speedup"].removesuffix("×")) == speed["speedup"]
    assert float(texts["time"].removesuffix(" ms")) == speed["compiled_ms"]
    assert float(texts["weights"].removesuffix(" MB")) * 1e6 == data["compiled_bytes"]
    assert texts["sqnr"] == "31.2 dB" and data["outputs"][0]["sqnr"] == 31.25
    assert int(texts["nodes-total"]) == len(data["nodes"])
    assert float(texts["requests"]) == 1e3 / speed["source_ms"] * speed["speedup"]
    assert float(texts["memory"].removesuffix(" MB")) * 1e6 == data["memory"]["compiled_bytes"]
    assert float(texts["cost"]) == pytest.approx(1e6 * 4e-3 * 0.36 / 3600)
    assert f"saves 0.600 (60{UNBROKEN}%)" in texts["serving"]
    assert texts["seconds"] == "3.75 s"
    assert found.rows["nodes-table"][1:] == [
        [node["name"], node["op"], node["precision"], node["form"], node["reason"]] for node in data["nodes"]
    ]
    depth = [[f"{100 * one['position']:.0f} %", f"{one['sqnr']:.1f} dB"] for one in data["depth"]]
    assert [row[:2] for row in found.rows["depth-table"][1:]] == depth
    assert [row[0] for row in found.rows["front-table"][1:]] == ["1.50×", "2.00×", "2.50×"]
    assert [row[2] for row in found.rows["front-table"][1:]] == ["40.0 dB", "", "31.2 dB"]
    assert found.rows["passes-table"][1] == ["place", "2", "7", "300.0 ms"]
    assert "codes from -2.50 to 3.50" in texts["histograms"] and f"1.2{UNBROKEN}% clipped" in texts["histograms"]
    text = page(full())
    for said in ("look here", "returned to float: softmax: measured slower", "place: softmax: a remark"):
        assert said in text


def test_what_a_model_is_called_stays_text() -> None:
    found = Page(page(hostile(), 1.0))
    assert len(found.scripts) == 1 and "alert" not in found.scripts[0]
    assert found.rows["nodes-table"][1][0] == SCRIPT
    attack = '" onmouseover="alert(1)" style="position:fixed\' x=\'{{ 7*7 }} {% include "page.js" %}'
    quoted = Page(page(hostile(attack)))
    assert not [name for _, known in quoted.tags for name in known if name.startswith("on")]
    assert quoted.rows["nodes-table"][1][0] == attack


def test_only_its_own_script_may_run() -> None:
    import base64
    import hashlib

    found = Page(page(full()))
    (policy,) = [known["content"] for _, known in found.tags if known.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256("".join(found.scripts).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_without_a_price_nothing_is_said_about_money() -> None:
    assert "cost" not in Page(page(full())).texts and "cost" in Page(page(full(), 0.0)).texts


def test_nothing_is_made_up() -> None:
    texts = Page(page(Report(model="net"))).texts
    assert "speedup" not in texts and "sqnr" not in texts and "requests" not in texts
    for name, said in (
        ("serving", "not measured"), ("outputs", "not measured"), ("front", "searched no front"),
        ("depth", "not measured"), ("histograms", "No tensor"), ("nodes", "No node"), ("stages", "No stage"),
    ):  # fmt: skip
        assert said in texts[name]


def test_numbers() -> None:
    assert [number(value) for value in (1234.5, 12.34, 0.001234, 1.5e9, float("inf"), 0.0)] == [
        "1234", "12.3", "0.00123", "1.5e+09", "inf", "0",
    ]  # fmt: skip
    shown = [percent(value).replace(UNBROKEN, " ") for value in (0.256, 0.0123, 0.0, float("nan"))]
    assert shown == ["26 %", "1.2 %", "0 %", "?"]


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    style = (FOLDER / "page.css").read_text()
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.S)[scheme]))
    pairs = [(ink, paper) for ink in ("text", "quiet", "main", "other", "good") for paper in ("page", "card")]
    for ink, paper in [*pairs, ("main", "main-soft"), ("other", "other-soft"), ("warn", "warn-soft")]:
        bright, dim = sorted((luminance(colors[ink]), luminance(colors[paper])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)  # WCAG 2.2, 1.4.3
