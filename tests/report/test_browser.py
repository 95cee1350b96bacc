"""The page in a real browser, at two widths: what is drawn fits, and the script does its work.

Run by ``make test-browser``, which fails where there is no browser. Pictures of the page are left in build/pages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report.reports import full, hostile

from qcompiler.report import NodeRecord, Report
from qcompiler.report.page import page

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (1280, 390)
PICTURES = Path(__file__).resolve().parents[2] / "build" / "pages"


def browser() -> str:
    found = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"no browser: install one of {', '.join(BROWSERS)}, or name it in BROWSER"
    return found


def opened(path: Path, profile: Path, *arguments: str) -> str:
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    done = subprocess.run(
        [*command, f"--user-data-dir={profile}", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def long_names() -> Report:
    """As real models have them, and worse."""
    report = full()
    name = "/encoder/layers.11/attention/self/query/MatMul_output_0_quantized_" + "x" * 60
    nodes = [NodeRecord(f"{name}{i}", "Conv", "int8", "QLinearConv", f"because of {name}") for i in range(20)]
    return replace(
        report,
        model=name, nodes=[*report.nodes, *nodes], warnings=[name],
        outputs=[replace(report.outputs[0], name=name), *report.outputs],
        histograms=[replace(report.histograms[0], tensor=name)] * 4,
        depth=[replace(one, tensor=name) for one in report.depth],
    )  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures(tmp_path: Path, width: int, dark: bool) -> None:
    (tmp_path / "page.html").write_text(page(full(), 0.04), "utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture = PICTURES / f"{'dark' if dark else 'light'}-{width}.png"
    picture.unlink(missing_ok=True)
    opened(
        tmp_path / "page.html", tmp_path / "profile", f"--window-size={width},2400", f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )  # fmt: skip
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (2400, width, 3)
    background = pixels[0, 0]
    assert (background.max() < 60) if dark else (background.min() > 200)
    drawn = np.abs(pixels - background).max(axis=2) > 8
    assert drawn[:, : width // 2].mean() > 0.05 and drawn[1800:].any()
    blue = (pixels[..., 2] - pixels[..., 0] > 80).sum()
    assert blue > 2000, "no chart is drawn"


MEASURE = """
<iframe id="frame" src="page.html" width="WIDTH" height="900" style="border: 0"></iframe>
<pre id="found"></pre>
<script>
frame.onload = () => setTimeout(() => {
  const page = frame.contentDocument;
  const inside = (one) => one.closest(".scroll");
  const wide = [...page.querySelectorAll("main *, header *")].filter((one) =>
    !inside(one) && !one.closest("svg") && one.getBoundingClientRect().right > WIDTH + 1);
  const table = page.getElementById("nodes-table");
  const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  const text = page.getElementById("nodes-text");
  const result = {
    width: page.documentElement.scrollWidth,
    wide: wide.map((one) => one.tagName + "." + one.className + " " + one.textContent.slice(0, 40)),
    all: shown().length,
    tools: !page.getElementById("nodes-tools").hidden,
    alerts: frame.contentWindow.alerted === undefined,
    smallest: Math.min(...[...page.querySelectorAll("i, td, p, span, figcaption")].map((one) =>
      parseFloat(getComputedStyle(one).fontSize))),
  };
  text.value = "softmax product"; text.dispatchEvent(new Event("input"));
  result.searched = shown();
  text.value = ""; text.dispatchEvent(new Event("input"));
  table.tHead.querySelector("button").click();
  result.sorted = shown();
  table.tHead.querySelector("button").click();
  result.reversed = shown();
  found.textContent = JSON.stringify(result);
}, 200);
</script>
"""


def measured(folder: Path, report: Report, width: int) -> dict[str, Any]:
    """What the page says of itself, seen through a window of this width."""
    (folder / "page.html").write_text(page(report, 0.04), "utf-8")
    (folder / "outer.html").write_text(MEASURE.replace("WIDTH", str(width)), "utf-8")
    text = opened(
        folder / "outer.html", folder / "profile", "--allow-file-access-from-files", "--window-size=1400,1000",
        "--virtual-time-budget=5000", "--dump-dom",
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', text, re.S)
    assert found is not None, text[-2000:]
    result = json.loads(unescape(found[1]))
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", [full(), long_names(), hostile()], ids=["full", "long", "hostile"])
def test_nothing_sticks_out_and_everything_can_be_read(tmp_path: Path, report: Report, width: int) -> None:
    found = measured(tmp_path, report, width)
    assert found["width"] <= width and found["wide"] == []
    assert found["smallest"] >= 12.0
    assert found["all"] == len(report.nodes) and found["tools"] and found["alerts"]


def test_nodes_can_be_searched_and_sorted(tmp_path: Path) -> None:
    found = measured(tmp_path, full(), 1280)
    assert found["searched"] == ["softmax"]
    assert found["sorted"] == [*(f"conv{i}" for i in range(12)), "softmax"]  # by number, not conv1, conv10, conv2
    assert found["reversed"] == found["sorted"][::-1]
