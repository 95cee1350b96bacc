"""Measures calibration beside plain float inference of the same samples and ONNX Runtime's own calibrators.

    python tools/bench_calibration.py                              every part
    python tools/bench_calibration.py --parts time,memory --models ppocr4-rec --json result.json

time      calibrating a sample over running it in float, one thread: the median of interleaved pairs, and how long all
          observers then take together
memory    peak of a process of its own that runs float, that calibrates, and of ONNX Runtime's calibrators, each stopped
          at --memory-limit
merge     shards of a run, merged in several orders, against the file of one run
resume    a run killed by SIGKILL at random moments and resumed until it ends, against the file of a run left alone
ranges    percentile and MSE ranges against a reference that makes two passes, see two_pass.py. Error: of the worse end,
          in % of the reference's width. Of those beyond 1 %: how much more squared error their range leaves than the
          reference's, on the values themselves
entropy   milliseconds of the entropy search of a tensor, each the median of some tries
fidelity  SQNR of the model that is emitted with each observer and by default, on samples not calibrated on; its worst
          output. Low and high: 95 % of what other such samples would say of default − best, by drawing from these
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import two_pass
from attempt import attempt
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import NAMES, recipe
from qcompiler import ir, runtime
from qcompiler.calibrate import OBSERVERS, Calibration, Collector, Statistics, without_sentinels
from qcompiler.calibrate.functions import split
from qcompiler.calibrate.instrument import fetch_probe, instrument
from qcompiler.compiler import Compilation
from qcompiler.data import open_samples
from qcompiler.options import Options
from qcompiler.scheme import Scheme

ROOT = Path(__file__).resolve().parents[1]
U8 = Scheme("uint8", symmetric=False)
SHARDS = 7
REPEATS = 5
ALIKE, DRAWS = 8, 2000
REFERENCES = {"percentile": two_pass.percentile, "mse": two_pass.mse}
PEERS = ("MinMax", "Entropy", "Percentile")

FEEDS = """
import itertools, sys
sys.path.insert(0, {root!r})
from models import recipe

def feeds():
    def again():
        while True:
            yield from recipe({name!r}).calibration({count})
    return itertools.islice(again(), {count})
"""

FLOAT = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
for feed in feeds():
    session.run(None, feed)
open({out!r}, "w").close()
"""

PEER = """
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = feeds()

    def get_next(self):
        return next(self.feeds, None)

calibrator = create_calibrator(
    {model!r}, augmented_model_path={augmented!r}, calibrate_method=CalibrationMethod.{method}
)
calibrator.collect_data(Reader())
calibrator.compute_data()
open({out!r}, "w").close()
"""

Row = dict[str, Any]


def prepared(name: str, count: int) -> tuple[Compilation, list[str]]:
    """A model as calibration sees it, and the tensors whose ranges are wanted."""
    one = recipe(name)
    job = Compilation(str(one.model()), lambda: one.calibration(count), "ort-cpu", "int8", None, Options())
    job.clean()
    return job, job.observed(job.prepared())


def timing(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    job, tensors = prepared(name, options.samples[0])
    counted, functions = split(job.graph, tensors)
    feeds = list(recipe(name).calibration(16))
    ratios, floats = [], []
    with runtime.session(job.source) as plain, Collector(job.graph, counted, threads=1) as collector:
        for turn in range(options.rounds):
            feed = feeds[turn % len(feeds)]

            def ours(feed: Any = feed) -> None:
                collector.observe(feed)

            def theirs(feed: Any = feed) -> None:
                runtime.run(plain, feed)

            seconds = {}
            for run in (ours, theirs) if turn % 2 else (theirs, ours):
                start = time.perf_counter()
                run()
                seconds[run] = time.perf_counter() - start
            ratios.append(seconds[ours] / seconds[theirs])
            floats.append(seconds[theirs])
        start = time.perf_counter()
        seen = collector.statistics()
        for one in seen.tensors.values():
            if one.finite:
                for observer in OBSERVERS.values():
                    observer(one, U8)
        solving = time.perf_counter() - start
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    yield {
        "model": name, "tensors": len(tensors), "counted": len(counted), "functions": len(functions),
        "float ms": 1e3 * float(np.median(floats)), "ratio": middle, "p10": low, "p90": high, "bar": 1.3,
        "all observers ms": 1e3 * solving,
    }  # fmt: skip


def memory(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    model = str(recipe(name).model())
    for count in options.samples:
        feeds = FEEDS.format(root=str(ROOT), name=name, count=count)
        source = folder / "samples.py"
        source.write_text(feeds)

        def program(text: str, **values: str) -> list[str | Path]:
            out = str(folder / "done")
            return [sys.executable, "-c", feeds + text.format(model=model, out=out, **values)]  # noqa: B023

        commands: dict[str, tuple[list[str | Path], Path]] = {"float": (program(FLOAT), folder / "done")}
        ours = [sys.executable, "-m", "qcompiler", "calibrate", model, "-o", folder / "s.npz", "--observer", "entropy",
                "--data", f"{source}:feeds", "--workers", "1", "--quiet"]  # fmt: skip
        commands["qcompiler"] = (ours, folder / "s.npz")
        if count == options.samples[0]:
            for method in PEERS if not options.without_peers else ():
                text = program(PEER, method=method, augmented=str(folder / "augmented.onnx"))
                commands[f"onnxruntime {method}"] = (text, folder / "done")
        plain = 0.0
        for tool, (command, out) in commands.items():
            out.unlink(missing_ok=True)
            done = attempt(command, out, options.timeout, options.memory_limit)
            plain = done.peak_megabytes if tool == "float" else plain
            yield {
                "model": name, "samples": count, "tool": tool, "peak MB": done.peak_megabytes,
                "over float MB": done.peak_megabytes - plain, "bar": 150 if tool == "qcompiler" else None,
                "seconds": done.seconds, "error": done.error or "",
            }  # fmt: skip


def calibrate(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "qcompiler", "calibrate", str(model), "-o", str(out), "--data", str(data),
            "--workers", "1", "--quiet", *more]  # fmt: skip


def as_files(name: str, count: int, folder: Path) -> Path:
    data = folder / f"data-{name}"
    data.mkdir(exist_ok=True)
    feeds = recipe(name).calibration(count)
    for index, feed in enumerate(itertools.islice(itertools.cycle(feeds), count)):
        np.savez(data / f"{index}.npz", allow_pickle=False, **feed)
    return data


def merging(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    model, data = recipe(name).model(), as_files(name, options.samples[0], folder)
    whole = folder / "whole.npz"
    subprocess.run(calibrate(model, data, whole), check=True)
    parts = [folder / f"s{number}.npz" for number in range(1, SHARDS + 1)]
    for number, part in enumerate(parts, 1):
        subprocess.run(calibrate(model, data, part, "--shard", f"{number}/{SHARDS}"), check=True)
    same = 0
    orders = [parts, parts[::-1], *(random.Random(seed).sample(parts, SHARDS) for seed in range(3))]
    for order in orders:
        merged = folder / "merged.npz"
        command = [sys.executable, "-m", "qcompiler", "merge", *map(str, order), "-o", str(merged), "--quiet"]
        subprocess.run(command, check=True)
        same += merged.read_bytes() == whole.read_bytes()
    sizes = sorted(Statistics.load(part).samples for part in parts)
    yield {"model": name, "shards": f"{SHARDS} of {sizes[0]} to {sizes[-1]}", "orders": len(orders), "identical": same}


def resuming(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    model, data = recipe(name).model(), as_files(name, 2 * options.samples[0], folder)
    whole = folder / "whole.npz"
    start = time.monotonic()
    subprocess.run(calibrate(model, data, whole), check=True)
    duration = time.monotonic() - start
    moments = random.Random(0)
    same = kills = resumed = 0
    for _ in range(options.tries):
        out = folder / "killed.npz"
        checkpoint = Path(f"{out}.checkpoint")
        for path in (out, checkpoint):
            path.unlink(missing_ok=True)
        while not out.exists():
            resumed += checkpoint.exists()
            process = subprocess.Popen(calibrate(model, data, out, "--resume"))
            try:
                code = process.wait(moments.uniform(0.4, 1.0) * duration)
                if code:
                    raise subprocess.CalledProcessError(code, process.args)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        same += out.read_bytes() == whole.read_bytes()
    yield {"model": name, "tries": options.tries, "kills": kills, "went on": resumed, "identical": same}


def references(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    job, tensors = prepared(name, options.samples[0])
    feeds = list(recipe(name).calibration(options.reference_samples))
    seen = Calibration(job.graph, tensors).run(open_samples(feeds, job.graph.inputs)).tensors
    errors: dict[str, list[tuple[float, str]]] = {observer: [] for observer in REFERENCES}
    costs: dict[str, list[float]] = {observer: [] for observer in REFERENCES}
    for start in range(0, len(tensors), 16):
        some = tensors[start : start + 16]
        probed = instrument(job.graph, some, fetch_probe)
        with runtime.session(probed.graph, prompt=True) as session:
            runs = [runtime.run(session, feed, list(probed.outputs)) for feed in feeds]
        for index, tensor in enumerate(some):
            x = np.concatenate([run[index] for run in runs], axis=None).astype(np.float64)
            if not x.size or min(x.min(), 0) == max(x.max(), 0) or without_sentinels(seen[tensor])[1]:
                continue
            for observer, reference in REFERENCES.items():
                low, high = reference(x, options.reference_bins)
                ours = OBSERVERS[observer](seen[tensor], U8)
                if high > low:
                    error = 100 * max(abs(ours[0] - low), abs(ours[1] - high)) / (high - low)
                    errors[observer].append((error, tensor))
                    if error > 1:
                        costs[observer].append(100 * (two_pass.error(x, *ours) / two_pass.error(x, low, high) - 1))
    for observer, found in errors.items():
        values = np.array([error for error, _ in found])
        yield {
            "model": name, "observer": observer, "tensors": len(found), "within 1 %": int((values <= 1).sum()),
            "median %": float(np.median(values)), "worst %": values.max(), "worst tensor": max(found)[1],
            "others' error, %": ", ".join(f"{cost:+.2g}" for cost in costs[observer]),
        }  # fmt: skip


def entropies(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    job, tensors = prepared(name, options.samples[0])
    with Collector(job.graph, tensors, threads=1) as collector:
        for feed in recipe(name).calibration(8):
            collector.observe(feed)
        seen = collector.statistics().tensors
    milliseconds = []
    for one in seen.values():
        if one.finite:
            tries = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                OBSERVERS["entropy"](one, U8)
                tries.append(1e3 * (time.perf_counter() - start))
            milliseconds.append(float(np.median(tries)))  # of one try, the worst is what the system did meanwhile
    yield {
        "model": name, "tensors": len(milliseconds), "mean ms": float(np.mean(milliseconds)),
        "median ms": float(np.median(milliseconds)), "worst ms": max(milliseconds), "bar": 2,
    }  # fmt: skip


def fidelity(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    one = recipe(name)
    graphs: dict[str, ir.Graph] = {}
    quantized, statistics, chosen = set(), None, ""
    for observer in ("", *OBSERVERS):
        if observer and observer == chosen:  # the same model, data and options give the same bytes
            continue
        job = Compilation(str(one.model()), lambda: one.calibration(options.samples[0]), "ort-cpu", "int8", None,
                          Options(observer=observer, timing=False, limit=options.samples[0]))  # fmt: skip
        result = job.run(None, statistics)
        statistics, chosen = result.statistics, chosen or job.observer
        graphs[job.observer] = result.graph
        quantized.add(len(result.plan.intended) if result.plan is not None else 0)
    with ExitStack() as stack:
        plain = stack.enter_context(runtime.session(str(one.model())))
        sessions = {observer: stack.enter_context(runtime.session(graph)) for observer, graph in graphs.items()}
        outputs = [output.name for output in plain.get_outputs() if "float" in output.type]
        found: dict[str, list[list[tuple[float, float]]]] = {observer: [] for observer in OBSERVERS}
        for feed in one.evaluation(options.evaluation):
            wanted = [np.float64(values) for values in runtime.run(plain, feed, outputs)]
            for observer, session in sessions.items():
                actual = runtime.run(session, feed, outputs)
                found[observer].append([(np.sum(x * x), np.sum((x - y) ** 2)) for x, y in zip(wanted, actual)])
        powers = {observer: np.array(rows) for observer, rows in found.items()}
    reached = {observer: float(worst_decibels(power.sum(axis=0))) for observer, power in powers.items()}
    best = max(reached, key=reached.__getitem__)
    # Neighbouring samples are alike (one recording, one page), so blocks of them are drawn.
    blocks = np.array_split(np.arange(len(powers[best])), max(1, len(powers[best]) // ALIKE))
    sums = {observer: np.array([power[block].sum(axis=0) for block in blocks]) for observer, power in powers.items()}
    draws = np.random.default_rng(0).integers(0, len(blocks), (DRAWS, len(blocks)))
    apart = worst_decibels(sums[chosen][draws].sum(axis=1)) - worst_decibels(sums[best][draws].sum(axis=1))
    low, high = np.percentile(apart, (2.5, 97.5))
    yield {
        "model": name, "samples": len(powers[best]), "nodes in 8 bits": ", ".join(map(str, sorted(quantized))),
        **{f"{observer} dB": value for observer, value in reached.items()}, "default": chosen,
        "default − best": reached[chosen] - reached[best], "low": low, "high": high, "bar": -0.3,
    }  # fmt: skip


def worst_decibels(powers: np.ndarray) -> np.ndarray:
    """SQNR of the worst output: powers ``[..., outputs, 2]`` of what it should be and of its error."""
    signal, noise = powers[..., 0], np.maximum(powers[..., 1], np.finfo(np.float64).tiny)
    return np.asarray((10 * np.log10(signal / noise)).min(axis=-1))


PARTS: dict[str, tuple[Callable[[str, argparse.Namespace, Path], Iterator[Row]], tuple[str, ...]]] = {
    "time": (timing, ("ppocr4-rec", "yolov8n")),
    "memory": (memory, ("ppocr4-rec", "yolov8n")),
    "merge": (merging, ("ppocr4-rec",)),
    "resume": (resuming, ("ppocr4-rec",)),
    "ranges": (references, ("ppocr4-rec", "yolov8n", "minilm-l3")),
    "entropy": (entropies, ("ppocr4-rec", "yolov8n")),
    "fidelity": (fidelity, NAMES),
}


def shown(rows: list[Row]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", metavar="NAME,…", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--models", metavar="NAME,…", help="default: a choice for each part")
    parser.add_argument("--samples", metavar="N,…", default="128,1280", help="memory: each (default %(default)s); "
                        "else the first")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=200, help="time: interleaved pairs (default %(default)s)")
    parser.add_argument("--tries", type=int, default=20, help="resume: how often (default %(default)s)")
    parser.add_argument("--reference-bins", type=int, default=8192, help="ranges (default %(default)s)")
    parser.add_argument("--reference-samples", type=int, default=4, help="ranges: all in memory (default %(default)s)")
    parser.add_argument("--evaluation", type=int, default=256, help="fidelity: samples (default %(default)s)")
    parser.add_argument("--without-peers", action="store_true", help="memory: leave out ONNX Runtime's calibrators")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="memory: for one process")
    parser.add_argument("--memory-limit", type=float, default=24, metavar="GB", help="memory: for one process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = parser.parse_args()
    options.samples = [int(count) for count in options.samples.split(",")]
    wanted = options.parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"{unknown[0]} is unknown; there are {', '.join(PARTS)}")
    console = Console(width=None if sys.stdout.isatty() else 180)
    result: dict[str, list[Row]] = {}
    for part in wanted:
        measure, models = PARTS[part]
        rows = result[part] = []
        for name in options.models.split(",") if options.models else models:
            with tempfile.TemporaryDirectory() as folder:
                for row in measure(name, options, Path(folder)):
                    rows.append(row)
                    if options.json:  # after each row: an interrupted run is not lost
                        options.json.write_text(json.dumps(result, indent=1, default=float), "utf-8")
        console.print(f"\n{part}", style="bold")
        console.print(shown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
