"""Tensors between convolutions whose channels can be changed together, by way of the weights on either side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, TypeVar

import networkx as nx
import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes.smooth_conv import channels_of, is_depthwise
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan

Linked = Callable[[ir.Node], list[ir.Tensor]]
"""What a node reads and returns that must be changed alike; nothing where it does not change along."""


@dataclass
class Group:
    """``makers``: the convolutions that compute the ``tensors``; ``readers``: those that read them."""

    tensors: list[ir.Variable] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return int(self.makers[0].inputs[1].values.shape[0])

    def watched(self, plan: Plan) -> list[str]:
        """Names of the tensors that the plan rounds."""
        rounded = {site.tensor for site in plan.sites}
        return [tensor.name for tensor in self.tensors if tensor.name in rounded]


One = TypeVar("One", bound=Group)


@dataclass(frozen=True)
class ChannelsPass(RowsPass, Generic[One]):
    """Changes the channels between convolutions by numbers that rows of them ask for, group by group.

    The numbers stand in ``plan.smoothing`` at ``PASS: TENSOR``, with what the group's first convolution makes. A plan
    that has them already is applied as it is.
    """

    semantics: ClassVar[Semantics] = Semantics.QUANTIZING
    done: ClassVar[str]
    """What happened to the channels, for the report."""

    @abstractmethod
    def groups(self, graph: ir.Graph) -> list[One]:
        """What can be changed, in the graph's order."""

    @abstractmethod
    def best(self, group: One, rows: Mapping[str, Rows], symmetric: bool) -> tuple[np.ndarray, float]:
        """(float32 numbers, gain in dB) for rows of the tensors that are watched."""

    @abstractmethod
    def least(self, group: One) -> float:
        """The gain in dB that it takes."""

    @abstractmethod
    def apply(self, group: One, numbers: np.ndarray, namer: ir.Namer, key: str) -> None:
        """Edits the constants. Raises PassError, naming ``key``, for numbers that do not fit."""

    def key(self, group: One) -> str:
        return f"{self.name}: {group.makers[0].outputs[0].name}"

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        return {
            name: 1
            for group in self.groups(graph)
            if all(node.name in plan.intended for node in (*group.makers, *group.readers))
            for name in group.watched(plan)
        }

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan, seen = ctx.plan or Plan(), ctx.rows or {}
        symmetric = ctx.target is not None and ctx.target.activation.symmetric
        found, diagnostics, namer = {}, [], ir.Namer(graph)
        for group in self.groups(graph):
            key, watched = self.key(group), group.watched(plan)
            numbers = plan.smoothing.get(key)
            if numbers is None and watched and all(name in seen for name in watched):
                best, gain = self.best(group, {name: seen[name] for name in watched}, symmetric)
                if gain >= self.least(group):
                    numbers = best
                    diagnostics.append(Diagnostic(key, f"{self.done}, {gain:.1f} dB less noise expected"))
            if numbers is not None:
                self.apply(group, numbers, namer, key)
                found[key] = numbers
        return PassResult(len(found), tuple(diagnostics), replace(plan, smoothing={**plan.smoothing, **found}))


def summed(node: ir.Node) -> list[ir.Tensor]:
    """What an Add of tensors of one shape joins; nothing of any other node."""
    if node.op != "Add" or node.domain or any(ir.is_constant(tensor) for tensor in node.inputs):
        return []
    shapes = [tensor.shape for tensor in (*node.inputs, *node.outputs)]
    alike = all(shape is not None and len(shape) > 2 and shape[1:] == shapes[0][1:] for shape in shapes)
    return [*node.inputs, *node.outputs] if alike else []


def joined_groups(graph: ir.Graph, linked: Linked) -> Iterator[Group]:
    """Groups of tensors of the outermost graph that ``linked`` nodes join. They are made and read by convolutions with
    constant weights and by nothing else, and are no outputs. What reads them convolves each channel alone, or all."""
    links: nx.Graph = nx.Graph()
    returned = ir.output_tensors(graph)
    for node in graph.nodes:
        if node.op == "Conv":
            links.add_node(node.outputs[0])
        elif joined := linked(node):
            nx.add_path(links, joined)
    own = {id(node) for node in graph.nodes}
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    for members in nx.connected_components(links):
        group = None if members & returned else _group(members, own, linked)
        if group is not None:
            group.makers.sort(key=lambda node: order[id(node)])
            group.tensors.sort(key=lambda tensor: tensor.name)
            yield group


def _group(members: Iterable[ir.Tensor], own: set[int], linked: Linked) -> Group | None:
    """The group of linked tensors; None where something else makes or reads one of them."""
    group = Group()
    for tensor in members:
        node = ir.producer(tensor)
        if node is None or ir.is_constant(tensor):
            return None
        group.tensors.append(tensor)
        if node.op == "Conv":
            if not all(ir.is_constant(t) or not t.name for t in node.inputs[1:]):
                return None
            group.makers.append(node)
        for reader in tensor.outputs:
            if id(reader) not in own:
                return None
            if reader.op == "Conv":
                if [index for index, one in enumerate(reader.inputs) if one is tensor] != [0]:
                    return None
                group.readers.append(reader)
            elif not linked(reader):
                return None
    weights = [node.inputs[1] for node in (*group.makers, *group.readers)]
    if not group.makers or not group.readers or not all(ir.is_constant(weight) for weight in weights):
        return None
    sound = all(weight.values.dtype == np.float32 for weight in weights)
    alike = {node.inputs[1].values.shape[0] for node in group.makers} | {channels_of(node) for node in group.readers}
    apart = all(is_depthwise(node) or node.attrs.get("group", 1) == 1 for node in group.readers)
    return group if sound and apart and len(alike) == 1 else None
