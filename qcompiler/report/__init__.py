"""What a compilation did, for people and for programs."""

from qcompiler.report.record import (
    NodeRecord,
    OutputRecord,
    PassRecord,
    Report,
    SpeedRecord,
    StageRecord,
)

__all__ = ["NodeRecord", "OutputRecord", "PassRecord", "Report", "SpeedRecord", "StageRecord"]
