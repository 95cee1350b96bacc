"""What a placement costs in time, predicted from profiles of the model in float and in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler import ir
from qcompiler.calibrate import Statistics
from qcompiler.plan import Plan
from qcompiler.verify.profile import Profile

SECONDS_PER_ELEMENT = 0.35e-9
"""Of a step between codes and float: 0.14 ns for QuantizeLinear or DequantizeLinear with ONNX Runtime 1.32 on one
AVX512 core, the rest for changes of layout that convolutions want on either side. It fits random placements of real
models."""


@dataclass(frozen=True)
class Cost:
    """Seconds of each node in float and in 8 bits, by name, and of one element between codes and float.

    ``makers``: the node that makes each tensor, a Relu or Clip counting as part of what it follows. ``vanishing``:
    nodes that scale or shift by a scalar, which cost nothing behind codes.
    """

    plain: Mapping[str, float]
    coded: Mapping[str, float]
    elements: Mapping[str, float]
    per_element: float
    rest: float
    makers: Mapping[str, str]
    vanishing: frozenset[str]

    def of(self, plan: Plan) -> float:
        """Predicted seconds of a run under the plan."""
        seconds = self.rest + self.per_element * self.crossing(plan)
        for name in set(self.plain) | set(self.coded):
            seconds += self.coded.get(name, 0.0) if name in plan.intended else self.plain.get(name, 0.0)
        return seconds

    def crossing(self, plan: Plan) -> float:
        """Elements a run that change between codes and float."""
        total = 0.0
        for tensor, sites in plan.tensors().items():
            made_in_codes = self.makers.get(tensor, "") in plan.intended
            if any(quant.origin == "dynamic" for quant in sites.values()):  # made by the product itself, in its time
                continue
            read_in_float = any(site.node not in plan.intended and site.node not in self.vanishing for site in sites)
            crossings = (not made_in_codes) + (made_in_codes and read_in_float)
            total += crossings * self.elements.get(tensor, 0.0)
        return total


def cost_of(graph: ir.Graph, plan: Plan, plain: Profile, coded: Profile, statistics: Statistics) -> Cost:
    """From profiles of the float graph and of the plan's lowered one."""
    before, after = plain.by_node(), coded.by_node()
    makers, vanishing = {}, set()
    for _, node in ir.all_nodes(graph):
        for tensor in node.outputs:
            makers[tensor.name] = _computed_by(node).name
        if node.op in ("Mul", "Div", "Add") and any(ir.is_constant(t) and t.values.size == 1 for t in node.inputs):
            vanishing.add(node.name)
    return Cost(
        plain={name: seconds for name, seconds in before.items() if name in plain.names},
        coded={name: seconds for name, seconds in after.items() if name in plan.intended},
        elements={name: seen.finite / max(statistics.samples, 1) for name, seen in statistics.tensors.items()},
        per_element=SECONDS_PER_ELEMENT,
        rest=sum(seconds for name, seconds in before.items() if name not in plain.names),
        makers=makers,
        vanishing=frozenset(vanishing),
    )


def _computed_by(node: ir.Node) -> ir.Node:
    while node.op in ("Relu", "Clip") and (source := ir.producer(node.inputs[0])) is not None:
        node = source
    return node
