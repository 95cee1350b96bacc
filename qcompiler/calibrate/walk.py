"""Samples go through a model a stage at a time, twice: as it is, and with the weights that are rounded so far.

A stage begins with products and ends where what the next products read is there, so a product's weight can be rounded
for what those before it have become. Only what later stages read is kept between two of them.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.calibrate.moments import HELD_OUT, Moments, Sums, blocks_of, patches, returned
from qcompiler.four_bits import Codes
from qcompiler.plan import Plan, Site
from qcompiler.runtime import Feed, one_thread_each, session, side_by_side

WHOLE = (256, 128, 64, 32, 16, 1)
"""Inputs that are looked at together are a multiple of the largest of these that divides all of them: blocks of
weights are not cut."""
_ALIGNED = 64


class Walk:
    """``products``: names of nodes of the outermost graph that stages begin with. ``rows``: taken from each sample;
    ``most``: inputs that are looked at together. ``lean``: weights and values are in files, and the process's own
    memory follows the largest weight."""

    def __init__(
        self, graph: ir.Graph, products: Collection[str], feeds: Sequence[Feed], *, rows: int, most: int, lean: bool
    ) -> None:
        self.depths = ir.depths(graph, products)
        self.rows, self.most, self.lean, self.feeds = rows, most, lean, feeds
        self.products = {node.name: node for node in graph.nodes if node.name in products}
        pieces = ir.stages(graph, self.depths)
        self.possible = pieces is not None
        self.pieces = pieces or []

    def plain(self, readers: Mapping[str, Sequence[str]]) -> dict[str, Moments]:
        """Moments of the weights by name, each given with the products that read it, in the model as it is."""
        sums = {name: self._sums(nodes, drifting=False) for name, nodes in readers.items()}
        last = max((self.depths[node] for nodes in readers.values() for node in nodes), default=0)
        values: list[Feed] = [dict(feed) for feed in self.feeds]
        for depth in range(1, last + 1):
            values = self._advanced(self.pieces[depth - 1], depth - 1, values)
            for name, nodes in readers.items():
                for node in nodes:
                    if self.depths[node] == depth:
                        self._add(sums[name], node, values, None)
        return {name: total.moments() for name, total in sums.items()}

    def stages(self, plan: Plan) -> Iterator[Stage]:
        """One after the other; ``Stage.end`` is told what became of its weights before the next is taken. ``plan``:
        what is rounded before the first."""
        exact: list[Feed] = [dict(feed) for feed in self.feeds]
        rounded: list[Feed] = exact
        last = max((self.depths[name] for name in self.products), default=0)
        for depth in range(1, last + 1):
            piece = self.pieces[depth - 1]
            coded = _coded(piece, plan)
            together = rounded is exact and coded is piece
            if not together:
                start = [dict(feed) for feed in exact] if rounded is exact else rounded
                rounded = self._advanced(coded, depth - 1, start)
            exact = self._advanced(piece, depth - 1, exact)
            rounded = exact if together else rounded
            stage = Stage(self, depth, exact, rounded, plan)
            yield stage
            plan = stage.plan

    def _sums(self, nodes: Sequence[str], *, drifting: bool) -> Sums:
        weight = self.products[nodes[0]].inputs[1]
        turned = bool(self.products[nodes[0]].attrs.get("transB", 0))
        length = int(weight.shape[int(turned)])
        whole = next(size for size in WHOLE if length % size == 0)
        return Sums(1, blocks_of(length, self.most, whole), by_rows=len(self.feeds) < HELD_OUT, drifting=drifting)

    def _add(self, sums: Sums, node: str, values: Sequence[Feed], exact: Sequence[Feed] | None) -> None:
        product = self.products[node]
        name = product.inputs[0].name
        with one_thread_each():
            for index, own in enumerate(values):
                rows = self._rows(product, own[name], index)
                plain = None if exact is None else self._rows(product, exact[index][name], index)
                finite = np.isfinite(rows).all(axis=(0, 2))
                if plain is not None:
                    finite &= np.isfinite(plain).all(axis=(0, 2))
                    plain = plain[:, finite]
                sums.add(index, rows[:, finite], plain)

    def _rows(self, product: ir.Node, values: np.ndarray, index: int) -> np.ndarray:
        return patches(product, np.asarray(values, np.float32), (), self.rows, index)

    def _advanced(self, piece: ir.Graph, depth: int, values: list[Feed]) -> list[Feed]:
        """What later stages read, of each sample; ``values`` are given up on the way."""
        later = {tensor.name for other in self.pieces[depth + 1 :] for tensor in other.inputs}
        later |= {node.inputs[0].name for name, node in self.products.items() if self.depths[name] > depth}
        if not piece.nodes:
            return [{name: array for name, array in feed.items() if name in later} for feed in values]
        found: list[Feed] = []
        shelf = _Shelf() if self.lean else None
        with session(piece, lean=self.lean) as model:
            for index, made in enumerate(side_by_side(functools.partial(returned, model), values)):
                kept = {name: array for name, array in values[index].items() if name in later}
                values[index] = {}
                if shelf is None:
                    found.append({**kept, **made})
                else:
                    found.append(kept)
                    shelf.put(made)
        if shelf is not None:
            for feed, made in zip(found, shelf.feeds()):
                feed.update(made)
        return found


class Stage:
    """Before its products run. ``plan``: what to go on with."""

    def __init__(self, walk: Walk, depth: int, exact: Sequence[Feed], rounded: Sequence[Feed], plan: Plan) -> None:
        self._walk, self.depth, self._exact, self._rounded, self.plan = walk, depth, exact, rounded, plan

    def moments(self, readers: Mapping[str, Sequence[str]]) -> dict[str, Moments]:
        """Of the weights by name, each given with the products of this stage that read it; those that read the same
        share one."""
        drifting = self._rounded is not self._exact
        found: dict[tuple[str, ...], Moments] = {}
        named: dict[str, Moments] = {}
        for name, nodes in readers.items():
            key = tuple(sorted(self._walk.products[node].inputs[0].name for node in nodes))
            if key not in found:
                sums = self._walk._sums(nodes, drifting=drifting)
                for node in nodes:
                    self._walk._add(sums, node, self._rounded, self._exact if drifting else None)
                found[key] = sums.moments()
            named[name] = found[key]
        return named

    def end(self, plan: Plan) -> None:
        self.plan = plan


class _Shelf:
    """Values of samples in a file without a name, all seen through one map."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="qcompiler-")
        self._places: list[dict[str, tuple[int, np.dtype, tuple[int, ...]]]] = []

    def put(self, made: Feed) -> None:
        self._places.append({})
        for name, array in made.items():
            place = self._file.seek(-(-self._file.tell() // _ALIGNED) * _ALIGNED)
            self._file.write(np.ascontiguousarray(array).data)
            self._places[-1][name] = place, array.dtype, array.shape

    def feeds(self) -> Iterator[Feed]:
        """Of each sample in turn."""
        self._file.flush()
        whole = np.memmap(self._file, np.uint8, "r") if self._file.tell() else np.empty(0, np.uint8)
        for places in self._places:
            yield {
                name: whole[place : place + dtype.itemsize * math.prod(shape)].view(dtype).reshape(shape)
                for name, (place, dtype, shape) in places.items()
            }


def _coded(piece: ir.Graph, plan: Plan) -> ir.Graph:
    """The piece with what its rounded weights stand for; the piece itself where it has none."""
    coded = ir.clone(piece)
    made: dict[str, ir.Constant] = {}
    for _, node in ir.all_nodes(coded):
        for index, tensor in enumerate(node.inputs):
            quant = plan.sites.get(Site(tensor.name, node.name, index))
            if quant is None or quant.scale is None or not ir.is_constant(tensor):
                continue
            if tensor.name not in made:
                codes = Codes(tensor.values, quant, plan.change(tensor.name, tensor.shape, quant))
                values = ir.Computed(tensor.shape, np.float32, codes.dequantized)
                made[tensor.name] = ir.Constant(f"{tensor.name}_rounded", values)
            node.inputs[index] = made[tensor.name]
    return coded if made else piece
