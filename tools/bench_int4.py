"""Measures MatMulInt4 against ONNX Runtime's own MatMulNBits, accuracy level 4, on the same weights.

    python tools/bench_int4.py                                     the table, with one and with two threads
    python tools/bench_int4.py --isa avx2 --threads 1 --json result.json

Every figure is a median over rounds. In a round the candidates run one after the other, in one process, so what else
the machine does meets all of them; ratios are taken within a round. With one thread, time is that for which the thread
had a processor: waiting for one does not count. Each of several threads is bound to a processor of its own. Between
candidates is a pause in which the threads of the one before fall asleep, and an untimed call that wakes the next one's.

ours       MatMulNBits' time over MatMulInt4's, with what it must reach
of int8    the speed of MatMulInt4 over that of ONNX Runtime's dynamic INT8 (DynamicQuantizeLinear, MatMulInteger)
of read    the rate at which MatMulInt4 reads its packed weights over that of a plain read of as many bytes
at best    the same three from each candidate's fastest round: what remains of them on a machine that others use too
error      |y - exact| / |exact| against float64 on the same 4-bit weights, and MatMulNBits' own
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

PAUSE = 0.05  # seconds; threads look for work for more than ten milliseconds before they fall asleep
SHORTEST = 0.004  # seconds that one timing takes at least, by repetition
FEWEST_ROUNDS = 5
ROWS_JUDGED = 256  # the error is taken of so many at least, one row's is chance
COLUMNS_JUDGED = 256
PROCESSORS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class Case:
    """A product and what its speed must reach."""

    rows: int
    depth: int
    columns: int
    block: int
    bar: float  # MatMulNBits' time over ours
    of_int8: float | None = None
    of_read: float | None = None


CASES = (
    Case(1, 4096, 32768, 32, 1.25, of_read=0.85),
    Case(1, 2048, 2048, 32, 1.0),
    Case(8, 4096, 4096, 32, 2.0),
    Case(16, 4096, 4096, 32, 2.4),
    Case(32, 4096, 4096, 32, 2.4),
    Case(128, 4096, 4096, 32, 2.6, of_int8=0.85),
    Case(512, 4096, 4096, 32, 2.6, of_int8=0.85),
)


@dataclass(frozen=True)
class Weights:
    """4-bit weights in the layout that both operators take."""

    packed: np.ndarray  # uint8 [N, K / block, block / 2]
    scales: np.ndarray  # float32 [N, K / block]

    @staticmethod
    def random(case: Case) -> Weights:
        rng = np.random.default_rng(case.depth * case.columns)
        blocks = case.depth // case.block
        packed = rng.integers(0, 256, (case.columns, blocks, case.block // 2), dtype=np.uint8)
        return Weights(packed, rng.uniform(0.001, 0.01, (case.columns, blocks)).astype(np.float32))

    def values(self, columns: int) -> np.ndarray:
        """The first columns as float64 [K, columns]."""
        packed = self.packed[:columns]
        four_bits = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
        return ((four_bits - 8.0) * self.scales[:columns, :, None]).reshape(len(packed), -1).T

    @property
    def bytes_read(self) -> int:
        return self.packed.nbytes + self.scales.nbytes


class Product:
    """A session of one product, its input and output bound: what is timed copies nothing to Python."""

    def __init__(self, case: Case, nodes: list[NodeProto], constants: dict[str, np.ndarray], threads: int) -> None:
        graph = helper.make_graph(
            nodes,
            "product",
            [helper.make_tensor_value_info("A", TensorProto.FLOAT, ["rows", case.depth])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["rows", case.columns])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid(*opset) for opset in (("", 17), ("com.microsoft", 1), (native.DOMAIN, 1))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        if own := processors(threads):
            bind(own[0])
            others = ";".join(str(one + 1) for one in own[1:])  # ONNX Runtime counts from one
            options.add_session_config_entry("session.intra_op_thread_affinities", others)
        native.register_custom_ops(options)
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.columns = case.columns

    def __call__(self, a: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"A": a})[0]

    def bound(self, a: np.ndarray) -> Callable[[], Any]:
        binding = self.session.io_binding()
        binding.bind_cpu_input("A", a)
        y = ort.OrtValue.ortvalue_from_numpy(np.zeros((len(a), self.columns), np.float32))
        binding.bind_ortvalue_output("Y", y)
        return partial(self.session.run_with_iobinding, binding)


def four_bit_product(case: Case, operator: str, weights: Weights, threads: int) -> Product:
    ours = operator == "MatMulInt4"
    node = helper.make_node(
        operator, ["A", "B", "scales"], ["Y"], domain=native.DOMAIN if ours else "com.microsoft",
        K=case.depth, N=case.columns, block_size=case.block, **({} if ours else {"bits": 4, "accuracy_level": 4}),
    )
    return Product(case, [node], {"B": weights.packed, "scales": weights.scales}, threads)


def int8_product(case: Case, threads: int) -> Product:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["A"], ["quantized", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantized", "B", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "scales"], ["both"]),
        helper.make_node("Mul", ["floats", "both"], ["Y"]),
    ]
    constants = {
        "B": rng.integers(-127, 128, (case.depth, case.columns)).astype(np.int8),
        "scales": np.full(case.columns, 0.01, np.float32),
    }
    return Product(case, nodes, constants, threads)


def bind(processor: int) -> None:
    """Keeps this thread on it. Left to itself, the system may let two threads that have just woken take turns on one
    processor for some milliseconds, which is longer than most products take."""
    if hasattr(os, "sched_setaffinity"):  # as Linux has it
        os.sched_setaffinity(0, {processor})


def processors(threads: int) -> list[int]:
    """One for each of several threads; none for one thread, or where there are too few."""
    return list(PROCESSORS[:threads]) if 1 < threads <= len(PROCESSORS) else []


def plain_read(size: int, threads: int) -> Callable[[], Any]:
    """A call that reads this many bytes, a part a thread, and does next to nothing with them."""
    parts = np.array_split(np.ones(size // 4, np.float32), threads)  # the fastest of numpy's reductions
    if threads == 1:
        return parts[0].max
    own = processors(threads)
    pool = ThreadPoolExecutor(threads, initializer=lambda: bind(own.pop()) if own else None)
    return lambda: list(pool.map(np.max, parts))


def seconds(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    time.sleep(PAUSE)
    call()
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def measure(case: Case, threads: int, budget: float) -> dict[str, Any]:
    """One row of the table: medians over as many rounds as fit in ``budget`` seconds."""
    weights = Weights.random(case)
    a = np.random.default_rng(1).normal(size=(case.rows, case.depth)).astype(np.float32)
    ours = four_bit_product(case, "MatMulInt4", weights, threads)
    theirs = four_bit_product(case, "MatMulNBits", weights, threads)
    candidates = {"ours": ours.bound(a), "nbits": theirs.bound(a)}
    if case.of_int8 is not None:
        candidates["int8"] = int8_product(case, threads).bound(a)
    if case.of_read is not None:
        candidates["read"] = plain_read(weights.bytes_read, threads)

    clock = time.thread_time if threads == 1 else time.perf_counter
    repeats = {name: max(1, round(SHORTEST / seconds(call, 1, clock))) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times["ours"]) < FEWEST_ROUNDS:
        for name, call in candidates.items():
            times[name].append(seconds(call, repeats[name], clock))

    def ratio(name: str) -> float | None:
        return float(np.median(np.array(times[name]) / np.array(times["ours"]))) if name in times else None

    columns = min(case.columns, COLUMNS_JUDGED)
    a = np.random.default_rng(2).normal(size=(max(case.rows, ROWS_JUDGED), case.depth)).astype(np.float32)
    exact = a.astype(np.float64) @ weights.values(columns)
    errors = []
    for product in (ours, theirs):  # as many rows at a time as are timed: there is more than one way to multiply
        y = np.concatenate([product(a[first : first + case.rows]) for first in range(0, len(a), case.rows)])
        errors.append(float(np.linalg.norm(y[:, :columns] - exact) / np.linalg.norm(exact)))
    median = {name: float(np.median(values)) for name, values in times.items()}
    operations = 2 * case.rows * case.depth * case.columns
    return {
        **asdict(case),
        "threads": threads,
        "rounds": len(times["ours"]),
        "seconds": median,
        "gops": {name: operations / value / 1e9 for name, value in median.items() if name != "read"},
        "gigabytes_per_second": weights.bytes_read / median["ours"] / 1e9,
        "speedup": ratio("nbits"),
        "fraction_of_int8": ratio("int8"),
        "fraction_of_read": ratio("read"),
        "at_best": {name: min(times[name]) / min(times["ours"]) for name in times if name != "ours"},
        "error": errors[0],
        "error_of_nbits": errors[1],
    }


def measure_in_child(script: str, isa: str, *options: str | float) -> dict[str, Any]:
    """What the script measures as ``--child``. The instruction set is chosen when the library is registered: each has a
    process of its own."""
    child = subprocess.run(
        [sys.executable, script, "--child", *map(str, options)],
        env={**os.environ, "QCOMPILER_ISA": isa}, stdout=subprocess.PIPE, text=True, check=True,
    )
    return json.loads(child.stdout)


def child(threads: int, budget: float, block: int) -> None:
    cases = [Case(**{**asdict(case), "block": block}) for case in CASES]
    rows = [measure(case, threads, budget) for case in cases]
    ran = [name for name, runs in native.int4_runs().items() if runs > 0]
    json.dump({"isa": native.isa(), "ran": ran, "rows": rows}, sys.stdout)


def judged(value: float | None, bar: float | None) -> str:
    if value is None:
        return ""
    met = bar is None or value >= bar
    return f"[{'green' if met else 'red'}]{value:.2f}[/]" + ("" if bar is None else f" (≥ {bar:.2f})")


def print_table(console: Console, result: dict[str, Any], threads: int) -> None:
    table = Table(title=f"{', '.join(result['ran'])}, {threads} thread{'s' if threads > 1 else ''}")
    measured = ("GOPS", "NBits'", "ours", "of int8", "of read", "at best", "error", "NBits'")
    for heading in ("rows", "weights", "block", *measured):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        table.add_row(
            str(row["rows"]), f"{row['depth']}×{row['columns']}", str(row["block"]), f"{row['gops']['ours']:.0f}",
            f"{row['gops']['nbits']:.0f}", judged(row["speedup"], row["bar"]),
            judged(row["fraction_of_int8"], row["of_int8"]), judged(row["fraction_of_read"], row["of_read"]),
            " ".join(f"{value:.2f}" for value in row["at_best"].values()),
            f"{row['error']:.5f}", f"{row['error_of_nbits']:.5f}",
        )
    console.print(table)


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    machine = {"processor": platform.processor() or platform.machine(), "onnxruntime": ort.__version__}
    path.write_text(json.dumps({**machine, "results": results}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", default=["auto"], choices=["auto", *native.ISAS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4, help="for each row of the table")
    parser.add_argument("--block", type=int, default=32, help="the bars are for 32")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.threads[0], arguments.seconds, arguments.block)
        return
    console = Console()
    results = []
    for isa in arguments.isa:
        for threads in arguments.threads:
            options = ("--threads", threads, "--seconds", arguments.seconds, "--block", arguments.block)
            result = measure_in_child(__file__, isa, *options)
            results.append({"threads": threads, **result})
            print_table(console, result, threads)
    if arguments.json:
        write_results(arguments.json, results)


if __name__ == "__main__":
    main()
