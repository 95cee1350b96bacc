"""How long each stage of a compilation takes, and how much memory it had used by then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qcompiler.memory import peak_bytes
from qcompiler.report import StageRecord


@dataclass
class Stages:
    """Times the stages, and tells ``begun`` about each one."""

    begun: Callable[[str, int, int | None], None] | None = None
    records: list[StageRecord] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self.begun is not None:
            self.begun(name, 0, None)
        start = time.perf_counter()
        yield
        self.records.append(StageRecord(name, time.perf_counter() - start, peak_bytes() / 1e6))
