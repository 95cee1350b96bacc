"""What a user wants of a compiled model beyond that it is right: how little it may lose, how little it may take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qcompiler.metrics import Drop

BUDGETS = ("latency", "size")


@dataclass(frozen=True, eq=False)
class Goal:
    """``min_sqnr``: dB that each output keeps. ``max_drop``: how far ``metric``, see ``metrics.metric_from``, may fall
    behind the float model's. ``latency`` and ``size``: the most time of a run and bytes of weights, as shares of the
    source's. With a bound on what is lost, the fastest model within all bounds is looked for, else the most faithful.
    """

    min_sqnr: float | None = None
    max_drop: Drop | None = None
    metric: str = ""
    labels: np.ndarray | None = None
    lower_is_better: bool = False
    latency: float | None = None
    size: float | None = None

    @property
    def keeps(self) -> bool:
        """Whether there is a bound on what is lost."""
        return self.min_sqnr is not None or self.max_drop is not None

    def __str__(self) -> str:
        parts = []
        if self.min_sqnr is not None:
            parts.append(f"--min-sqnr {self.min_sqnr:g}")
        if self.max_drop is not None:
            parts.append(f"--max-drop {self.max_drop} of {self.metric}")
        for name in BUDGETS:
            if (share := getattr(self, name)) is not None:
                parts.append(f"--budget {name}={share:g}x")
        return " ".join(parts)


def budgets(texts: Iterable[str]) -> dict[str, float]:
    """``latency=0.5x`` and ``size=0.3x`` as shares by name. Raises ValueError, saying why."""
    found: dict[str, float] = {}
    for text in texts:
        name, separator, share = text.partition("=")
        try:
            value = float(share.removesuffix("x"))
        except ValueError:
            value = math.nan
        if name not in BUDGETS or not separator or not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"'{text}' is no budget: say latency=0.5x or size=0.3x")
        if name in found:
            raise ValueError(f"there are two budgets of {name}")
        found[name] = value
    return found
