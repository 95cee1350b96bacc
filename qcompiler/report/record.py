"""What a compilation did, as plain data: rendered by ``text``, saved as JSON, read back by whoever gates on it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = "qcompiler-report/1"


@dataclass(frozen=True)
class OutputRecord:
    """Agreement of one output with the float model; see ``verify.numbers.OutputError``. ``selected_from``: of an output
    that is selected by computed numbers, decibels of the least faithful tensor among which; None of others."""

    name: str
    sqnr: float
    cosine: float
    top1: float | None
    largest: float
    selected_from: float | None = None

    @property
    def judged(self) -> float:
        """The decibels that say what became of it."""
        return self.sqnr if self.selected_from is None else self.selected_from


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


@dataclass(frozen=True)
class FrontRecord:
    """One point of the Pareto front: a choice of what stays in float that no other one beats in both speed and
    fidelity. ``speedup``: against the source; ``sqnr_predicted`` and ``sqnr_measured``: the worst output's, in dB, the
    latter None where it was not built; ``kept``: how many of the nodes that could be quantized stay in float."""

    speedup: float
    sqnr_predicted: float
    sqnr_measured: float | None
    kept: int


@dataclass(frozen=True)
class DepthRecord:
    """How far an inner tensor is from the float model's. ``node`` and ``op``: what makes it; ``position``: how far into
    the model that is, from 0 at the first node to 1 at the last; ``sqnr``: in dB."""

    tensor: str
    node: str
    op: str
    position: float
    sqnr: float


@dataclass(frozen=True)
class HistogramRecord:
    """Values of a quantized tensor and the range that its codes cover. ``counts``: how many values fell into each of
    equal bins between ``low`` and ``high``; ``clip_low`` and ``clip_high``: the ends of the codes; ``clipped``: the
    share of all values beyond them; ``sqnr``: in dB, of the tensor itself, its rounding and clipping alone."""

    tensor: str
    node: str
    low: float
    high: float
    counts: list[int]
    clip_low: float
    clip_high: float
    clipped: float
    sqnr: float


@dataclass(frozen=True)
class MemoryRecord:
    """Bytes that loading each model and running it takes at its peak, in a process of its own."""

    source_bytes: int
    compiled_bytes: int


@dataclass
class Report:
    """``samples``: where the numbers come from (``calibration``, ``random`` …) and how many. ``memory``, ``depth`` and
    ``histograms``, the worst tensors first, are there where details were asked for; ``front`` where one was
    searched, by rising speed."""

    model: str = ""
    target: str = ""
    cpu: str = ""
    precision: str = ""
    runtime: str = ""
    source_bytes: int = 0
    compiled_bytes: int = 0
    speed: SpeedRecord | None = None
    memory: MemoryRecord | None = None
    outputs: list[OutputRecord] = field(default_factory=list)
    samples: str = ""
    nodes: list[NodeRecord] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    passes: list[PassRecord] = field(default_factory=list)
    front: list[FrontRecord] = field(default_factory=list)
    depth: list[DepthRecord] = field(default_factory=list)
    histograms: list[HistogramRecord] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sqnr(self) -> float:
        """The worst output's, in dB."""
        return min((output.judged for output in self.outputs), default=math.inf)

    def to_dict(self) -> dict[str, Any]:
        return finite({"format": FORMAT, **asdict(self)})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_html(self, price_per_hour: float | None = None) -> str:
        """One page that needs no other file; see ``page``."""
        from qcompiler.report.page import page

        return page(self, price_per_hour)


def finite(value: Any) -> Any:
    """JSON has no infinity: written as a string that float() reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value
