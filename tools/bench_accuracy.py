"""Accuracy as a budget on real models: what sensitivity costs, how true the predicted front is, what goals cost.

    python tools/bench_accuracy.py                                  every model
    python tools/bench_accuracy.py --models minilm-l6 --json accuracy.json

passes     runs of the float model over the samples used that the sensitivity of all sites took
front      points of the front, and by how much of what they measured the worst of their predicted decibels was off
plain      speed and decibels of compiling with no goal, on held-out samples
goal       the same with --max-drop 0.5 where the recipe has a metric, on held-out samples: half a percent, or half a
           percent of it where it is not in percent
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attempt import last_line
from compare_peers import machine, our_command, write_stacks
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import NAMES, recipe

ROOT = Path(__file__).resolve().parents[1]
METRIC = """
import sys
sys.path.insert(0, {root!r})
from models import recipe
one = recipe({name!r})
feeds, labels = list(one.evaluation({count})), one.labels({count})
def score(model):
    return one.score([next(iter(model(feed).values())) for feed in feeds], labels)
"""


def ours(*arguments: object) -> str:
    """Runs our command; what it says when it fails, else nothing."""
    done = subprocess.run([our_command(), *map(str, arguments)], capture_output=True, text=True, check=False)
    return last_line(done.stderr) if done.returncode else ""


def bench(name: str, options: argparse.Namespace, folder: Path, say: Any) -> dict[str, Any]:
    one = recipe(name)
    model, samples, held_out = one.model(), folder / "samples.npz", folder / "held_out.npz"
    write_stacks(one.calibration(options.samples), samples)
    write_stacks(one.evaluation(options.eval), held_out)
    row: dict[str, Any] = {"model": name}
    say(f"{name}: sensitivity")
    if fault := ours("sensitivity", model, "--data", samples, "-o", folder / "sens.json", "--quiet"):
        row["fault"] = fault
    else:
        found = json.loads((folder / "sens.json").read_text())
        row |= {"passes": found["passes"], "sites": len(found["sites"])}
    goals: dict[str, list[object]] = {"plain": [], "full": ["--improve", "full"]}
    if one.score is not None:
        (folder / "own.py").write_text(METRIC.format(root=str(ROOT), name=name, count=options.eval))
        lower = ["--lower-is-better"] if "lower is better" in (one.metric or "") else []
        drop = "0.5" if "percent" in (one.metric or "") else "0.5%"
        goals["goal"] = ["--max-drop", drop, "--metric", f"{folder / 'own.py'}:score", *lower]
    for goal, arguments in goals.items():
        say(f"{name}: {goal}")
        out, report = folder / f"{goal}.onnx", folder / f"{goal}.json"
        if fault := ours("compile", model, "-o", out, "--data", samples, "--quiet", "--report", report, *arguments):
            row[goal] = {"fault": fault}
            continue
        told = json.loads(report.read_text())
        command = [our_command(), "verify", model, out, "--data", held_out, "--json"]
        judged = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        row[goal] = {
            "speedup": judged["speed"]["speedup"],
            "sqnr": min(float(output["sqnr"]) for output in judged["outputs"]),
            "seconds": sum(stage["seconds"] for stage in told["stages"]),
            "front": told["front"],
        }
    return row


def off(front: list[dict[str, Any]]) -> list[float]:
    """By what share of what was measured each predicted point was off."""
    told = [(float(point["sqnr_predicted"]), point["sqnr_measured"]) for point in front]
    return [abs(predicted - float(found)) / float(found) for predicted, found in told if found is not None]


def said(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    return one.get("fault") or f"{one['speedup']:.2f}x, {one['sqnr']:.1f} dB, {one['seconds']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NAMES), help="names with commas between them")
    parser.add_argument("--samples", type=int, default=128, help="to calibrate on")
    parser.add_argument("--eval", type=int, default=64, help="held-out samples to judge by")
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args()
    console = Console(highlight=False)
    rows = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(bench(name, options, Path(folder), console.print))
        if options.json:  # after each model: an interrupted run is not lost
            options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    table = Table("model", "sites", "passes", "front", "plain", "--max-drop 0.5")
    for row in rows:
        points = off(row["full"].get("front", []))
        front = f"{len(points)} points, {max(points):.0%} off" if points else ""
        passes = f"{row['passes']:.1f}" if "passes" in row else row["fault"]
        table.add_row(row["model"], str(row.get("sites", "")), passes, front, said(row["plain"]), said(row.get("goal")))
    console.print(table)


if __name__ == "__main__":
    main()
