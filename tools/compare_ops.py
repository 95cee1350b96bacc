"""Whether a model with our own operators is farther from float than one of the runtime's alone.

    python tools/compare_ops.py                                  every model
    python tools/compare_ops.py --models silero-vad,yolov8n

Both are compiled with --no-timing, so neither trades fidelity for speed, and judged on held-out samples: decibels of
the worst output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_accuracy import ours
from compare_peers import our_command, write_stacks
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import NAMES, recipe


def decibels(model: Path, compiled: Path, data: Path) -> float:
    command = [our_command(), "verify", str(model), str(compiled), "--data", str(data), "--json"]
    judged = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return min(float(output["sqnr"]) for output in judged["outputs"])


def compared(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    one = recipe(name)
    model, samples, held_out = one.model(), folder / "samples.npz", folder / "held_out.npz"
    write_stacks(one.calibration(options.samples), samples)
    write_stacks(one.evaluation(options.eval), held_out)
    found = []
    for ops in ("standard", "native"):
        out = folder / f"{ops}.onnx"
        if fault := ours("compile", model, "-o", out, "--data", samples, "--quiet", "--no-timing", "--ops", ops):
            return [name, fault]
        found.append(decibels(model, out, held_out))
    return [name, *(f"{one:.2f}" for one in found), f"{found[1] - found[0]:+.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NAMES), help="names with commas between them")
    parser.add_argument("--samples", type=int, default=64, help="to calibrate on")
    parser.add_argument("--eval", type=int, default=64, help="held-out samples to judge by")
    options = parser.parse_args()
    table = Table("model", "standard, dB", "native, dB", "difference")
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(*compared(name, options, Path(folder)))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
