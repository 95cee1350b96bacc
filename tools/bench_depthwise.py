"""Measures DepthwiseConvInt8 against ONNX Runtime's QLinearConv, both with the channels last.

    python tools/bench_depthwise.py                                     on one thread
    python tools/bench_depthwise.py --isa avx2 scalar --json result.json

Shapes are those of MobileNets, EfficientNets and ConvNeXt. Several nodes read the same tensor, one after the other, in
one session; QLinearConv is the form that ONNX Runtime itself makes of convolutions with codes (com.microsoft,
channels_last). Times are those that the thread has the processor for; figures are medians over rounds, ratios within a
round.

GMAC/s     multiplications and additions of codes, those with padding too
of theirs  QLinearConv's time over DepthwiseConvInt8's
at best    the same from each candidate's fastest round
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from bench_tables import codes, measure, repeated, run
from rich.console import Console
from rich.table import Table

from qcompiler import native


@dataclass(frozen=True)
class Case:
    """A square picture, and filters of as many taps each way."""

    channels: int
    side: int
    taps: int
    stride: int = 1

    @property
    def products(self) -> int:
        return self.channels * (self.side // self.stride) ** 2 * self.taps**2


CASES = (
    Case(32, 112, 3), Case(96, 112, 3, 2), Case(144, 56, 3), Case(240, 28, 5), Case(480, 14, 3), Case(672, 14, 5),
    Case(960, 7, 3), Case(1152, 7, 5), Case(144, 56, 5, 2), Case(96, 56, 7), Case(64, 40, 3), Case(24, 80, 3),
)  # fmt: skip


def convolutions(case: Case, operator: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    constants = {
        "x_scale": np.array(0.02, np.float32), "x_zero_point": np.array(100, np.uint8),
        "W": rng.integers(-127, 128, (case.channels, 1, case.taps, case.taps)).astype(np.int8),
        "w_scale": rng.uniform(0.005, 0.02, case.channels).astype(np.float32),
        "y_scale": np.array(0.016 * case.taps, np.float32), "y_zero_point": np.array(90, np.uint8),
        "B": rng.integers(-3000, 3000, case.channels).astype(np.int32),
    }  # fmt: skip
    pad = case.taps // 2
    attributes: dict[str, Any] = {"strides": [case.stride] * 2, "pads": [pad] * 4, "dilations": [1, 1]}
    names = list(constants)
    x = {"X": codes(1, case.side, case.side, case.channels)}
    if operator == "DepthwiseConvInt8":
        return repeated(operator, ["X", *names], x, constants, domain=native.DOMAIN, **attributes)
    constants["w_zero_point"] = np.zeros((), np.int8)
    attributes |= {"group": case.channels, "channels_last": 1, "kernel_shape": [case.taps] * 2}
    inputs = ["X", *names[:4], "w_zero_point", *names[4:]]
    return repeated(operator, inputs, x, constants, domain="com.microsoft", **attributes)


def print_table(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"DepthwiseConvInt8, {result['isa']}")
    for heading in ("channels", "picture", "taps", "stride", "µs", "GMAC/s", "theirs", "of theirs", "at best"):
        table.add_column(heading, justify="right")
    for row in result["convolutions"]:
        ours, theirs = row["seconds"].values()
        table.add_row(
            str(row["channels"]), f"{row['side']}×{row['side']}", f"{row['taps']}×{row['taps']}", str(row["stride"]),
            f"{ours * 1e6:.1f}", f"{row['products'] / ours / 1e9:.0f}", f"{theirs * 1e6:.1f}", f"{row['ratio']:.2f}",
            f"{row['at_best']:.2f}",
        )  # fmt: skip
    console.print(table)


def measured(budget: float) -> dict[str, Any]:
    rows = []
    for case in CASES:
        ours, theirs = (convolutions(case, operator) for operator in ("DepthwiseConvInt8", "QLinearConv"))
        rows.append({**asdict(case), "products": case.products, **measure(ours, theirs, budget)})
    return {"convolutions": rows}


if __name__ == "__main__":
    run(__doc__, __file__, measured, print_table)
