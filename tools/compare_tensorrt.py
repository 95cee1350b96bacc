"""Compares what TensorRT makes of models quantized by qcompiler, ModelOpt and ONNX Runtime; no GPU is needed.

    python tools/compare_tensorrt.py                                       three models, all tools, sm89
    python tools/compare_tensorrt.py --models minilm-l6 --gpus sm80,sm89,sm120 --precisions int8,fp16,fp8,int4
    python tools/compare_tensorrt.py --models all --without-peers --samples 8 --eval 2 --gpus sm80,sm89,sm120 \
        --precisions int8,fp16,fp8,int4                                    what builds for which GPU

All tools get the same calibration samples, in one run. The engines are built by TensorRT-RTX's ahead-of-time builder
(the extra `tensorrt`); agreement with float is that of the Q/DQ graph, run in ONNX Runtime as it is written.

conv, gemm      layers that convolve or multiply matrices, those in few bits of all; an attention is counted apart
attention       attentions that became one kernel
layers          of the engine in all
SQNR            10 log10(sum of float's output² / sum of error²) over held-out samples, of the worst output, in dB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attempt import attempt, last_line
from compare_peers import PEERS, ROOT, our_command, raised, write_stacks
from rich.console import Console
from rich.table import Table

from models import NAMES, recipe
from qcompiler.errors import TargetError
from qcompiler.target_files import load_target

MODELS = ("minilm-l6", "efficientnet-lite0", "ppocr4-rec")
OTHERS = {
    "modelopt entropy": ("modelopt", "modelopt_tensorrt.py", ["entropy"]),
    "modelopt max": ("modelopt", "modelopt_tensorrt.py", ["max"]),
    "ort symmetric": ("ort-static", "ort_tensorrt.py", []),
}
CODES = ("Int8", "FP8", "Int4", "FP4E2M1")
CONVOLUTIONS, PRODUCTS = ("correlation", "deconv"), ("gemm", "runtime_fusion")


def engines(source: Path, made: Path, samples: Path, gpus: list[str]) -> list[dict[str, Any]]:
    """What `qcompiler verify --target tensorrt` finds, or the reason why there is nothing. Kinds of GPU are asked for
    at once, or each by itself where one fails."""
    command = [our_command(), "verify", source, made, "--target", "tensorrt", "--data", samples, "--json"]
    for gpu in gpus:
        command += ["--gpu", gpu]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [json.loads(done.stdout)]
    if len(gpus) > 1:
        return [found for gpu in gpus for found in engines(source, made, samples, [gpu])]
    return [{"gpu": gpus[0], "error": last_line(done.stderr)}]


def applying(gpus: list[str], precision: str) -> list[str]:
    """Those of the kinds of GPU that have the precision's types."""
    kind = load_target("tensorrt").precisions[precision]

    def applies(gpu: str) -> bool:
        try:
            kind.check_gpu(precision, gpu)
        except TargetError:
            return False
        return True

    return [gpu for gpu in gpus if applies(gpu)]


def counted(kinds: dict[str, int], wanted: tuple[str, ...]) -> str:
    """``38/38``: layers of these kinds in few bits, of all."""
    found = [(name.partition(" ")[2], count) for name, count in kinds.items() if name.partition(" ")[0] in wanted]
    return f"{sum(count for kind, count in found if kind in CODES)}/{sum(count for _, count in found)}"


def rows_of(name: str, label: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    if "error" in found:
        return [{"model": name, "tool": label, **found}]
    sqnr = min((output["sqnr"] for output in found["outputs"]), default=None)
    return [
        {
            "model": name,
            "tool": label,
            "gpu": engine["gpu"],
            "conv": counted(engine["kinds"], CONVOLUTIONS),
            "gemm": counted(engine["kinds"], PRODUCTS),
            "attention": engine["attentions"],
            "layers": len(engine["layers"]),
            "meant": f"{engine['meant'] - len(engine['in_float'])}/{engine['meant']}",
            "sqnr": sqnr,
            "kinds": engine["kinds"],
        }
        for engine in found["engines"]
    ]


def compare(name: str, folder: Path, options: argparse.Namespace, say: Any) -> list[dict[str, Any]]:
    one = recipe(name)
    source = one.model()
    folder.mkdir(parents=True, exist_ok=True)
    samples, held = folder / "calibration.npz", folder / "evaluation.npz"
    write_stacks(one.calibration(options.samples), samples)
    write_stacks(one.evaluation(options.eval), held)
    say(f"{name}: float")
    gpus = options.gpus.split(",")
    rows = [row for found in engines(source, source, held, gpus) for row in rows_of(name, "float", found)]
    jobs: list[tuple[str, list[str | Path], Path, list[str]]] = []
    for precision in options.precisions.split(","):
        out = folder / f"qcompiler.{precision}.onnx"
        command = [our_command(), "compile", source, "-o", out, "--data", samples, "--target", "tensorrt", "--quiet"]
        if wanted := applying(gpus, precision):
            jobs.append((f"qcompiler {precision}", [*command, "--precision", precision], out, wanted))
    later = None if options.without_peers else raised(source, folder)
    for label, (peer, runner, arguments) in OTHERS.items() if not options.without_peers else ():
        python = next(one for one in PEERS if one.name == peer).python()
        for suffix, model in (("", source), (" (opset raised)", later)):
            if model is not None:
                out = folder / f"{label}{suffix}.onnx".replace(" ", "-")
                command = [python, ROOT / "tools" / "peers" / runner, model, samples, out, *arguments]
                jobs.append((label + suffix, command, out, gpus))
    for label, command, out, wanted in jobs:
        say(f"{name}: {label}")
        error = None
        if not (options.go_on and out.exists()):
            out.unlink(missing_ok=True)
            error = attempt(command, out, options.timeout, options.memory_limit).error
        made = [{"error": error}] if error else engines(source, out, held, wanted)
        rows += [row for found in made for row in rows_of(name, label, found)]
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table("model", "tool", "gpu", "conv", "gemm", "attention", "layers", "as meant", "SQNR dB", "")
    previous = None
    for row in rows:
        if previous not in (None, row["model"]):
            made.add_section()
        previous = row["model"]
        sqnr = row.get("sqnr")
        values = [row.get(key, "") for key in ("model", "tool", "gpu", "conv", "gemm", "attention", "layers", "meant")]
        shown = "" if sqnr is None or row["tool"] == "float" else f"{sqnr:.1f}"
        made.add_row(*map(str, values), shown, row.get("error", "")[:160])
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = f"of {', '.join(NAMES)}, or all (default %(default)s)"
    parser.add_argument("--models", default=",".join(MODELS), help=known)
    parser.add_argument("--gpus", default="sm89", help="kinds to build for (default %(default)s)")
    parser.add_argument("--precisions", default="int8", help="of ours (default %(default)s)")
    parser.add_argument("--without-peers", action="store_true", help="only ours and float")
    parser.add_argument("--samples", type=int, default=128, help="for calibration (default %(default)s)")
    parser.add_argument("--eval", type=int, default=64, help="held-out samples (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="for one quantizing run")
    parser.add_argument("--memory-limit", type=float, default=16, metavar="GB", help="for one quantizing run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the quantized models there")
    go_on = "take quantized models that --keep left there as they are: of the same samples and versions"
    parser.add_argument("--go-on", action="store_true", help=go_on)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything found there")
    options = parser.parse_args()
    progress, rows = Console(stderr=True), []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES if options.models == "all" else options.models.split(","):
            place = (options.keep or Path(folder)) / name
            rows += compare(name, place, options, lambda text: progress.print(text, style="dim", highlight=False))
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1), "utf-8")
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
