"""A report with everything in it, and one whose every text is an attack."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

from qcompiler.report import (
    DepthRecord,
    FrontRecord,
    HistogramRecord,
    MemoryRecord,
    NodeRecord,
    OutputRecord,
    PassRecord,
    Report,
    SpeedRecord,
    StageRecord,
)

SCRIPT = "<script>alert(1)</script>"


def full() -> Report:
    nodes = [NodeRecord(f"conv{i}", "Conv", "int8", "QLinearConv", "") for i in range(12)]
    nodes += [NodeRecord("softmax", "Softmax", "float", "Softmax", "its input is no product")]
    counts = [0, 1, 5, 40, 900, 3000, 700, 60, 3, 1]
    return Report(
        model="net.onnx", target="ort-cpu", cpu="vnni", precision="int8", runtime="onnxruntime 1.0",
        source_bytes=4_000_000, compiled_bytes=1_040_000,
        speed=SpeedRecord(10.0, 4.0, 2.5, 2.4, 2.6, 1, 100),
        memory=MemoryRecord(60_000_000, 24_000_000),
        outputs=[OutputRecord("scores", 31.25, 0.9991, 0.975, 0.2), OutputRecord("same", math.inf, 1.0, None, 0.0)],
        samples="16 given samples", nodes=nodes, operators={"QLinearConv": 12, "Softmax": 1},
        stages=[StageRecord("load", 0.5, 80.0), StageRecord("calibrate", 3.25, 190.0)],
        passes=[PassRecord("place", 0.1, 3), PassRecord("place", 0.2, 4)],
        front=[FrontRecord(2.5, 31.0, 31.25, 1), FrontRecord(1.5, 40.5, 40.0, 7), FrontRecord(2.0, 36.0, None, 4)],
        depth=[DepthRecord(f"t{i}", f"conv{i}", "Conv", i / 12, 45.0 - i) for i in range(12)],
        histograms=[HistogramRecord("t3", "conv3", -5.0, 5.0, counts, -2.5, 3.5, 0.0125, 24.5)],
        decisions=["returned to float: softmax: measured slower"], warnings=["look here"],
        diagnostics=["place: softmax: a remark"],
    )  # fmt: skip


def hostile(attack: str = SCRIPT) -> Report:
    """The report with the attack in place of every text."""
    report = _with(attack, full())
    assert isinstance(report, Report)
    return report


def _with(attack: str, value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _with(attack, getattr(value, one.name)) for one in fields(value)})
    if isinstance(value, list):
        return [_with(attack, item) for item in value]
    if isinstance(value, dict):
        return dict.fromkeys([attack], next(iter(value.values())))
    return attack if isinstance(value, str) else value
