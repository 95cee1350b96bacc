"""Decides which uses of which tensors are quantized; no numbers yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from qcompiler import ir
from qcompiler.errors import PassError
from qcompiler.passes._candidates import activations, in_attention, indices, why_not
from qcompiler.passes._edit import operand
from qcompiler.passes._elementwise import Function, function_of
from qcompiler.passes._linear import laid_out
from qcompiler.passes.fold_scale_into_dequantize import scaled
from qcompiler.passes.smooth_conv import is_depthwise
from qcompiler.passes.spell_zero_points import takes_zero_point
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.saturation import clip_bounds, guaranteed
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme
from qcompiler.target import OPS, Operator, Target, is_float

BY_ROW = Scheme("uint8", symmetric=False)
"""Of activations that are quantized as they come."""


@dataclass(frozen=True)
class Place(Pass):
    """Static placement from the target's description. Nodes that the plan so far keeps in float are respected.

    1. An operator with a constant weight is quantized for its own sake: its activations, weight and bias. Where
       activations have blocks, these run along what is summed over, and no other operator is quantized.
    2. A result that the target only fuses when it is quantized gets a Q that *all* its consumers read through, float
       ones too. A Relu or Clip behind the operator is absorbed into that Q.
    3. A result that may stay float is quantized only where everything that reads it, through operators that merely
       move values, wants 8 bits.
    4. Other operators are quantized where all their inputs already are, and something behind them gains from it.
    5. A product with a positive scalar constant is read as its factor in 8 bits, with another step.
    6. Operators that move values tie their inputs and outputs to the same parameters. What a Concat joins with values
       that reach farther than a Relu, Clip or Sigmoid lets its own has parameters of its own: the Relu would not vanish
       in a Q that has codes for what it cuts off, and such a Q's codes would be wasted on a gate.
    7. An addition to a quantized operator's result may read its other input, the shortcut, in codes and the result as
       it is: the operator's kernel then adds it.
    8. Where only weights are quantized, no activation is.
    9. With our own operators, what elementwise operators compute of one tensor in codes is looked up (``fuse-tables``):
       nothing inside is rounded, each result is where something wants it in codes, and is read as it is elsewhere. A
       product with a positive scalar constant stays case 5.
    10. With our own operators, what the plan has as ``dynamic`` reads its activation in codes that are made as it runs,
        each row by itself (``fuse-int8``), unless that is there in codes anyway. The result and the bias stay in float.
    11. What the plan has in ``four_bits`` has a weight as the target's precision of four bits has it, and reads no
        codes.
    12. Where the target has no zero points but a pass that spells them, a tensor has one if all its readers in codes,
        and those of tensors tied to it, can take back what it stands for.
    """

    name: ClassVar[str] = "place"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    precision: str = "int8"

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if ctx.target is None:
            raise PassError("needs a target", where=graph.name)
        old = ctx.plan or Plan()
        found = _Placement(graph, ctx.target, self.precision, old)
        found.choose()
        plan = replace(
            old,
            target=ctx.target.name,
            precision=self.precision,
            sites=dict(found.sites()),
            intended=frozenset(node.name for node in found.chosen),
            ties=found.ties(),
        )
        return PassResult(len(found.chosen), tuple(found.diagnostics), plan)


class _Placement:
    def __init__(self, graph: ir.Graph, target: Target, precision: str, plan: Plan) -> None:
        self.target = target
        self.activations = target.precisions[precision].quantize != "weights"
        self.weights_alone = not self.activations or isinstance(target.activation.granularity, PerBlock)
        self.kept = set(plan.kept)
        self.dynamic = plan.dynamic if target.ops == OPS[1] else frozenset()
        self.few = target.in_four_bits if plan.four_bits else None
        self.four_bits = plan.four_bits if self.few is not None else frozenset()
        self.outputs = ir.output_tensors(graph)
        self.nodes = [node for _, node in ir.all_nodes(graph)]
        self.outermost = graph.nodes
        self.chosen: dict[ir.Node, Operator] = {}
        self.in_codes: set[ir.Tensor] = set()
        """Tensors that exist only in 8 bits: all their consumers read them through one Q."""
        self.functions: dict[ir.Tensor, Function] = {}
        """Elementwise functions of tensors in codes (case 9)."""
        self.tabulated: set[ir.Tensor] = set()
        """Those that are looked up: there are codes of them for all who want codes, and floats for the others."""
        self.diagnostics: list[Diagnostic] = []

    def choose(self) -> None:
        candidates = {}
        for node in self.nodes:
            if node.name in self.kept:
                continue
            target = self.target_of(node)
            entry = target.operator(node)
            if entry is not None and entry.attention and not in_attention(node):
                continue
            if entry is not None and entry.weight is None and self.weights_alone:
                continue
            reason = why_not(node, entry, target)
            if entry is not None and not reason:
                candidates[node] = entry
            elif reason:
                self.diagnostics.append(Diagnostic(node.name, f"stays in float: {reason}", "refused"))
        for node, entry in candidates.items():
            if entry.heavy:
                self.chosen[node] = entry
                if entry.output == "required":
                    self.in_codes.add(self.result(node))
        for node, entry in candidates.items():
            if entry.shortcut and self.shortcut(node, entry) is not None:
                self.chosen[node] = entry
        for node, entry in candidates.items():
            if node in self.chosen and entry.output == "free" and not self.by_row(node, entry):
                if self.leads_to_codes(self.result(node), candidates):
                    self.in_codes.add(self.result(node))
        for node in self.nodes:  # in order of computation: 8 bits spread forward
            if self.tabulate(node):
                continue
            entry = candidates.get(node)
            if entry is None or entry.shortcut:
                continue
            values = [t for t in activations(node, entry) if not ir.is_constant(t)]
            if not entry.heavy and values and all(self.readable(t) for t in values) and not self.is_factor(node):
                self.chosen[node] = entry
                self.in_codes.update(self.results(node, entry))
        self.drop_dead_ends()
        for node, entry in self.chosen.items():
            if entry.output != "tabulated":
                read = [node.inputs[index] for index in self.read(node, entry)]
                self.in_codes.update(self.tabulated.intersection(read))
        chosen = {node.name for node in self.chosen}
        self.diagnostics = [remark for remark in self.diagnostics if remark.where not in chosen]

    def target_of(self, node: ir.Node) -> Target:
        """As what the node is quantized (case 11)."""
        return self.few if self.few is not None and node.name in self.four_bits else self.target

    def tabulate(self, node: ir.Node) -> bool:
        """Whether the node computes an elementwise function of a tensor in codes (case 9); it is then chosen."""
        if not (self.activations and self.target.tabulates(node.op)) or node.name in self.kept:
            return False
        function = function_of(node, lambda t: Function(t) if t in self.in_codes else self.functions.get(t))
        if function is None or node.outputs[0] in self.in_codes or not is_float(node.outputs[0]):
            return False
        self.functions[node.outputs[0]] = function
        if len(function.nodes) > 1 or not self.is_factor(node):
            read = [index for index, tensor in enumerate(node.inputs) if tensor is function.source]
            self.chosen[node] = Operator(node.op, activations=tuple(read), output="tabulated")
            self.tabulated.add(node.outputs[0])
        return True

    def shortcut(self, node: ir.Node, entry: Operator) -> int | None:
        """Which input of an addition is the shortcut beside a quantized operator's result; None when none is (case 7).
        """
        makers = [ir.producer(tensor) for tensor in node.inputs]
        for index, maker in enumerate(makers):
            beside = node.inputs[1 - index]
            if maker is None or maker.op != entry.shortcut or maker not in self.chosen or ir.is_constant(beside):
                continue
            if len(node.inputs[index].outputs) == 1 and node.inputs[index] not in self.outputs:
                return 1 - index
        return None

    def by_row(self, node: ir.Node, entry: Operator) -> bool:
        """Whether the node makes the codes that it reads, each row by itself (case 10)."""
        four_bits = node.name in self.four_bits
        return entry.dynamic and node.name in self.dynamic and not four_bits and not self.readable(node.inputs[0])

    def read(self, node: ir.Node, entry: Operator) -> list[int]:
        """Indices of the inputs that the node reads in codes that are there."""
        if self.by_row(node, entry) or node.name in self.four_bits:
            return []
        if entry.shortcut:
            index = self.shortcut(node, entry)
            return [] if index is None else [index]
        return indices(node, entry)

    def is_factor(self, node: ir.Node) -> bool:
        """Whether the node only scales a tensor: it vanishes in the DQ before it (case 5)."""
        return scaled(node) is not None and node.outputs[0] not in self.outputs

    def readable(self, tensor: ir.Tensor) -> bool:
        """Whether the tensor is there in codes, as it is or as the factor of a scaled product."""
        node = ir.producer(tensor)
        if tensor in self.in_codes or tensor in self.tabulated or node is None or not self.is_factor(node):
            return tensor in self.in_codes or tensor in self.tabulated
        found = scaled(node)
        return found is not None and found[0] in self.in_codes

    def result(self, node: ir.Node) -> ir.Tensor:
        """What comes out of the node once the Relu or Clip behind it is absorbed."""
        tensor = node.outputs[0]
        while len(tensor.outputs) == 1 and tensor not in self.outputs and self.absorbs(tensor.outputs[0]):
            tensor = tensor.outputs[0].outputs[0]
        return tensor

    def absorbs(self, node: ir.Node) -> bool:
        if node.op not in self.target.absorbed:
            return False
        # A Clip whose lower end is not zero would need a zero point that rounding cannot guarantee.
        return node.op != "Clip" or (clip_bounds(node) or (-1.0, 0.0))[0] == 0.0

    def results(self, node: ir.Node, entry: Operator) -> list[ir.Tensor]:
        """All of a node's quantized results. Only operators that move values have several (Split)."""
        if entry.output != "tied":
            return [self.result(node)]
        return [t for t in (node.outputs if node.op == "Split" else node.outputs[:1]) if t.name]

    def leads_to_codes(self, tensor: ir.Tensor, candidates: dict[ir.Node, Operator]) -> bool:
        """Whether everything that reads ``tensor``, through operators that move values, is worth quantizing itself."""
        if tensor in self.outputs or not tensor.outputs:
            return False
        for node in tensor.outputs:
            entry = candidates.get(node)
            if entry is None or not any(node.inputs[index] is tensor for index in self.read(node, entry)):
                return False
            if not entry.heavy and not entry.shortcut:
                if entry.output != "tied" or len(activations(node, entry)) > 1:
                    return False
                if not all(self.leads_to_codes(t, candidates) for t in self.results(node, entry)):
                    return False
        return True

    def drop_dead_ends(self) -> None:
        """Takes back light operators whose result nobody reads in 8 bits, last ones first."""
        for node in reversed(self.nodes):
            entry = self.chosen.get(node)
            if entry is None or entry.heavy or entry.shortcut:
                continue
            results = node.outputs if entry.output == "tabulated" else self.results(node, entry)
            if not any(self.wanted(t) for t in results):
                del self.chosen[node]
                self.in_codes.difference_update(results)
                self.tabulated.difference_update(results)

    def wanted(self, tensor: ir.Tensor) -> bool:
        for node in tensor.outputs:
            entry = self.chosen.get(node)
            if entry is not None and (
                entry.output == "tabulated" or any(node.inputs[index] is tensor for index in self.read(node, entry))
            ):
                return True
            if self.is_factor(node) and self.wanted(node.outputs[0]):
                return True
        return False

    def sites(self) -> Iterator[tuple[Site, TensorQuant]]:
        plain = TensorQuant(self.target.activation)
        shifted = TensorQuant(replace(self.target.activation, symmetric=False))
        quants = dict.fromkeys(self.shiftable(), shifted)
        for node, entry in self.chosen.items():
            by_row = self.by_row(node, entry)
            if by_row:
                yield Site(node.inputs[0].name, node.name), TensorQuant(BY_ROW, origin="dynamic")
            for index in self.read(node, entry) if self.activations else ():
                tensor = node.inputs[index]
                if tensor in self.in_codes or not self.readable(tensor):
                    yield Site(tensor.name, node.name, index), quants.get(tensor.name, plain)
            for index, scheme in self.target_of(node).weights(entry, node):
                if node.op == "Conv" and is_depthwise(node):  # a kernel that sums in 32 bits
                    scheme = replace(scheme, paired=False)
                yield Site(node.inputs[index].name, node.name, index), TensorQuant(scheme)
            if entry.bias is not None and self.activations and not by_row and node.name not in self.four_bits:
                bias = operand(node, entry.bias)
                per_channel = isinstance(scheme.granularity, PerAxis)
                if bias is not None and ir.is_constant(bias) and bias.values.ndim == 1:
                    granularity = PerAxis(0) if per_channel else PerTensor()
                    scheme = replace(self.target.bias, granularity=granularity)
                    yield Site(bias.name, node.name, entry.bias), TensorQuant(scheme)
        for tensor in self.in_codes - self.tabulated if self.activations else ():
            for node in dict.fromkeys(tensor.outputs):
                for index, read in enumerate(node.inputs):
                    if read is tensor:
                        yield Site(tensor.name, node.name, index), quants.get(tensor.name, plain)
            if tensor in self.outputs:
                yield Site(tensor.name, ""), plain

    def shiftable(self) -> set[str]:
        """Names of the tensors that may have a zero point though the target has none: all that reads them in codes can
        take back what is subtracted before they are rounded (case 12)."""
        scheme = self.target.activation
        if not (self.target.spells_zero_points and scheme.symmetric and scheme.spaced_evenly):
            return set()
        groups: nx.Graph = nx.Graph()
        refused: set[str] = {tensor.name for tensor in self.outputs}
        outermost = set(self.outermost)
        for node, entry in self.chosen.items():
            for index in self.read(node, entry):
                name = node.inputs[index].name
                groups.add_node(name)
                if node not in outermost or not takes_zero_point(node, index) or self.attended(node.inputs[index]):
                    refused.add(name)
        for tie in self.ties():
            nx.add_path(groups, tie)
        return {name for group in nx.connected_components(groups) if not group & refused for name in group}

    def attended(self, tensor: ir.Tensor) -> bool:
        """Whether it is an attention's result: that is one kernel with its Q, if nothing is subtracted in between."""
        node = laid_out(tensor)
        return node is not None and node in self.chosen and self.chosen[node].attention

    def ties(self) -> tuple[frozenset[str], ...]:
        groups: nx.Graph = nx.Graph()
        kept_in = {t: guaranteed(t) for t in self.in_codes}
        for node in self.nodes:  # in order of computation: what a Relu guarantees holds of what moves its values
            entry = self.chosen.get(node)
            if entry is None or entry.output != "tied":
                continue
            members = [t for t in activations(node, entry) if not ir.is_constant(t)]
            ends = [kept_in.get(t, guaranteed(t)) for t in members]
            widest = min(low for low, _ in ends), max(high for _, high in ends)
            tied = [t for t, interval in zip(members, ends) if interval == widest]
            results = self.results(node, entry)
            kept_in.update(dict.fromkeys(results, widest))
            nx.add_path(groups, [t.name for t in (*tied, *results)])
        return tuple(sorted((frozenset(g) for g in nx.connected_components(groups) if len(g) > 1), key=sorted))
