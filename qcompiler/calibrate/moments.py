"""Second moments of what products read: which errors of a weight show at the output, and which cancel.

The error of a product with the weight ``W + E`` is ``E x``; over samples its power is ``E M Eᵀ`` with ``M`` the mean of
``x xᵀ``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnxruntime as ort

from qcompiler import ir
from qcompiler.calibrate.rows import usable
from qcompiler.runtime import Feed, one_thread_each, run, session, side_by_side

BLOCK = 512
"""Inputs of a product that are looked at together: memory grows with their square."""
SAMPLES = 16
ROWS = 128
"""Rows taken from each sample: positions of a convolution, rows of a matrix."""
HELD_OUT = 4
"""Every so many samples, or rows where there are fewer samples, one is held out."""
SEGMENTS = 16


@dataclass(frozen=True)
class Drift:
    """How what a weight is multiplied with differs, x̃ from x, since those before it are rounded: means of (x − x̃) x̃ᵀ,
    float32 ``[G, B, B]`` of each block, and for the samples held out also of (x − x̃) (x − x̃)ᵀ."""

    fitted: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]
    power: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Moments:
    """Of what one weight is multiplied with, ``K`` numbers in each of ``G`` groups: float32 ``[G, B, B]`` for each of
    the ``blocks_of(K)``. ``held_out`` is from other samples; ``share`` of all rows were fitted. ``drift``: where this
    is what rounded weights make of the samples."""

    fitted: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]
    share: float = 1.0
    drift: Drift | None = None

    def all(self) -> tuple[np.ndarray, ...]:
        """Of all rows."""
        return self._joined(self.fitted, self.held_out)

    def all_drift(self) -> tuple[np.ndarray, ...]:
        """Of all rows; nothing where there is none."""
        return () if self.drift is None else self._joined(self.drift.fitted, self.drift.held_out)

    def _joined(self, fitted: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        rest = 1.0 - self.share
        return tuple(np.float32(self.share) * a + np.float32(rest) * b for a, b in zip(fitted, held_out))

    def parts(self) -> list[slice]:
        """Which of the K numbers each block is of."""
        ends = np.cumsum([0, *(part.shape[1] for part in self.fitted)]).tolist()
        return [slice(first, last) for first, last in pairwise(ends)]


def blocks_of(length: int, most: int = BLOCK, of: int = 1) -> list[slice]:
    """About equal parts of no more than ``most``, each a multiple ``of`` so many, which divide the length."""
    units, count = length // of, -(-length // most)
    ends = [of * (units * index // count) for index in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def as_rows(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """The weight of a Conv, Gemm or MatMul as ``[groups, outputs, K]``, a view: what each output sums over."""
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if node.op == "Gemm" and node.attrs.get("transB", 0) else weight.T)[None]


def patches(node: ir.Node, values: np.ndarray, kernel: Sequence[int], rows: int, offset: int) -> np.ndarray:
    """``[groups, rows, K]`` of what the node's weight is multiplied with, at most ``rows`` of them, evenly spaced from
    the ``offset``-th on. ``kernel``: the spatial shape of a convolution's weight."""
    if node.op != "Conv":
        flat = values.reshape(1, -1, values.shape[-1])
        return flat[:, _spaced(flat.shape[1], rows, offset)]
    rank, groups = len(kernel), int(node.attrs.get("group", 1))
    strides = node.attrs.get("strides") or [1] * rank
    dilations = node.attrs.get("dilations") or [1] * rank
    spans = [(length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations)]
    begins, ends = _pads(node, values.shape[2:], spans, strides)
    sizes = values.shape[2:]
    counts = [(b + n + e - span) // step + 1 for b, n, e, span, step in zip(begins, sizes, ends, spans, strides)]
    chosen = _spaced(values.shape[0] * math.prod(counts), rows, offset)
    image, *places = np.unravel_index(chosen, (values.shape[0], *counts))
    index: list[np.ndarray] = [image.reshape(-1, *([1] * rank))]
    inside = np.ones((1,) * (rank + 1), bool)
    for axis, length in enumerate(kernel):
        shape = [len(chosen), *(length if other == axis else 1 for other in range(rank))]
        at = places[axis][:, None] * strides[axis] - begins[axis] + np.arange(length) * dilations[axis]
        inside = inside & ((at >= 0) & (at < sizes[axis])).reshape(shape)
        index.append(np.clip(at, 0, sizes[axis] - 1).reshape(shape))
    taken = np.moveaxis(values, 1, -1)[tuple(index)]  # [rows, *kernel, channels]
    taken[np.broadcast_to(~inside, taken.shape[:-1])] = 0.0
    taken = np.moveaxis(taken, -1, 1).reshape(len(chosen), groups, -1)
    return np.ascontiguousarray(taken.swapaxes(0, 1))


def _spaced(count: int, most: int, offset: int) -> np.ndarray:
    step = max(1, count // most)
    return np.arange(offset % step, count, step)[:most]


def _pads(
    node: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, as ONNX defines it for Conv."""
    rank, kind = len(spans), node.attrs.get("auto_pad", "NOTSET")
    if kind in ("NOTSET", ""):
        pads = list(node.attrs.get("pads") or [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    if kind == "VALID":
        return [0] * rank, [0] * rank
    totals = [
        max((-(-size // stride) - 1) * stride + span - size, 0) for size, span, stride in zip(sizes, spans, strides)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if kind == "SAME_UPPER" else (large, small)


def second_moments(
    graph: ir.Graph,
    readers: Mapping[str, Sequence[str]],
    feeds: Sequence[Feed],
    *,
    rows: int = ROWS,
    most: int = BLOCK,
) -> dict[str, Moments]:
    """Moments of the named constants, each given with the nodes of the outermost graph that read it as their second
    input. ``rows``: taken from each sample; ``most``: inputs that are looked at together. Rows that are not ``usable``
    are left out."""
    nodes = {node.name: node for node in graph.nodes}
    sums: dict[str, Sums] = {}
    reads: dict[str, list[tuple[Sums, ir.Node]]] = {}
    for name, users in readers.items():
        groups, _, length = as_rows(nodes[users[0]], nodes[users[0]].inputs[1].values).shape
        sums[name] = Sums(groups, blocks_of(length, most), by_rows=len(feeds) < HELD_OUT)
        for user in users:
            reads.setdefault(nodes[user].inputs[0].name, []).append((sums[name], nodes[user]))
    values = [dict(feed) for feed in feeds]

    def add(index: int, made: Feed) -> None:
        for tensor in reads.keys() & made.keys():
            for total, node in reads[tensor]:
                total.add(index, _rows(node, made[tensor], rows, index))

    pieces = ir.segments(graph, SEGMENTS, list(reads))
    last_read = {tensor.name: number for number, piece in enumerate(pieces) for tensor in piece.inputs}
    with one_thread_each():
        for index, feed in enumerate(feeds):
            add(index, feed)
        for number, piece in enumerate(pieces):
            with session(piece) as model:
                for index, made in enumerate(side_by_side(functools.partial(returned, model), values)):
                    add(index, made)
                    known = {**values[index], **made}
                    values[index] = {name: known[name] for name in known if last_read.get(name, -1) > number}
    return {name: total.moments() for name, total in sums.items()}


def returned(model: ort.InferenceSession, feed: Feed) -> Feed:
    outputs = [entry.name for entry in model.get_outputs()]
    return dict(zip(outputs, run(model, {entry.name: feed[entry.name] for entry in model.get_inputs()}, outputs)))


def _rows(node: ir.Node, values: np.ndarray, most: int, index: int) -> np.ndarray:
    kernel = node.inputs[1].values.shape[2:] if node.op == "Conv" else ()
    rows = patches(node, values.astype(np.float32, copy=False), kernel, most, index)
    kept = usable(rows, axis=(0, 2))
    return rows if kept.all() else rows[:, kept]


class Sums:
    """Of ``groups`` of numbers: sums of rows' products, and how many rows there were, of the samples to fit and of
    those held out; ``by_rows``: there are too few samples to hold one out, so rows must do."""

    def __init__(self, groups: int, blocks: Sequence[slice], *, by_rows: bool, drifting: bool = False) -> None:
        self._blocks, self._by_rows, self._count = blocks, by_rows, [0, 0]
        sizes = [part.stop - part.start for part in blocks]

        def zeros() -> list[np.ndarray]:
            return [np.zeros((groups, size, size), np.float32) for size in sizes]

        self._sums = [zeros(), zeros()]
        self._drift, self._power = ([zeros(), zeros()], zeros()) if drifting else ([], [])

    def add(self, index: int, rows: np.ndarray, exact: np.ndarray | None = None) -> None:
        """Rows ``[groups, rows, K]`` of the sample at this place; ``exact``: as they are without rounding."""
        moved = None if exact is None else exact - rows
        if self._by_rows:
            aside = np.arange(rows.shape[1]) % HELD_OUT == HELD_OUT - 1
            self._add(0, rows[:, ~aside], None if moved is None else moved[:, ~aside])
            self._add(1, rows[:, aside], None if moved is None else moved[:, aside])
        else:
            self._add(int(index % HELD_OUT == HELD_OUT - 1), rows, moved)

    def _add(self, side: int, rows: np.ndarray, moved: np.ndarray | None) -> None:
        self._count[side] += rows.shape[1]
        for place, part in enumerate(self._blocks):
            own = rows[:, :, part]
            self._sums[side][place] += own.swapaxes(1, 2) @ own
            if moved is not None:
                off = moved[:, :, part].swapaxes(1, 2)
                self._drift[side][place] += off @ own
                if side:
                    self._power[place] += off @ off.swapaxes(1, 2)

    def moments(self) -> Moments:
        totals = [[*sums, *drift] for sums, drift in zip(self._sums, self._drift or [[], []])]
        totals[1] += self._power
        for mine, count in zip(totals, self._count):
            for total in mine:
                total /= np.float32(max(count, 1))
        fitted, held_out = (tuple(sums) for sums in self._sums)
        drift = Drift(tuple(self._drift[0]), tuple(self._drift[1]), tuple(self._power)) if self._drift else None
        return Moments(fitted, held_out, self._count[0] / max(sum(self._count), 1), drift)
