"""What a compilation did, as plain data: rendered by ``text``, saved as JSON, read back by whoever gates on it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = "qcompiler-report/1"


@dataclass(frozen=True)
class OutputRecord:
    """Agreement of one output with the float model; see ``verify.numbers.OutputError``."""

    name: str
    sqnr: float
    cosine: float
    top1: float | None
    largest: float


@dataclass(frozen=True)
class NodeRecord:
    """One node's fate. ``precision``: ``int8``, ``float``; ``form``: the operator that runs; ``reason``: why so."""

    name: str
    op: str
    precision: str
    form: str
    reason: str


@dataclass(frozen=True)
class StageRecord:
    """``seconds`` of wall time; ``peak_mb``: the process's peak resident memory at its end, in 10⁶ bytes."""

    name: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class PassRecord:
    name: str
    seconds: float
    rewrites: int


@dataclass(frozen=True)
class SpeedRecord:
    """Milliseconds of one run, medians of interleaved runs; ``speedup``: median of pairwise ratios, with quartiles."""

    source_ms: float
    compiled_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    threads: int
    rounds: int


@dataclass
class Report:
    """``samples``: where the numbers come from (``calibration``, ``random`` …) and how many."""

    model: str = ""
    target: str = ""
    cpu: str = ""
    precision: str = ""
    runtime: str = ""
    source_bytes: int = 0
    compiled_bytes: int = 0
    speed: SpeedRecord | None = None
    outputs: list[OutputRecord] = field(default_factory=list)
    samples: str = ""
    nodes: list[NodeRecord] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    passes: list[PassRecord] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sqnr(self) -> float:
        """The worst output's, in dB."""
        return min((output.sqnr for output in self.outputs), default=math.inf)

    def to_dict(self) -> dict[str, Any]:
        return _finite({"format": FORMAT, **asdict(self)})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no infinity: written as a string that float() reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
