"""The report as text and as JSON."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict

from rich.console import Console

from qcompiler.report import NodeRecord, OutputRecord, PassRecord, Report, SpeedRecord, StageRecord
from qcompiler.report.text import decibels, megabytes, operators, render


def report() -> Report:
    nodes = [NodeRecord(f"conv{i}", "Conv", "int8", "QLinearConv", "") for i in range(30)]
    nodes += [NodeRecord(f"add{i}", "Add", "float", "Add", f"'x{i}' is dequantized before it") for i in range(400)]
    nodes += [NodeRecord(f"[bold]{i}", "Mul", "float", "Mul", f"{i}.5 us a run slower than in float") for i in range(9)]
    return Report(
        model="net", target="ort-cpu", cpu="vnni", precision="int8", runtime="onnxruntime 1.0",
        source_bytes=4_000_000, compiled_bytes=1_000_000,
        speed=SpeedRecord(10.0, 5.0, 2.0, 1.9, 2.1, 1, 100),
        outputs=[
            OutputRecord("scores", 31.25, 0.9991, 0.975, 0.2),
            OutputRecord("same", math.inf, 1.0, None, 0.0),
        ],
        samples="16 given samples", nodes=nodes,
        stages=[StageRecord("load", 0.5, 80.0), StageRecord("clean", 1.0, 90.0)],
        passes=[PassRecord("place", 0.1, 3), PassRecord("place", 0.2, 4)],
        decisions=["returned to float: a, b, c, d, e: measured slower"], warnings=["look here"],
        diagnostics=["place: relu: a remark"],
    )  # fmt: skip


def text(one: Report, *, verbose: bool = False, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(render(one, verbose=verbose))
    return stream.getvalue()


def test_everything_is_said_shortly() -> None:
    shown = text(report())
    for expected in (
        "net: int8 for ort-cpu (vnni), onnxruntime 1.0", "4.00 MB", "1.00 MB", "25 %", "10 ms", "5 ms",
        "2.00x the speed", "1.90 … 2.10", "1 thread,", "31.2 dB", "0.99910", "97.5 %", "equal", "16 given samples",
        "Nodes: 409 in float, 30 in int8", "Conv ×30", "Add ×400", "'…' is dequantized before it",
        "… us a run slower", "returned to float: a, b, c and 2 more: measured slower", "look here", "1.50 s", "90 MB",
    ):  # fmt: skip
        assert expected in shown, (expected, shown)
    assert shown.count("\n") < 50
    assert "a remark" not in shown and "conv7" not in shown


def test_verbose_names_everything() -> None:
    shown = text(report(), verbose=True)
    for expected in ("conv7", "'x7' is dequantized", "[bold]3", "a, b, c, d, e", "a remark", "QLinearConv"):
        assert expected in shown
    passes = next(line for line in shown.splitlines() if line.startswith("place"))
    assert passes.split() == ["place", "2", "7", "300.0", "ms"]


def test_nothing_is_made_up() -> None:
    shown = text(Report(model="net", precision="float", target="ort-cpu"))
    assert shown.strip() == "net: float for ort-cpu,"  # no runtime was named


def test_narrow_terminal() -> None:
    assert all(len(line) <= 60 for line in text(report(), width=60).splitlines())


def test_json_holds_it_all() -> None:
    one = report()
    data = json.loads(one.to_json())
    assert data["format"] == "qcompiler-report/1"
    assert float(data["outputs"][1]["sqnr"]) == math.inf
    assert data["outputs"][0] == asdict(one.outputs[0])
    assert len(data["nodes"]) == 439 and data["speed"]["speedup"] == 2.0
    assert one.sqnr == 31.25 and Report().sqnr == math.inf


def test_numbers() -> None:
    assert (decibels(12.34), decibels(math.inf), decibels(-math.inf)) == ("12.3 dB", "equal", "nothing alike")
    assert (megabytes(900), megabytes(2_500_000)) == ("900 B", "2.50 MB")
    assert operators(["Add", "Conv", "Conv"]) == "Conv ×2, Add"
