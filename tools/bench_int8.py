"""Measures MatMulInt8 against ONNX Runtime's own DynamicQuantizeMatMul on the same weights.

    python tools/bench_int8.py                                     the table, with one and with two threads
    python tools/bench_int8.py --isa avx2 --threads 1 --json result.json
    python tools/bench_int8.py --paired                            weights of which two neighbours share 8 bits

Rounds and ratios are as in bench_int4.py. One thread is timed by its own processor time, to which other work on
the machine adds little, several by the clock.

ours       DynamicQuantizeMatMul's time over MatMulInt8's
at best    the same from each one's fastest round
of float   float MatMul's time over MatMulInt8's
dB         of the products against float64 on the same 8-bit weights, and DynamicQuantizeMatMul's own
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_int4 import FEWEST_ROUNDS, PAUSE, SHORTEST, Product, measure_in_child, write_results
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from qcompiler import native, numerics

ROWS = (1, 8, 32, 128, 512)
MATRICES = ((384, 384), (384, 1536), (1536, 384), (2048, 2048), (4096, 4096))


@dataclass(frozen=True)
class Case:
    rows: int
    depth: int
    columns: int


def ours(case: Case, constants: dict[str, np.ndarray], threads: int) -> Product:
    node = helper.make_node("MatMulInt8", ["A", "B", "scales"], ["Y"], domain=native.DOMAIN)
    return Product(case, [node], constants, threads)


def theirs(case: Case, constants: dict[str, np.ndarray], threads: int) -> Product:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["A"], ["quantized", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantized", "B", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "scales"], ["both"]),
        helper.make_node("Mul", ["floats", "both"], ["Y"]),
    ]
    return Product(case, nodes, constants, threads)


def in_float(case: Case, constants: dict[str, np.ndarray], threads: int) -> Product:
    weights = {"B": (constants["B"] * constants["scales"]).astype(np.float32)}
    return Product(case, [helper.make_node("MatMul", ["A", "B"], ["Y"])], weights, threads)


def seconds(call: Callable[[], Any], repeats: int, threads: int) -> float:
    clock = time.thread_time if threads == 1 else time.perf_counter
    time.sleep(PAUSE)
    call()
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def measure(case: Case, threads: int, budget: float, most: int) -> dict[str, Any]:
    """One row of the table: medians over as many rounds as fit in ``budget`` seconds."""
    random = np.random.default_rng(case.depth * case.columns)
    constants = {
        "B": random.integers(-most, most + 1, (case.depth, case.columns)).astype(np.int8),
        "scales": random.uniform(0.001, 0.01, case.columns).astype(np.float32),
    }
    a = random.normal(size=(case.rows, case.depth)).astype(np.float32)
    products = {"ours": ours, "dynamic": theirs, "float": in_float}
    made = {name: make(case, constants, threads) for name, make in products.items()}
    candidates = {name: product.bound(a) for name, product in made.items()}
    repeats = {name: max(1, round(SHORTEST / seconds(call, 1, threads))) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times["ours"]) < FEWEST_ROUNDS:
        for name, call in candidates.items():
            times[name].append(seconds(call, repeats[name], threads))
    exact = a.astype(np.float64) @ (constants["B"] * constants["scales"].astype(np.float64))
    operations = 2 * case.rows * case.depth * case.columns
    return {
        **asdict(case),
        "threads": threads,
        "rounds": len(times["ours"]),
        "gops": {name: operations / float(np.median(values)) / 1e9 for name, values in times.items()},
        "gops_at_best": {name: operations / min(values) / 1e9 for name, values in times.items()},
        "speedup": float(np.median(np.array(times["dynamic"]) / np.array(times["ours"]))),
        "speedup_at_best": min(times["dynamic"]) / min(times["ours"]),
        "over_float": float(np.median(np.array(times["float"]) / np.array(times["ours"]))),
        "decibels": {name: numerics.sqnr(exact, made[name](a)) for name in ("ours", "dynamic")},
    }


def child(threads: int, budget: float, most: int) -> None:
    rows = [measure(Case(rows, *matrix), threads, budget, most) for matrix in MATRICES for rows in ROWS]
    ran = [name for name, runs in native.int8_runs().items() if runs > 0]
    json.dump({"ran": ran, "threads": threads, "rows": rows}, sys.stdout)


def print_table(console: Console, result: dict[str, Any]) -> None:
    threads = result["threads"]
    table = Table(title=f"{', '.join(result['ran'])}, {threads} thread{'s' if threads > 1 else ''}")
    for heading in ("rows", "weights", "GOPS", "dynamic's", "ours", "at best", "of float", "dB", "dynamic's"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        gops, decibels = row["gops"], row["decibels"]
        table.add_row(
            str(row["rows"]), f"{row['depth']}×{row['columns']}", f"{gops['ours']:.0f}", f"{gops['dynamic']:.0f}",
            f"{row['speedup']:.2f}", f"{row['speedup_at_best']:.2f}", f"{row['over_float']:.2f}",
            f"{decibels['ours']:.1f}", f"{decibels['dynamic']:.1f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", default=["auto"], choices=["auto", *native.ISAS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1, help="for each row of the table")
    parser.add_argument("--paired", action="store_true", help="weights that 16 bits have room for, in pairs")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.threads[0], arguments.seconds, 64 if arguments.paired else 127)
        return
    results = []
    for isa in arguments.isa:
        for threads in arguments.threads:
            options = ["--threads", threads, "--seconds", arguments.seconds]
            options += ["--paired"] if arguments.paired else []
            results.append({"isa": isa, **measure_in_child(__file__, isa, *options)})
            print_table(Console(), results[-1])
    if arguments.json:
        write_results(arguments.json, results)


if __name__ == "__main__":
    main()
