"""Measures TableLookup against a plain copy of as many bytes, and TableLookup2 against ONNX Runtime's QLinearMul.

    python tools/bench_tables.py                                        both tables, on one thread
    python tools/bench_tables.py --isa avx2 scalar --json result.json

All are nodes of ONNX Runtime sessions; a copy is a cast of bytes to the type that they have. The same tensor goes into
several such nodes, one after the other, whose outputs nobody keeps, so that what a session costs by itself hardly
counts, and what a node costs does, as in a model. A copy reads and writes as many bytes together as the lookup does:
for floats, five a code.

Times are those that the thread has the processor for. Every figure is a median over rounds. In a round the candidates
run one after the other, in one process, so what else the machine does meets all of them; ratios are taken within a
round.

GB/s       bytes read and written by the lookup
of copy    the copy's time over the lookup's, with what it must reach
of theirs  QLinearMul's time over TableLookup2's, where one code a channel is multiplied with the channel
at best    the same from each candidate's fastest round
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_int4 import measure_in_child
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from qcompiler import native

BAR = 0.8  # of a plain copy's speed
BAR_OF_PRODUCTS = 1.5  # of QLinearMul's
SHORTEST = 0.0005  # seconds that one timing takes at least, by repetition
FEWEST_ROUNDS = 5
NODES = 8


@dataclass(frozen=True)
class Lookup:
    """A tensor of codes and the tables it is looked up in."""

    layout: str
    shape: tuple[int, ...]
    axis: int | None = None  # one table for each channel along it, or one for all
    floats: bool = False

    @property
    def codes(self) -> int:
        return int(np.prod(self.shape))

    @property
    def bytes(self) -> int:
        """Read and written."""
        return self.codes * (5 if self.floats else 2)

    def tables(self) -> np.ndarray:
        shape = (256,) if self.axis is None else (self.shape[self.axis], 256)
        codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return codes.astype(np.float32) if self.floats else codes


LOOKUPS = tuple(
    case
    for floats in (False, True)
    for side in (16, 64, 128, 256, 1024)
    for case in (
        Lookup("one table", (1, 64, side, side), None, floats),
        Lookup("by channel", (1, 64, side, side), 1, floats),
        Lookup("channel last", (1, side, side, 64), -1, floats),
    )
    if side < 1024 or not floats
)

PRODUCTS = tuple(  # X and S
    case
    for channels, height, width in ((64, 4, 16), (128, 10, 40), (64, 40, 40), (32, 80, 80), (24, 80, 80), (480, 6, 80))
    for case in (
        ((1, channels, height, width), (1, channels, 1, 1)),
        ((1, height, width, channels), (1, 1, 1, channels)),
    )
)


def repeated(
    operator: str, inputs: list[str], given: dict[str, np.ndarray], constants: dict[str, np.ndarray], **attributes: Any
) -> Callable[[], Any]:
    """A run of a session of several nodes with the same inputs, each of which makes what only a Shape looks at."""
    outputs = [f"Y{i}" for i in range(NODES)]
    nodes = [helper.make_node(operator, inputs, [output], **attributes) for output in outputs]
    shapes = [helper.make_node("Shape", [output], [f"{output}_s"]) for output in outputs]
    graph = helper.make_graph(
        [node for pair in zip(nodes, shapes) for node in pair],
        "repeated",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, x.shape) for name, x in given.items()],
        [helper.make_tensor_value_info(f"{output}_s", TensorProto.INT64, None) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(*opset) for opset in (("", 17), ("com.microsoft", 1), (native.DOMAIN, 1))]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or the copies would be left out
    native.register_custom_ops(options)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, x in given.items():  # in memory of ONNX Runtime's, aligned as what its nodes make
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(x))
    for output in outputs:
        shape = ort.OrtValue.ortvalue_from_numpy(np.zeros(given["X"].ndim, np.int64))
        binding.bind_ortvalue_output(f"{output}_s", shape)
    return partial(session.run_with_iobinding, binding)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def lookups(case: Lookup) -> Callable[[], Any]:
    axis = {} if case.axis is None else {"axis": case.axis}
    x = codes(*case.shape)
    return repeated("TableLookup", ["X", "table"], {"X": x}, {"table": case.tables()}, domain=native.DOMAIN, **axis)


def copies(case: Lookup) -> Callable[[], Any]:
    return repeated("Cast", ["X"], {"X": codes(case.bytes // 2)}, {}, to=TensorProto.UINT8)


def products(operator: str, x: tuple[int, ...], s: tuple[int, ...]) -> Callable[[], Any]:
    """X times S, of these shapes, neither of them constant."""
    parameters = {
        "x_scale": np.array(0.02, np.float32), "x_zero_point": np.array(100, np.uint8),
        "s_scale": np.array(1 / 256, np.float32), "s_zero_point": np.array(0, np.uint8),
        "y_scale": np.array(0.015, np.float32), "y_zero_point": np.array(90, np.uint8),
    }
    names = list(parameters)
    ours = operator == "TableLookup2"
    inputs = ["X", "S", *names] if ours else ["X", *names[:2], "S", *names[2:]]
    given = {"X": codes(*x), "S": codes(*s)}
    return repeated(operator, inputs, given, parameters, domain=native.DOMAIN if ours else "com.microsoft")


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of one node."""
    call()
    start = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - start) / repeats / NODES


def measure(ours: Callable[[], Any], theirs: Callable[[], Any], budget: float) -> dict[str, Any]:
    """One row of a table: medians over as many rounds as fit in ``budget`` seconds."""
    candidates = {"ours": ours, "theirs": theirs}
    repeats = {name: max(1, round(SHORTEST / NODES / seconds(call, 1))) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times["ours"]) < FEWEST_ROUNDS:
        for name, call in candidates.items():
            times[name].append(seconds(call, repeats[name]))
    return {
        "rounds": len(times["ours"]),
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "ratio": float(np.median(np.array(times["theirs"]) / np.array(times["ours"]))),
        "at_best": min(times["theirs"]) / min(times["ours"]),
    }


def processor() -> str:
    """Its name, as Linux has it."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def judged(row: dict[str, Any], bar: float) -> str:
    return f"[{'green' if row['ratio'] >= bar else 'red'}]{row['ratio']:.2f}[/] (≥ {bar:.2f})"


def print_tables(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"TableLookup, {result['isa']}")
    for heading in ("tables", "Y", "KiB", "µs", "GB/s", "of copy", "at best"):
        table.add_column(heading, justify="right")
    for row in result["lookups"]:
        ours = row["seconds"]["ours"]
        table.add_row(
            row["layout"], "float32" if row["floats"] else "8 bits", f"{row['bytes'] / 1024:.0f}", f"{ours * 1e6:.1f}",
            f"{row['bytes'] / ours / 1e9:.1f}", judged(row, BAR), f"{row['at_best']:.2f}",
        )
    console.print(table)
    table = Table(title=f"TableLookup2, {result['isa']}")
    for heading in ("X", "S", "µs", "QLinearMul's", "of theirs", "at best"):
        table.add_column(heading, justify="right")
    for row in result["products"]:
        table.add_row(
            *["×".join(map(str, shape)) for shape in row["shapes"]],
            *[f"{seconds * 1e6:.1f}" for seconds in row["seconds"].values()],
            judged(row, BAR_OF_PRODUCTS), f"{row['at_best']:.2f}",
        )
    console.print(table)


def run(
    document: str | None, script: str, measured: Callable[[float], dict[str, Any]],
    print_result: Callable[[Console, dict[str, Any]], None],
) -> None:
    """The command of a bench of operators: ``measured``, given the seconds for each row, runs in a process of its own
    for each instruction set; what it returns is printed, and written down where that is asked for."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", default=["auto"], choices=["auto", *native.ISAS])
    parser.add_argument("--seconds", type=float, default=1, help="for each row of the table")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        json.dump({"isa": native.isa(), **measured(arguments.seconds)}, sys.stdout)
        return
    console = Console()
    console.print(f"{processor()}, ONNX Runtime {ort.__version__}, one thread")
    results = []
    for isa in arguments.isa:
        results.append(measure_in_child(script, isa, "--seconds", arguments.seconds))
        print_result(console, results[-1])
    if arguments.json:
        machine = {"processor": processor(), "onnxruntime": ort.__version__}
        arguments.json.write_text(json.dumps({**machine, "results": results}, indent=1))


def measured(budget: float) -> dict[str, Any]:
    return {
        "lookups": [
            {**asdict(case), "bytes": case.bytes, **measure(lookups(case), copies(case), budget)} for case in LOOKUPS
        ],
        "products": [
            {"shapes": both, **measure(products("TableLookup2", *both), products("QLinearMul", *both), budget)}
            for both in PRODUCTS
        ],
    }


if __name__ == "__main__":
    run(__doc__, __file__, measured, print_tables)
