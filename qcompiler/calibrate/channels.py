"""Per-channel magnitudes of a few tensors: what equalization needs and histograms do not hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler import ir
from qcompiler.runtime import Feed, run, session


@dataclass(frozen=True)
class Channels:
    """Along one axis of a tensor, over all samples: ``largest`` magnitude and ``mean_square``, float64 ``[channels]``."""

    largest: np.ndarray
    mean_square: np.ndarray


def channel_magnitudes(graph: ir.Graph, tensors: Sequence[str], feeds: Iterable[Feed]) -> dict[str, Channels]:
    """Magnitudes along the last axis of the named tensors of the outermost graph.

    The reduction runs inside ONNX Runtime: only vectors are returned. Tensors with infinities or NaN are left out.
    """
    probed = ir.clone(graph)
    namer = ir.Namer(probed)
    by_name = ir.all_tensors(probed)
    wanted: list[str] = []
    for name in tensors:
        tensor = by_name[name]
        size, square = (ir.Variable(namer(f"{name}_{what}"), np.dtype(np.float32)) for what in ("size", "square"))
        largest, mean = (ir.Variable(namer(f"{name}_{what}"), np.dtype(np.float32)) for what in ("largest", "mean"))
        rows, flat = ir.Constant(namer("rows"), np.array([-1, _last(tensor)], np.int64)), ir.Variable(namer(f"{name}_rows"))
        add = probed.nodes.append
        add(ir.Node("Reshape", namer("rows"), inputs=[tensor, rows], outputs=[flat]))
        add(ir.Node("Abs", namer("size"), inputs=[flat], outputs=[size]))
        add(ir.Node("Mul", namer("square"), inputs=[flat, flat], outputs=[square]))
        add(ir.Node("ReduceMax", namer("largest"), _over_rows(probed), inputs=[size, *_axes(probed, namer)], outputs=[largest]))
        add(ir.Node("ReduceMean", namer("mean"), _over_rows(probed), inputs=[square, *_axes(probed, namer)], outputs=[mean]))
        probed.outputs += [largest, mean]
        wanted += [largest.name, mean.name]
    sums: list[np.ndarray] = []
    count = 0
    with session(probed, prompt=True) as model:
        for feed in feeds:
            found = [value.astype(np.float64) for value in run(model, feed, wanted)]
            if not sums:
                sums = found
            else:
                sums = [np.maximum(a, b) if i % 2 == 0 else a + b for i, (a, b) in enumerate(zip(sums, found))]
            count += 1
    result = {}
    for index, name in enumerate(tensors):
        channels = Channels(sums[2 * index], sums[2 * index + 1] / max(count, 1))
        if np.isfinite(channels.largest).all() and np.isfinite(channels.mean_square).all():
            result[name] = channels
    return result


def _last(tensor: ir.Tensor) -> int:
    if tensor.shape is None or not isinstance(tensor.shape[-1], int):
        raise ValueError(f"the last axis of '{tensor.name}' has no fixed size")
    return tensor.shape[-1]


def _over_rows(graph: ir.Graph) -> dict[str, object]:
    return {"keepdims": 0} if graph.opset >= 18 else {"axes": [0], "keepdims": 0}


def _axes(graph: ir.Graph, namer: ir.Namer) -> list[ir.Constant]:
    return [ir.Constant(namer("axis"), np.array([0], np.int64))] if graph.opset >= 18 else []
