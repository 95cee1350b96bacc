"""What the recognizers share: reading arithmetic nodes as a polynomial, and putting one node where several stood.

Exporters write the same formula in dozens of ways: operands swapped, a division for a multiplication, a constant moved
to another place. Multiplied out into a sum of products they are all the same, so a recognizer states its formula once.
For example, with ``stop = {x, erf}`` each way of writing ``x · 0.5 · (1 + erf)`` expands to ``0.5·x + 0.5·x·erf``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompiler import ir
from qcompiler.pipeline import Diagnostic, PassResult

Monomial = frozenset[tuple[ir.Tensor, int]]
"""A product of tensors, each with its power."""

ONE: Monomial = frozenset()

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal"})

_DEEPEST = 8
"""No formula here is written with more nodes on one path; it bounds the work on long chains of residual additions."""

_LONGEST = 64
"""Nor does any have more terms; a longer product is not multiplied out."""


def product(*factors: ir.Tensor | tuple[ir.Tensor, int]) -> Monomial:
    """The product of tensors, a pair being a tensor and its power."""
    return frozenset(factor if isinstance(factor, tuple) else (factor, 1) for factor in factors)


@dataclass
class Sum:
    """A tensor multiplied out: ``terms`` maps products of tensors to their coefficients.

    ``nodes`` computed it, ``tolerance`` is how far, relative, its scalar constants may be off given their type.
    """

    terms: dict[Monomial, float]
    nodes: set[ir.Node] = field(default_factory=set)
    tolerance: float = 1e-12

    def equals(self, expected: Mapping[Monomial, float]) -> bool:
        return self.terms.keys() == expected.keys() and all(
            self.close(value, expected[key]) for key, value in self.terms.items()
        )

    def close(self, value: float, expected: float) -> bool:
        return math.isclose(value, expected, rel_tol=self.tolerance)


def expand(tensor: ir.Tensor, stop: Collection[ir.Tensor] = ()) -> Sum:
    """Multiplies ``tensor`` out through arithmetic nodes, back to the tensors of ``stop`` and other nodes' outputs."""
    return _expand(tensor, frozenset(stop), _DEEPEST)


def _expand(tensor: ir.Tensor, stop: Collection[ir.Tensor], depth: int) -> Sum:
    atom = Sum({product(tensor): 1.0})
    if tensor in stop:
        return atom
    value = scalar(tensor)
    if value is not None and math.isfinite(value):
        return Sum({ONE: value} if value else {}, tolerance=tolerance_of(tensor))
    node = ir.producer(tensor)
    if node is None or node.domain or node.op not in ARITHMETIC or depth == 0:
        return atom
    if node.op == "Pow":
        exponent = scalar(node.inputs[1], floating=False)  # an integer may stand beside a float base
        if exponent not in (1.0, 2.0, 3.0):
            return atom
        base = _expand(node.inputs[0], stop, depth - 1)
        operands = [base] * round(exponent)
    else:
        operands = [_expand(operand, stop, depth - 1) for operand in node.inputs]
    if node.op in ("Div", "Reciprocal") and len(operands[-1].terms) != 1:
        operands[-1] = Sum({product(node.inputs[-1]): 1.0})  # the sum that is divided by stays whole
    if math.prod(len(operand.terms) for operand in operands) > _LONGEST:
        return atom
    terms = [operand.terms for operand in operands]
    if node.op in ("Add", "Sub"):
        result = _add(terms[0], terms[1], 1.0 if node.op == "Add" else -1.0)
    elif node.op == "Neg":
        result = _add({}, terms[0], -1.0)
    else:
        if node.op in ("Div", "Reciprocal"):
            terms[-1] = _inverse(terms[-1])
        result = {ONE: 1.0}
        for factor in terms:
            result = _multiply(result, factor)
    nodes = {node}.union(*(operand.nodes for operand in operands))
    return Sum(result, nodes, max(operand.tolerance for operand in operands))


def _add(left: dict[Monomial, float], right: dict[Monomial, float], sign: float) -> dict[Monomial, float]:
    total = dict(left)
    for monomial, value in right.items():
        total[monomial] = total.get(monomial, 0.0) + sign * value
    return {monomial: value for monomial, value in total.items() if value}


def _multiply(left: dict[Monomial, float], right: dict[Monomial, float]) -> dict[Monomial, float]:
    total: dict[Monomial, float] = {}
    for one, first in left.items():
        for other, second in right.items():
            powers = dict(one)
            for tensor, power in other:
                powers[tensor] = powers.get(tensor, 0) + power
            monomial = frozenset((tensor, power) for tensor, power in powers.items() if power)
            total[monomial] = total.get(monomial, 0.0) + first * second
    return {monomial: value for monomial, value in total.items() if value}


def _inverse(terms: dict[Monomial, float]) -> dict[Monomial, float]:
    ((monomial, value),) = terms.items()
    return {frozenset((tensor, -power) for tensor, power in monomial): 1.0 / value}


def scalar(tensor: ir.Tensor, *, floating: bool = True) -> float | None:
    """The value of a constant that acts as one number on whatever it meets; None for every other tensor.

    A one-element vector counts: it changes the rank only of an activation that has none, and the formulas that are
    looked for are not written on those. More dimensions may raise the rank of the result and do not count, unless
    every consumer is known to read it beside a tensor of that rank.
    """
    if not ir.is_constant(tensor) or tensor.values.size != 1:
        return None
    if tensor.values.dtype == object or (floating and not is_float(tensor.values.dtype)):
        return None
    if tensor.values.ndim > 1:
        for node in tensor.outputs:
            ranks = [len(t.shape) for t in node.inputs if t is not tensor and t.shape is not None]
            if max(ranks, default=0) < tensor.values.ndim:
                return None
    return float(tensor.values.reshape(-1)[0])


def is_float(dtype: np.dtype | None) -> bool:
    return dtype is not None and np.dtype(dtype).name in ("float16", "bfloat16", "float32", "float64")


def tolerance_of(tensor: ir.Tensor) -> float:
    """How far a constant of this type may be from the number that was meant, relative to it."""
    return {"bfloat16": 1e-2, "float16": 2e-3}.get(np.dtype(tensor.values.dtype).name, 2e-5)


def upward(tensor: ir.Tensor) -> Iterator[ir.Tensor]:
    """The tensor and the computed tensors that it is made from by arithmetic, nearest first."""
    seen, frontier = {tensor}, [tensor]
    for _ in range(_DEEPEST + 1):
        ahead = []
        for one in frontier:
            yield one
            node = ir.producer(one)
            if node is not None and not node.domain and node.op in ARITHMETIC:
                ahead += [t for t in node.inputs if not ir.is_constant(t) and t.name and t not in seen]
                seen.update(ahead)
        frontier = list(dict.fromkeys(ahead))


def downward(tensor: ir.Tensor) -> Iterator[ir.Tensor]:
    """The tensor and what arithmetic makes from it, nearest first."""
    seen, frontier = {tensor}, [tensor]
    for _ in range(_DEEPEST + 1):
        ahead = []
        for one in frontier:
            yield one
            for node in one.outputs:
                if not node.domain and node.op in ARITHMETIC and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    ahead.append(node.outputs[0])
        frontier = ahead


@dataclass(frozen=True)
class Clamp:
    """``min(max(source, low), high)``, however many nodes compute it."""

    source: ir.Tensor
    low: float
    high: float
    nodes: set[ir.Node]
    tolerance: float


def clamp(tensor: ir.Tensor) -> Clamp | None:
    """The clamp that ends in ``tensor``: Clip, its bounds attributes or inputs, Relu, Min, Max, and chains of them."""
    found: Clamp | None = None
    while (inner := _one_clamp(tensor)) is not None:
        tensor = inner.source
        if found is None:
            found = inner
        else:
            low, high = (min(max(bound, found.low), found.high) for bound in (inner.low, inner.high))
            nodes, tolerance = found.nodes | inner.nodes, max(found.tolerance, inner.tolerance)
            found = Clamp(inner.source, low, high, nodes, tolerance)
    return found


def _one_clamp(tensor: ir.Tensor) -> Clamp | None:
    node = ir.producer(tensor)
    if node is None or node.domain:
        return None
    source, bounds = node.inputs[0], [t for t in node.inputs[1:] if t.name]
    low, high = -math.inf, math.inf
    if node.op == "Relu":
        low = 0.0
    elif node.op == "Clip":
        low, high = node.attrs.get("min", low), node.attrs.get("max", high)
        limits = [scalar(t) if t.name else None for t in node.inputs[1:]]
        if any(t.name and limit is None for t, limit in zip(node.inputs[1:], limits)):
            return None  # a bound that is computed, or an integer
        low, high = (given if limit is None else limit for given, limit in zip((low, high), (*limits, None, None)))
    elif node.op in ("Min", "Max") and len(node.inputs) == 2:
        source, bound = node.inputs if ir.is_constant(node.inputs[1]) else reversed(node.inputs)
        value = scalar(bound)
        if value is None:
            return None
        low, high = (low, value) if node.op == "Min" else (value, high)
        bounds = [bound]
    else:
        return None
    tolerance = max((tolerance_of(t) for t in bounds), default=1e-12)
    return Clamp(source, low, high, {node}, tolerance) if low <= high else None


@dataclass(frozen=True)
class Match:
    """``nodes`` together compute ``root``; ``build`` makes the nodes that shall do it instead, the last one the root.

    ``build`` leaves the last node without outputs. It is called only when the rewrite is carried out: a node counts as
    a consumer of its inputs from the moment it exists.
    """

    root: ir.Tensor
    nodes: Collection[ir.Node]
    build: Callable[[], Sequence[ir.Node]]


@dataclass(frozen=True)
class Refusal:
    """A place that looks right and is left alone."""

    where: str
    reason: str


def escapes(nodes: Collection[ir.Node], root: ir.Tensor, returned: Collection[ir.Tensor]) -> ir.Tensor | None:
    """A tensor inside the pattern that something outside of it reads as well, so that its nodes must stay."""
    for node in nodes:
        for tensor in node.outputs:
            if tensor is not root and (tensor in returned or any(user not in nodes for user in tensor.outputs)):
                return tensor
    return None


def rewrite(graph: ir.Graph, attempt: Callable[[ir.Node], Iterable[Match | Refusal]]) -> PassResult:
    """Offers every node of every graph to ``attempt`` and carries out the first match that can be.

    The root keeps its tensor, and so its name and consumers. A match is refused when a node outside reads one of its
    inner tensors: those nodes would have to stay, and the replacement would be work added. Where nothing could be done
    the last refusal is reported.
    """
    returned = ir.output_tensors(graph)
    home = {node: inner for inner, node in ir.all_nodes(graph)}
    refusals: list[Diagnostic] = []
    rewrites = 0
    for node in list(home):
        if node not in home:
            continue
        refusal: Refusal | None = None
        for found in attempt(node):
            if isinstance(found, Match):
                shared = escapes(found.nodes, found.root, returned)
                if shared is None:
                    _replace(found, home)
                    rewrites, refusal = rewrites + 1, None
                    break
                found = Refusal(node.name, f"the tensor '{shared.name}' inside it is used elsewhere too")
            refusal = found
        if refusal is not None:
            refusals.append(Diagnostic(refusal.where, refusal.reason, "refused"))
    return PassResult(rewrites, tuple(refusals))


def _replace(match: Match, home: dict[ir.Node, ir.Graph]) -> None:
    old = ir.producer(match.root)
    assert old is not None
    graph, added = home[old], match.build()
    if not added[-1].name:
        added[-1].name = old.name
    old.outputs.clear()
    added[-1].outputs.append(match.root)
    position = next(index for index, node in enumerate(graph.nodes) if node is old)
    graph.nodes[position:position] = added
    home.update((node, graph) for node in added)
    for node in match.nodes:
        ir.detach(node)
        home.pop(node).nodes.remove(node)
