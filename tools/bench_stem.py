"""Measures convolutions that read pictures in codes, with their channels as they are and in fours (``align-channels``).

    python tools/bench_stem.py [--seconds S] [--json FILE]

Each is a session of ONNX Runtime on one thread: rounding the picture, what is put before the convolution, and the
convolution, with codes out. Both run one after the other in every round; times are those that the thread has the
processor for, a ratio is taken within a round, and every figure is a median over rounds.

how       stride folded into channels, channels of zeros added, or left alone
of plain  time with channels in fours over that with channels as they are: below 1 is faster
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_tables import processor
from onnx import numpy_helper, parser
from rich.console import Console
from rich.table import Table

from qcompiler import ir, runtime
from qcompiler.passes.align_channels import AlignChannels
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.target_files import load_target

FEWEST_ROUNDS = 7
MOST = 63
"""Codes whose sums no CPU cuts off."""


@dataclass(frozen=True)
class Stem:
    """A first convolution: square pictures, kernels and strides."""

    channels: int
    size: int
    kernel: int
    stride: int
    outputs: int

    def graph(self) -> ir.Graph:
        random = np.random.default_rng(0)
        pad = 0 if self.kernel == self.stride else (self.kernel - 1) // 2  # patches, or as large as the stride makes it
        shape = (self.outputs, self.channels, self.kernel, self.kernel)
        picture = f"1,{self.channels},{self.size},{self.size}"
        attributes = f"strides = [{self.stride},{self.stride}], pads = [{pad},{pad},{pad},{pad}]"
        model = parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20]> stem (float[{picture}] x) => (uint8 y) {{
            q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear<axis = 0>(w, ws, wz)
            c = Conv<{attributes}>(a, b) y = QuantizeLinear(c, t, z)
        }}""")
        constants = {
            "s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.5),
            "w": random.integers(-MOST, MOST + 1, shape).astype(np.int8),
            "ws": random.uniform(0.01, 0.02, self.outputs).astype(np.float32), "wz": np.zeros(self.outputs, np.int8),
        }  # fmt: skip
        for name, values in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        graph = ir.load(model)
        ir.infer_shapes(graph)
        return graph


STEMS = tuple(
    Stem(channels, size, kernel, stride, outputs)
    for channels, size, kernel, stride, outputs in (
        (3, 224, 3, 2, 32), (3, 224, 7, 2, 64), (3, 320, 3, 2, 16), (3, 640, 3, 2, 16), (3, 640, 6, 2, 32),
        (3, 224, 4, 4, 96), (3, 224, 3, 1, 32), (3, 128, 5, 1, 16), (3, 224, 5, 2, 32), (1, 28, 3, 1, 32),
        (1, 64, 3, 2, 32), (1, 28, 5, 1, 32), (1, 224, 7, 2, 64), (2, 128, 3, 1, 32), (2, 128, 3, 2, 32),
        (6, 128, 3, 1, 32), (6, 128, 3, 2, 32),
    )
)  # fmt: skip


def seconds(session: ort.InferenceSession, feed: runtime.Feed) -> float:
    start = time.thread_time()
    runtime.run(session, feed)
    return time.thread_time() - start


def measure(stem: Stem, budget: float) -> dict[str, Any]:
    plain = stem.graph()
    aligned = ir.clone(plain)
    Pipeline([AlignChannels()]).run(aligned, PassContext(load_target("ort-cpu").at("int8", "standard")))
    operators = {node.op for node in aligned.nodes}
    how = "folded" if "SpaceToDepth" in operators else "zeros" if "Pad" in operators else "left alone"
    random = np.random.default_rng(1)
    feed = {"x": random.normal(size=(1, stem.channels, stem.size, stem.size)).astype(np.float32)}
    with runtime.session(plain) as one, runtime.session(aligned) as other:
        times = [(seconds(one, feed), seconds(other, feed))]
        start = time.perf_counter()
        while time.perf_counter() - start < budget or len(times) < FEWEST_ROUNDS + 1:
            times.append((seconds(one, feed), seconds(other, feed)))
    taken = np.array(times[1:])  # the first run makes room
    ratio = float(np.median(taken[:, 1] / taken[:, 0]))
    return {**vars(stem), "how": how, "plain": float(np.median(taken[:, 0])), "ratio": ratio}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=2, help="for each convolution (default %(default)s)")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = arguments.parse_args()
    rows = [measure(stem, options.seconds) for stem in STEMS]
    console = Console(width=120)
    console.print(f"{processor()} ({load_target('ort-cpu').cpu}), ONNX Runtime {ort.__version__}, one thread")
    table = Table("channels", "picture", "kernel", "stride", "outputs", "how", "plain µs", "of plain")
    for row in rows:
        sizes = [str(row[key]) for key in ("channels", "size", "kernel", "stride", "outputs")]
        table.add_row(*sizes, row["how"], f"{row['plain'] * 1e6:.0f}", f"{row['ratio']:.2f}")
    console.print(table)
    changed = [row["ratio"] for row in rows if row["how"] != "left alone"]
    console.print(f"{len(changed)} changed, {min(changed):.2f} to {max(changed):.2f}, median {np.median(changed):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"processor": processor(), "rows": rows}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
