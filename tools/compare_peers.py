"""Compares qcompiler with other quantizers: the same models, samples and machine, in one run.

    python tools/compare_peers.py                                         every model, every tool
    python tools/compare_peers.py --models ppocr4-rec --peers ort-static,nncf --json result.json
    python tools/compare_peers.py --ops native                            ours with the operators of our library

Each peer is installed into an environment of its own under the cache (some take gigabytes) and run with its best
documented options. Where a model's opset is below 13, a peer gets it as it is and once more with the opset raised.

speed     float's time over the quantized model's: the median over interleaved rounds in one process
SQNR      10 log10(sum of float's output² / sum of error²) over all evaluation samples, in dB; mean over the outputs
top-1     agreement with float where an output looks like scores; not accuracy
metric    what the recipe measures against exact labels
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from attempt import attempt, last_line
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import NAMES, recipe
from models.packages import FetchError, cache
from models.recipe import Feed

ROOT = Path(__file__).resolve().parents[1]
RAISED_OPSET = 17
TRANSFORMERS = ("minilm-l3", "minilm-l6")  # some peers want to be told


@dataclass(frozen=True)
class Peer:
    """Another tool: what pip installs for it, and its runner in tools/peers/."""

    name: str
    requirements: tuple[str, ...]
    runner: str

    def python(self) -> Path:
        """The interpreter of the peer's own environment, made when it is missing. Raises FetchError."""
        digest = hashlib.sha256(" ".join(self.requirements).encode()).hexdigest()[:8]
        folder = cache() / "peers" / f"{self.name.partition('-')[0]}-{digest}"
        interpreter, complete = folder / "bin" / "python", folder / ".complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            command += self.requirements
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise FetchError(f"not installed: {last_line(done.stderr)}")
            complete.touch()
        return interpreter


ORT = ("onnxruntime==1.32.0", "onnx==1.23.2", "sympy")
PEERS = (
    Peer("ort-static", ORT, "ort_static.py"),
    Peer("ort-dynamic", ORT, "ort_dynamic.py"),
    Peer("nncf", ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"), "nncf_static.py"),
    Peer("modelopt", ("nvidia-modelopt[onnx]==0.47.0",), "modelopt_static.py"),
    Peer("onnxsim", ("onnxsim==0.8.1", "onnxruntime==1.32.0"), "onnxsim_static.py"),
    Peer("aimet", ("aimet-onnx==2.42.0",), "aimet_static.py"),
)
OURS = "qcompiler"


def write_stacks(feeds: Iterable[Feed], path: Path) -> None:
    """One array an input with one more axis than the input: a stack of feeds, whatever their axes mean."""
    listed = list(feeds)
    np.savez(path, allow_pickle=False, **{name: np.stack([feed[name] for feed in listed]) for name in listed[0]})


def raised(model: Path, folder: Path) -> Path | None:
    """The model at a later opset, where its own is too old for per-channel Q/DQ; None where it is not."""
    loaded = onnx.load(model)
    version = next(entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx"))
    if version >= 13:
        return None
    path = folder / "raised.onnx"
    onnx.save(onnx.version_converter.convert_version(loaded, RAISED_OPSET), path)
    return path


@contextmanager
def working_folder(kept: Path | None) -> Iterator[Path]:
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()


def our_command() -> str:
    beside = Path(sys.executable).with_name("qcompiler")
    return str(beside) if beside.exists() else "qcompiler"


def compare(name: str, tools: list[str], options: argparse.Namespace, say: Any) -> list[dict[str, Any]]:
    """All rows of one model."""
    one = recipe(name)
    model = one.model()
    rows: list[dict[str, Any]] = [{"model": name, "tool": "float", "bytes": model.stat().st_size}]
    with working_folder(options.keep and options.keep / name) as folder:
        samples = folder / "calib.npz"
        write_stacks(one.calibration(options.samples), samples)
        try:
            later = raised(model, folder)
        except Exception as error:
            later = None
            say(f"{name}: the opset cannot be raised for the peers: {last_line(str(error))}")
        models = {"float": str(model)}
        jobs: list[tuple[str, str, Path]] = []
        for tool in tools:
            jobs.append((tool, tool, model))
            if later and tool != OURS:
                jobs.append((f"{tool} (opset raised)", tool, later))
        for label, tool, source in jobs:
            say(f"{name}: {label}")
            out = folder / f"{label.replace(' ', '-').strip(')').replace('(', '')}.onnx"
            out.unlink(missing_ok=True)
            row: dict[str, Any] = {"model": name, "tool": label}
            rows.append(row)
            try:
                command = command_for(tool, name, source, samples, out, options.ops)
            except FetchError as error:
                row["error"] = str(error)
                continue
            outcome = attempt(command, out, options.timeout, options.memory_limit)
            row |= {"quantize_seconds": outcome.seconds, "quantize_peak_megabytes": outcome.peak_megabytes}
            if outcome.notes:
                row["notes"] = outcome.notes
            if outcome.error:
                row["error"] = outcome.error
            else:
                row["bytes"] = sum(path.stat().st_size for path in folder.glob(f"{out.name}*"))
                models[label] = str(out)
        say(f"{name}: measuring {len(models)} models")
        measured = measure(
            models,
            recipe=name,
            evaluation=options.eval,
            threads=options.threads,
            rounds=options.rounds,
            seconds=options.seconds,
        )
    for row in rows:
        row |= measured.get(row["tool"], {})
    return rows


def command_for(tool: str, name: str, model: Path, samples: Path, out: Path, ops: str) -> list[str | Path]:
    if tool == OURS:
        return [our_command(), "compile", model, "-o", out, "--data", samples, "--ops", ops, "--quiet"]
    peer = next(peer for peer in PEERS if peer.name == tool)
    hint = ["transformer"] if name in TRANSFORMERS else []
    return [peer.python(), ROOT / "tools" / "peers" / peer.runner, model, samples, out, *hint]


def measure(models: dict[str, str], **how: Any) -> dict[str, dict[str, Any]]:
    """What tools/peers/measure.py finds in a process of its own; a model that takes it down is measured apart."""
    command = [sys.executable, str(ROOT / "tools" / "peers" / "measure.py")]
    wanted = json.dumps({"models": models, **how})
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    reason = f"measuring failed ({done.returncode}): {last_line(done.stderr)}"
    if len(models) <= 2:
        return {label: {"error": reason} for label in models}
    results: dict[str, dict[str, Any]] = {}
    for label in models:
        if label != "float":
            results |= measure({"float": models["float"], label: models[label]}, **how)
    return results


def sqnrs(row: dict[str, Any]) -> str:
    values = list(row.get("sqnr", {}).values())
    if not values or row["tool"] == "float":
        return ""
    return f"{float(np.mean(values)):.1f}" + (f" (min {min(values):.1f})" if len(values) > 1 else "")


def table(rows: list[dict[str, Any]]) -> Table:
    columns = ("model", "tool", "speed", "SQNR dB", "scores dB", "top-1 %", "metric", "MB", "took s", "peak MB", "")
    made = Table(*columns, show_lines=False)
    for column in made.columns[2:-1]:
        column.justify = "right"
        column.no_wrap = True
    previous = None
    for row in rows:
        if previous not in (None, row["model"]):
            made.add_section()

        def number(key: str, form: str = ".1f", factor: float = 1.0, row: dict[str, Any] = row) -> str:
            value = row.get(key)
            return "" if value is None else format(value * factor, form)

        speed = f"{number('speed', '.2f')}×" if "speed" in row else ""
        scores = number("scores_sqnr") if row["tool"] != "float" else ""
        if scores:
            scores += f" (min {number('scores_sqnr_lowest_channel')})"
        made.add_row(
            row["model"] if row["model"] != previous else "",
            row["tool"],
            speed if row["tool"] != "float" else f"{number('milliseconds', '.2f')} ms",
            sqnrs(row),
            scores,
            number("top1_agreement") if row["tool"] != "float" else "",
            number("metric"),
            number("bytes", ".1f", 1e-6),
            number("quantize_seconds"),
            number("quantize_peak_megabytes", ".0f"),
            row.get("error") or row.get("notes", ""),
        )
        previous = row["model"]
    return made


def machine() -> dict[str, str]:
    facts = {"system": platform.platform(), "python": platform.python_version(), "cores": str(os.cpu_count())}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                facts["processor"] = line.partition(":")[2].strip()
            if line.startswith("flags"):
                flags = set(line.split())
                wanted = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")
                facts["int8 instructions"] = " ".join(name for name in wanted if name in flags)
                break
    except OSError:
        pass
    return facts


def chosen(text: str | None, known: tuple[str, ...], parser: argparse.ArgumentParser) -> list[str]:
    names = list(known) if text is None else [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{unknown[0]} is unknown; there are {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = tuple(peer.name for peer in PEERS)
    parser.add_argument("--models", metavar="NAME,…", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--peers", metavar="NAME,…", help=f"default: all of {', '.join(names)}; '' for none")
    parser.add_argument("--without-us", action="store_true", help="leave qcompiler out")
    parser.add_argument("--ops", choices=("standard", "native"), default="standard", help="that qcompiler may use")
    parser.add_argument("--samples", type=int, default=128, help="for calibration (default %(default)s)")
    parser.add_argument("--eval", type=int, default=64, help="held-out samples (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=64, help="interleaved timing rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="begin no further round then (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="for one quantizing run")
    parser.add_argument("--memory-limit", type=float, default=24, metavar="GB", help="for one quantizing run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the quantized models there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = parser.parse_args()
    models = chosen(options.models, NAMES, parser)
    tools = chosen(options.peers, names, parser)
    if not options.without_us:
        tools.append(OURS)

    progress = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    for name in models:
        try:
            rows += compare(name, tools, options, lambda text: progress.print(text, style="dim", highlight=False))
        except FetchError as error:
            rows.append({"model": name, "tool": "", "error": str(error)})
        if options.json:  # after each model: an interrupted run is not lost
            result = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}, "rows": rows}
            options.json.write_text(json.dumps(result, indent=1), "utf-8")
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table(rows))
    for name in models:
        if metric := recipe(name).metric:
            console.print(f"metric of {name}: {metric}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
