"""A solved plan as a problem of which of its sites to compute in codes: prices of each site and between them.

A site is a product, or the light operators behind one, as ``actions_of`` has them. What its rounding costs in
error was measured at the outputs, what it costs in time was read off profiles. Which other tensors a choice rounds or
converts follows the rules of placement, so that the price of a choice is about that of the plan placed for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qcompiler import ir
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.search.budget import Pick, Price, Problem, Term
from qcompiler.search.cost import Cost
from qcompiler.target import Target

FLOAT, CODES, FOUR_BITS = "float", "codes", "four bits"

Picks = frozenset[Pick]

BITS = {"int4": 4, "uint4": 4, "int32": 32}
"""Of a code, where it is not 8."""
HALVED = "halve-weights"
"""The pass that stores in 16 bits what stays in float."""
LEAST_HALVED = 4096
"""Numbers of the smallest weight that it does so with."""


@dataclass(frozen=True)
class Mixture:
    """``sites``: by name, the nodes that are decided upon together; ``problem``: what each costs in which way."""

    problem: Problem
    sites: Mapping[str, frozenset[str]]

    def kept(self, picks: Mapping[str, str]) -> list[str]:
        """The nodes of the sites that are to be in float."""
        return sorted(name for site, choice in picks.items() if choice == FLOAT for name in self.sites[site])

    def four_bits(self, picks: Mapping[str, str]) -> frozenset[str]:
        """The nodes of the sites whose weights are to have four bits."""
        return frozenset(name for site, choice in picks.items() if choice == FOUR_BITS for name in self.sites[site])

    @property
    def quantized(self) -> dict[str, str]:
        """The choice of the plan itself: all in codes."""
        return dict.fromkeys(self.sites, CODES)


@dataclass(frozen=True)
class FourBits:
    """``seconds``: of a run, of each node that can have a weight of four bits, with such a one; ``noise`` and
    ``bytes``: by weight, the noise-to-signal ratio that it then causes at the outputs, and what it takes."""

    seconds: Mapping[str, float]
    noise: Mapping[str, float]
    bytes: Mapping[str, float]


def mixture(
    graph: ir.Graph,
    plan: Plan,
    noise: Mapping[str, float],
    cost: Cost,
    target: Target,
    four_bits: FourBits | None = None,
) -> Mixture:
    """Of the solved plan of the graph. ``noise``: by tensor, the noise-to-signal ratio that rounding it causes.
    ``four_bits``: where weights may have so few, too."""
    return _Mixing(graph, plan, noise, cost, target, four_bits).mixture()


def owners(graph: ir.Graph, plan: Plan) -> tuple[set[str], dict[ir.Tensor, str]]:
    """(products of the plan, and for each tensor the last product before it, "" where there is none)."""
    rows = {node.name for _, node in ir.all_nodes(graph) if node.op == "Gather"}
    heavy = {
        site.node
        for site, quant in plan.sites.items()
        if quant.origin == "weights" and (site.index == 1 or site.node in rows)
    }
    owner: dict[ir.Tensor, str] = {}
    for _, node in ir.all_nodes(graph):
        own = node.name if node.name in heavy else next((owner[t] for t in node.inputs if owner.get(t)), "")
        for tensor in node.outputs:
            owner[tensor] = own
    return heavy, owner


def actions_of(graph: ir.Graph, plan: Plan) -> list[frozenset[str]]:
    """Sets of nodes that may be left in float: each product, and the light operators behind each."""
    heavy, owner = owners(graph, plan)
    behind: dict[str, set[str]] = defaultdict(set)
    for _, node in ir.all_nodes(graph):
        if node.name in plan.intended and node.name not in heavy and node.outputs and owner.get(node.outputs[0]):
            behind[owner[node.outputs[0]]].add(node.name)
    return [frozenset([name]) for name in sorted(heavy)] + [frozenset(names) for _, names in sorted(behind.items())]


class _Mixing:
    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        noise: Mapping[str, float],
        cost: Cost,
        target: Target,
        four_bits: FourBits | None,
    ) -> None:
        self.graph, self.plan, self.noise, self.cost, self.target = graph, plan, noise, cost, target
        self.sites = {min(action): action for action in actions_of(graph, plan)}
        self.four_bits = four_bits or FourBits({}, {}, {})
        self.halved = any(HALVED in one for one in target.pipeline.get(target.ops, ()))
        self.products, _ = owners(graph, plan)
        self.tensors = ir.all_tensors(graph)
        self.nodes = {node.name: node for _, node in ir.all_nodes(graph)}
        self.site_of = {name: site for site, action in self.sites.items() for name in action}
        self.needs: dict[str, Picks] = {}
        for name, node in self.nodes.items():  # in order of computation
            if name in plan.intended:
                self.needs[name] = self.needed(node)

    def needed(self, node: ir.Node) -> Picks:
        """The picks with which the node works on codes: its own and, where it is not worth codes for its own sake,
        those of whatever makes the codes that it reads."""
        own = frozenset([(self.site_of[node.name], CODES)]) if node.name in self.site_of else frozenset()
        if node.name in self.products:
            return own
        makers = (self.cost.makers.get(tensor.name, "") for tensor in node.inputs)
        return own.union(*(self.needs.get(maker, frozenset()) for maker in makers))

    def mixture(self) -> Mixture:
        plain, coded = self.cost.plain, self.cost.coded
        choices = {site: {FLOAT: Price(), CODES: Price()} for site in self.sites}
        for name, seconds in self.four_bits.seconds.items():
            choices[name][FOUR_BITS] = Price(seconds=seconds)
        terms: list[Term] = []
        base = Price(seconds=self.cost.rest)
        for name in self.nodes:
            before, after = Price(seconds=plain.get(name, 0.0)), Price(seconds=coded.get(name, 0.0))
            picks = self.needs.get(name, frozenset())
            if name not in self.plan.intended:
                base += before
            elif not picks:
                base += after
            elif len(picks) == 1:
                ((site, _),) = picks
                choices[site].update({FLOAT: choices[site][FLOAT] + before, CODES: choices[site][CODES] + after})
            else:
                terms += [Term((picks,), after), Term(tuple(self.failing(picks)), before)]
        weights = halved = 0
        for name, uses in self.plan.tensors().items():
            tensor = self.tensors[name]
            if ir.is_constant(tensor):
                terms += self.of_weight(name, uses, tensor.values.size)
                weights += 4 * tensor.values.size
                halved += 4 * tensor.values.size - self.in_float(tensor.values.size)
            else:
                terms += self.of_activation(name, uses)
        base += Price(bytes=max(0, ir.weight_bytes(self.graph) - weights))
        terms.append(Term((frozenset((site, FLOAT) for site in self.sites),), Price(bytes=halved)))  # the source itself
        terms = [term for term in terms if term.when and term.when[0] and term.price != Price()]
        return Mixture(Problem(choices, terms, base), self.sites)

    def of_weight(self, name: str, uses: Mapping[Site, TensorQuant], elements: int) -> Iterator[Term]:
        readers = [self.needs[site.node] for site in uses if site.node in self.needs]
        quant = next(iter(uses.values()))
        steps = 0 if quant.scale is None else quant.scale.size
        size = elements * BITS.get(quant.scheme.dtype, 8) / 8 + 5 * steps
        yield Term(tuple(readers), Price(error=self.noise.get(name, 0.0), bytes=size))
        sites = [site for picks in readers for site, _ in sorted(picks)]
        yield Term(tuple(frozenset([(site, FLOAT)]) for site in sites), Price(bytes=self.in_float(elements)))
        few = tuple(frozenset([(site, FOUR_BITS)]) for site in sites if site in self.four_bits.seconds)
        if name in self.four_bits.noise:
            yield Term(few, Price(error=self.four_bits.noise[name], bytes=self.four_bits.bytes[name]))

    def in_float(self, elements: int) -> int:
        """Bytes of a weight that stays in float where others do not."""
        return (2 if self.halved and elements >= LEAST_HALVED else 4) * elements

    def of_activation(self, name: str, uses: Mapping[Site, TensorQuant]) -> Iterator[Term]:
        maker = self.cost.makers.get(name, "")
        made = self.needs.get(maker)
        readers = [self.needs[site.node] for site in uses if site.node in self.needs]
        if made is not None and not self.always_coded(maker):
            made = made.union(*readers)
        rounded = [*readers, *([made] if made is not None else [])]
        yield Term(tuple(rounded), Price(error=self.noise.get(name, 0.0)))
        if any(quant.origin == "dynamic" for quant in uses.values()):  # made by the product itself, in its time
            return
        step = Price(seconds=self.cost.per_element * self.cost.elements.get(name, 0.0))
        if made is None:
            yield Term(tuple(readers), step)
            return
        yield Term(tuple(_possible(picks | other for picks in readers for other in self.failing(made))), step)
        if any(site.node not in self.needs and site.node not in self.cost.vanishing for site in uses):
            yield Term((made,), step)
        else:
            yield Term(tuple(_possible(made | other for picks in readers for other in self.failing(picks))), step)

    def always_coded(self, maker: str) -> bool:
        """Whether the node, once it works on codes, returns this tensor in codes whoever reads it."""
        entry = self.target.operator(self.nodes[maker])
        return maker not in self.products or entry is None or entry.output == "required"

    def failing(self, picks: Picks) -> Iterator[Picks]:
        """The picks of which any one keeps all of these from being made."""
        for site, _ in sorted(picks):
            yield frozenset([(site, FLOAT)])
            if site in self.four_bits.seconds:
                yield frozenset([(site, FOUR_BITS)])


def _possible(sets: Iterator[Picks]) -> Iterator[Picks]:
    """Those that pick one way for each site."""
    for picks in sets:
        if len({site for site, _ in picks}) == len(picks):
            yield picks
