"""Compiles a language model of random weights that memory has no room for, and says what that took.

    python tools/bench_large.py --gigabytes 14 --folder /tmp
    python tools/bench_large.py --gigabytes 2.5 --limit 4 --samples 16      rounded on samples (gptq), in 4 GB at most

The model, of layers like Llama's, is written to the folder, compiled there in a process of its own, and deleted. Beside
it: what reading the weights once and writing the result once takes here. Own memory is what no file stands for;
``--limit`` is what the system lets the process have of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

VOCABULARY, LENGTH = 32000, 256
HIDDEN = 2.6875
"""Width of a hidden layer, in widths of the model."""
POLL = 0.02
"""Seconds between two looks at the memory."""
PIECE = 1 << 26
"""Bytes that are made, read or written at a time."""


class Writer:
    """Random weights into one data file; the same numbers again and again, which no compiler notices."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("wb")
        self.piece = np.random.default_rng(0).normal(0.0, 0.02, PIECE // 4).astype(np.float32)
        self.initializers: list[TensorProto] = []

    def add(self, name: str, *shape: int) -> str:
        size, offset = 4 * int(np.prod(shape)), self.file.tell()
        for start in range(0, size, PIECE):
            self.file.write(self.piece[: min(PIECE, size - start) // 4].data)
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.path.name), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name


def write(path: Path, size: float, width: int = 4096, vocabulary: int = VOCABULARY) -> int:
    """A model of about so many bytes of weights at the path; returns how many there are."""
    writer = Writer(path.with_name(path.name + ".data"))
    nodes = [helper.make_node("Gather", [writer.add("embedding", vocabulary, width), "ids"], ["x0"], "embed")]
    layer = 0
    while writer.file.tell() + 4 * width * vocabulary < size or layer == 0:
        nodes += block(writer, layer, width, int(HIDDEN * width))
        layer += 1
    nodes.append(helper.make_node("MatMul", [f"x{layer}", writer.add("head", width, vocabulary)], ["logits"], "head_"))
    written = writer.file.tell()
    writer.file.close()
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocabulary])],
        writer.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return written


def block(writer: Writer, layer: int, width: int, hidden: int) -> list[onnx.NodeProto]:
    """A layer without its attention, which has no weights: four square products and a gated hidden layer."""
    made: list[onnx.NodeProto] = []

    def node(op: str, *inputs: str) -> str:
        result = f"l{layer}_{len(made)}"
        made.append(helper.make_node(op, list(inputs), [result], f"{result}_{op}"))
        return result

    def product(x: str, name: str, rows: int, columns: int) -> str:
        return node("MatMul", x, writer.add(f"layer{layer}.{name}", rows, columns))

    x = f"x{layer}"
    values = node("Mul", product(x, "query", width, width), product(x, "key", width, width))
    values = node("Add", values, product(x, "value", width, width))
    x = node("Add", x, product(values, "output", width, width))
    gated = node("Mul", node("Sigmoid", product(x, "gate", width, hidden)), product(x, "up", width, hidden))
    made.append(helper.make_node("Add", [x, product(gated, "down", hidden, width)], [f"x{layer + 1}"], f"l{layer}_x"))
    return made


def moved(source: Path, size: int, folder: Path) -> float:
    """Seconds that reading the file and writing so many bytes take, to the disk."""
    start = time.perf_counter()
    with source.open("rb", buffering=0) as file:
        buffer = bytearray(PIECE)
        while file.readinto(buffer):
            pass
    with tempfile.TemporaryFile(dir=folder) as file:
        for first in range(0, size, PIECE):
            file.write(buffer[: min(PIECE, size - first)])
    return time.perf_counter() - start


def compiled(model: Path, output: Path, options: list[str], limit: float = 0.0) -> tuple[float, int, dict]:
    """Seconds, the largest memory that no file stands for, and the report. ``limit``: bytes of it that the system
    allows, 0 for all."""
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "qcompiler", "compile", str(model), "-o", str(output), "--precision", "int4"]
    seconds, memory = watched([*command, "--report", str(report), "--quiet", *options], limit)
    return seconds, memory, json.loads(report.read_text())


def watched(command: list[str], limit: float = 0.0) -> tuple[float, int]:
    """Seconds that it takes, and the largest memory that no file stands for."""

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))

    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command, preexec_fn=limited)
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(POLL)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, most


def anonymous(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=14.0)
    parser.add_argument("--folder", type=Path, help="with room for the model and the result")
    parser.add_argument("--width", type=int, default=4096, help="of the model (default %(default)s)")
    parser.add_argument("--limit", type=float, default=0.0, help="gigabytes of own memory that the system allows")
    parser.add_argument("--samples", type=int, default=0, help=f"random texts of {LENGTH} words to round weights for")
    parser.add_argument("options", nargs="*", default=[], help="of qcompiler compile, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qcompiler-large-", dir=arguments.folder) as name:
        folder = Path(name)
        size = write(folder / "model.onnx", arguments.gigabytes * 1e9, arguments.width)
        options = arguments.options or ["--rounding", "gptq" if arguments.samples else "rtn"]
        if arguments.samples:
            ids = np.random.default_rng(1).integers(0, VOCABULARY, (arguments.samples, 1, LENGTH))
            np.savez(folder / "texts.npz", ids=ids)
            options += ["--data", str(folder / "texts.npz")]
        limit = arguments.limit * 1e9
        seconds, memory, report = compiled(folder / "model.onnx", folder / "compiled.onnx", options, limit)
        written = sum(path.stat().st_size for path in folder.glob("compiled.onnx*"))
        plain = moved(folder / "model.onnx.data", written, folder)
    forms = {node["form"] for node in report["nodes"] if node["precision"] == "int4"}
    print(f"{size / 1e9:.1f} GB of weights to {written / 1e9:.2f} GB, {', '.join(sorted(forms))}")
    print(f"own memory {memory / 1e9:.2f} GB")
    print(f"{seconds:.0f} s; reading and writing alone {plain:.0f} s: {seconds / plain:.2f} times")
    print("; ".join(report["warnings"]))


if __name__ == "__main__":
    main()
