"""Measures TableLookup against a plain copy of as many bytes, one thread.

    python tools/bench_tables.py                                        every layout, in and beyond the caches
    python tools/bench_tables.py --isa avx2 scalar --json result.json

Both are nodes of ONNX Runtime sessions: lookups, and casts of bytes to the type that they have, which copy. The same
tensor goes into several such nodes, one after the other, whose outputs nobody keeps, so that what a session costs by
itself hardly counts, and what a node costs does, as in a model. A copy reads and writes as many bytes together as the
lookup does: for floats, five a code.

Every figure is a median over rounds. In a round the candidates run one after the other, in one process, so what else
the machine does meets all of them; ratios are taken within a round.

GB/s       bytes read and written by the lookup
of copy    the copy's time over the lookup's, with what it must reach
at best    the same from each candidate's fastest round
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from qcompiler import native

BAR = 0.8  # of a plain copy's speed
SHORTEST = 0.002  # seconds that one timing takes at least, by repetition
FEWEST_ROUNDS = 5
NODES = 16


@dataclass(frozen=True)
class Case:
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


CASES = tuple(
    case
    for floats in (False, True)
    for side in (16, 64, 128, 256, 1024)
    for case in (
        Case("one table", (1, 64, side, side), None, floats),
        Case("by channel", (1, 64, side, side), 1, floats),
        Case("channel last", (1, side, side, 64), -1, floats),
    )
    if side < 1024 or not floats
)


def repeated(nodes: list[NodeProto], x: np.ndarray, constants: dict[str, np.ndarray]) -> Callable[[], Any]:
    """A run of a session in which each node takes X and makes what only a Shape looks at."""
    outputs = [node.output[0] for node in nodes]
    shapes = [helper.make_node("Shape", [output], [f"{output}_s"]) for output in outputs]
    graph = helper.make_graph(
        [node for pair in zip(nodes, shapes) for node in pair],
        "repeated",
        [helper.make_tensor_value_info("X", helper.np_dtype_to_tensor_dtype(x.dtype), None)],
        [helper.make_tensor_value_info(f"{output}_s", TensorProto.INT64, None) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or the copies would be left out
    native.register_custom_ops(options)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("X", x)
    for output in outputs:
        shape = ort.OrtValue.ortvalue_from_numpy(np.zeros(x.ndim, np.int64))
        binding.bind_ortvalue_output(f"{output}_s", shape)
    return partial(session.run_with_iobinding, binding)


def lookups(case: Case) -> Callable[[], Any]:
    x = np.random.default_rng(1).integers(0, 256, case.shape, dtype=np.uint8)
    attributes = {} if case.axis is None else {"axis": case.axis}
    nodes = [
        helper.make_node("TableLookup", ["X", "table"], [f"Y{i}"], domain=native.DOMAIN, **attributes)
        for i in range(NODES)
    ]
    return repeated(nodes, x, {"table": case.tables()})


def copies(case: Case) -> Callable[[], Any]:
    x = np.random.default_rng(1).integers(0, 256, case.bytes // 2, dtype=np.uint8)
    return repeated([helper.make_node("Cast", ["X"], [f"Y{i}"], to=TensorProto.UINT8) for i in range(NODES)], x, {})


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of one node."""
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats / NODES


def measure(case: Case, budget: float) -> dict[str, Any]:
    """One row of the table: medians over as many rounds as fit in ``budget`` seconds."""
    candidates = {"ours": lookups(case), "copy": copies(case)}
    repeats = {name: max(1, round(SHORTEST / NODES / seconds(call, 1))) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times["ours"]) < FEWEST_ROUNDS:
        for name, call in candidates.items():
            times[name].append(seconds(call, repeats[name]))
    return {
        **asdict(case),
        "bytes": case.bytes,
        "rounds": len(times["ours"]),
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "of_copy": float(np.median(np.array(times["copy"]) / np.array(times["ours"]))),
        "at_best": min(times["copy"]) / min(times["ours"]),
    }


def measure_in_child(isa: str, budget: float) -> dict[str, Any]:
    """The instruction set is chosen when the library is registered: a process for each."""
    child = subprocess.run(
        [sys.executable, __file__, "--child", "--seconds", str(budget)],
        env={**os.environ, "QCOMPILER_ISA": isa}, stdout=subprocess.PIPE, text=True, check=True,
    )
    return json.loads(child.stdout)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return " ".join(" ".join(fields.values()).split())


def print_table(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=result["isa"])
    for heading in ("tables", "Y", "KiB", "µs", "GB/s", "of copy", "at best"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        met = row["of_copy"] >= BAR
        table.add_row(
            row["layout"], "float32" if row["floats"] else "8 bits", f"{row['bytes'] / 1024:.0f}",
            f"{row['seconds']['ours'] * 1e6:.1f}", f"{row['bytes'] / row['seconds']['ours'] / 1e9:.1f}",
            f"[{'green' if met else 'red'}]{row['of_copy']:.2f}[/] (≥ {BAR:.2f})", f"{row['at_best']:.2f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", default=["auto"], choices=["auto", *native.ISAS])
    parser.add_argument("--seconds", type=float, default=1, help="for each row of the table")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        rows = [measure(case, arguments.seconds) for case in CASES]
        json.dump({"isa": native.isa(), "rows": rows}, sys.stdout)
        return
    console = Console()
    results = []
    for isa in arguments.isa:
        results.append(measure_in_child(isa, arguments.seconds))
        print_table(console, results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"onnxruntime": ort.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
