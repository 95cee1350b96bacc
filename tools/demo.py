"""make demo: fetches an OCR recognizer, compiles it to INT8 and lets both versions read.

Leaves demo/ppocr4-rec.int8.onnx and demo/report.html.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.text import Text

import qcompiler

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import recipe  # noqa: E402
from models.packages import FetchError  # noqa: E402
from models.ppocr4_rec import decode, edits  # noqa: E402
from qcompiler.progress import bar  # noqa: E402
from qcompiler.report.text import render, table, titled  # noqa: E402

NAME = "ppocr4-rec"
CALIBRATION, EVALUATION, SHOWN = 128, 64, 6


def main() -> int:
    console = Console(highlight=False)
    folder = ROOT / "demo"
    folder.mkdir(exist_ok=True)
    one = recipe(NAME)
    console.print(f"Fetching {NAME} ({one.licence}) …")
    try:
        source = one.model()
    except FetchError as error:
        console.print(f"demo: {error}", markup=False)
        return 1
    console.print(f"Compiling it with {CALIBRATION} drawn lines of text and no options …\n")
    with bar(console) as progress:
        result = qcompiler.compile(
            source, lambda: one.calibration(CALIBRATION), options=qcompiler.Options(details=True, progress=progress)
        )
    compiled = result.save(folder / f"{NAME}.int8.onnx")
    (folder / "report.html").write_text(result.report.to_html(), "utf-8")
    console.print(render(result.report))

    labels = one.labels(EVALUATION)
    before, after = (read(path, one.evaluation(EVALUATION)) for path in (source, compiled))
    title = f"{SHOWN} of {EVALUATION} lines that it was not calibrated on, misread ones first"
    lines = table("written", "float reads", "INT8 reads")
    for written, a, b in sorted(zip(labels, before, after), key=lambda row: row[0] == row[1] == row[2])[:SHOWN]:
        lines.add_row(Text(written), Text(a), Text(b))
    console.print(titled(title, lines))
    console.print(f"character error: float {error_rate(before, labels):.2f} %, INT8 {error_rate(after, labels):.2f} %")
    console.print(f"left {compiled.relative_to(ROOT)} and {(folder / 'report.html').relative_to(ROOT)}")
    return 0


def read(path: Path, feeds: object) -> list[str]:
    """What a model reads on each picture."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [decode(np.asarray(session.run(None, feed)[0])) for feed in feeds]  # type: ignore[attr-defined]


def error_rate(found: list[str], written: list[str]) -> float:
    """Percent of characters that would have to be changed."""
    return 100 * sum(map(edits, found, written)) / sum(map(len, written))


if __name__ == "__main__":
    sys.exit(main())
