"""All-INT8 against the peers' own ways to accuracy, on CIFAR-10 with a head fitted once on float features.

    python tools/compare_accuracy.py                                    both models, every peer
    python tools/compare_accuracy.py --models mobilenet-v2 --peers nncf --json result.json
    python tools/compare_accuracy.py --keep DIR --go-on                 what peers left there is judged, not made again

Ours is compiled with --no-timing: nothing goes back to float. NNCF runs with accuracy control, AIMET with cross-layer
equalization and AdaRound, ONNX Runtime with and without SmoothQuant, onnxsim with equalization and bias correction.

The test split is judged from its picture 1000 on: those before it are for choosing between variants of ours.

right     pictures of the test split told rightly, in percent
SQNR      10 log10(sum of float's output² / sum of error²) over all of them, in dB
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from attempt import attempt
from compare_peers import ORT, OURS, ROOT, Peer, chosen, machine, our_command, working_folder, write_stacks
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from measure import session

from models import cifar10, images, recipe
from models.packages import FetchError, cache
from models.recipe import Feed
from qcompiler.numerics import sqnr

SCALES = {
    "mobilenet-v2": (images.IMAGENET_MEAN, images.IMAGENET_DEVIATION),
    "efficientnet-lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
}
SMOOTH = (*ORT, "neural-compressor==2.6", "six", "scikit-learn")
PEERS = (
    Peer("ort-static", ORT, "ort_static.py"),
    Peer("smooth-ort", SMOOTH, "ort_smooth.py"),
    Peer("nncf", ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"), "nncf_accuracy.py"),
    Peer("onnxsim", ("onnxsim==0.8.1", "onnxruntime==1.32.0"), "onnxsim_pipeline.py"),
    Peer("aimet", ("aimet-onnx==2.42.0",), "aimet_accuracy.py"),
)


JUDGED_FROM = 1000
"""The first picture of the test split that models are judged by."""


def preparation(name: str) -> cifar10.Prepare:
    mean, deviation = (np.array(values, np.float32)[None, :, None, None] for values in SCALES[name])
    return lambda pixels: (pixels - mean) / deviation


def answers(model: Path, feeds: list[Feed]) -> np.ndarray:
    loaded = session(str(model), 1)
    return np.concatenate([loaded.run(None, feed)[0] for feed in feeds])


def compared(name: str, tools: list[str], options: argparse.Namespace, folder: Path, say: Any) -> list[dict[str, Any]]:
    say(f"{name}: fitting the head")
    prepare = preparation(name)
    model = cifar10.classifier(recipe(name).model(), prepare, cache() / "heads")
    samples, labels = cifar10.feeds("training", prepare, options.samples, cifar10.FITTED)
    held_out, right = cifar10.feeds("test", prepare, options.eval, options.first)
    write_stacks(samples, folder / "calib.npz")
    (folder / "labels.json").write_text(json.dumps(labels), "utf-8")
    reference = answers(model, held_out)

    def share(found: np.ndarray) -> float:
        return 100 * float(np.mean(found.argmax(1) == np.array(right)))

    rows: list[dict[str, Any]] = [{"model": name, "tool": "float", "right": share(reference)}]
    for tool in tools:
        say(f"{name}: {tool}")
        out, row = folder / f"{tool}.onnx", {"model": name, "tool": tool}
        rows.append(row)
        command: list[str | Path] = [our_command(), "compile", model, "-o", out, "--data", folder / "calib.npz"]
        command += ["--no-timing", "--quiet"]
        if tool != OURS:
            peer = next(peer for peer in PEERS if peer.name == tool)
            try:
                runner = ROOT / "tools" / "peers" / peer.runner
                command = [peer.python(), runner, model, folder / "calib.npz", out, folder / "labels.json"]
            except FetchError as error:
                row["error"] = str(error)
                continue
        took = out.with_suffix(".seconds")
        if not (options.go_on and tool != OURS and out.exists() and took.exists()):
            outcome = attempt(command, out, options.timeout, options.memory_limit)
            row["seconds"] = outcome.seconds
            if outcome.error:
                row["error"] = outcome.error
                continue
            took.write_text(f"{outcome.seconds:.1f}", "utf-8")
        row["seconds"] = float(took.read_text("utf-8"))
        try:
            found = answers(out, held_out)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            row["error"] = f"does not run: {' '.join(str(error).split())[:200]}"
            continue
        row |= {"right": share(found), "sqnr": sqnr(reference, found)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = tuple(peer.name for peer in PEERS)
    parser.add_argument("--models", metavar="NAME,…", help=f"default: {', '.join(SCALES)}")
    parser.add_argument("--peers", metavar="NAME,…", help=f"default: all of {', '.join(names)}; '' for none")
    parser.add_argument("--samples", type=int, default=128, help="for calibration (default %(default)s)")
    parser.add_argument("--eval", type=int, default=1000, help="pictures to judge by (default %(default)s)")
    parser.add_argument("--first", type=int, default=JUDGED_FROM, help="of these pictures (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=3600, metavar="S", help="for one quantizing run")
    parser.add_argument("--memory-limit", type=float, default=16, metavar="GB", help="for one quantizing run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the quantized models there")
    parser.add_argument("--go-on", action="store_true", help="take the models of peers that --keep left there")
    parser.add_argument("--without-us", action="store_true", help="leave qcompiler out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = parser.parse_args()
    tools = [*chosen(options.peers, names, parser), *([] if options.without_us else [OURS])]
    console, rows = Console(highlight=False, width=160), []
    for name in chosen(options.models, tuple(SCALES), parser):
        with working_folder(options.keep and options.keep / name) as folder:
            rows += compared(name, tools, options, folder, console.print)
        if options.json:  # after each model: an interrupted run is not lost
            options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), "utf-8")
    table = Table("model", "tool", "right %", "SQNR dB", "took s", "")
    for row in rows:
        numbers = [f"{row[key]:.1f}" if key in row else "" for key in ("right", "sqnr", "seconds")]
        table.add_row(row["model"], row["tool"], *numbers, row.get("error", ""))
    console.print(table)


if __name__ == "__main__":
    main()
