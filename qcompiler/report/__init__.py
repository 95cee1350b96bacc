"""What a compilation did, for people and for programs."""

from qcompiler.report.record import (
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

__all__ = [
    "DepthRecord",
    "FrontRecord",
    "HistogramRecord",
    "MemoryRecord",
    "NodeRecord",
    "OutputRecord",
    "PassRecord",
    "Report",
    "SpeedRecord",
    "StageRecord",
]
