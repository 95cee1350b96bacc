"""What is the same in every turn of a loop is taken out of its body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.inspect import STANDARD_DOMAINS
from qcompiler.passes._edit import bypass, constant, integers
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

UNFAILING = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "Concat", "Conv", "Cos", "Div", "Erf", "Exp", "Gelu", "Gemm", "HardSigmoid"),
        *("HardSwish", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Max", "Min", "Mul", "Neg"),
        *("Pow", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Shape", "Sigmoid", "Sin", "Slice", "Softmax"),
        *("Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"),
    }
)
"""Operators that no value makes fail: a loop may have no turn at all, in which they would not have run."""
FIRST_STATE = 2
"""Inputs of Loop, and of its body, before those that go round."""


@dataclass(frozen=True)
class HoistInvariants(Pass):
    """What goes round a Loop unchanged, and what is computed in its body or a Scan's of nothing that changes, is taken
    out: an exporter that carries all of a loop's tensors along (Paddle's, TensorFlow's) hides its weights from
    everything that looks for constants, and lays them out anew in every turn.

    1. A state that the body returns as it was given: the body reads the initial value, and so does who reads the last.
    2. A state that is returned by way of operators that change nothing, as Paddle writes assignments (Unsqueeze, Add of
       zero, Squeeze): it is returned itself.
    3. Operators of a body that read nothing from inside it: they run once, before the loop. Only those that no value
       makes fail, as the loop may have no turn.

    An Add of +0.0 turns -0.0 into 0.0, which 2. does not.
    """

    name: ClassVar[str] = "hoist-invariants"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for outer, node in reversed(list(ir.all_nodes(graph))):  # from the inside out
            if node.op not in ("Loop", "Scan") or node.domain not in STANDARD_DOMAINS:
                continue
            bodies = ir.subgraphs(node)
            if len(bodies) != 1:  # no runtime takes it, and says so
                continue
            (body,) = bodies
            if node.op == "Loop":
                rewrites += _unassigned(node, body) + _unchanged(node, body, graph, outer, namer)
            ir.remove_dead(graph)
            rewrites += _hoisted(body, outer)
        if rewrites:
            ir.sort(graph)
            ir.infer_shapes(graph)
        return PassResult(rewrites)


def _unassigned(loop: ir.Node, body: ir.Graph) -> int:
    """Makes the body return states themselves; how many."""
    count = 0
    for place in range(_states(loop, body)):
        returned = body.outputs[place + 1]
        source = _source(returned)
        given = any(source is tensor for tensor in body.inputs)
        own = any(ir.producer(source) is node for node in body.nodes) and source not in body.outputs
        if source is not returned and (own or (given and source is body.inputs[FIRST_STATE + place])):
            body.outputs[place + 1] = source
            count += 1
    return count


def _source(tensor: ir.Tensor) -> ir.Tensor:
    """The tensor that this one equals, as far as the operators between are seen to change nothing."""
    node = ir.producer(tensor)
    if node is None or node.domain not in STANDARD_DOMAINS:
        return tensor
    if node.op == "Identity":
        return _source(node.inputs[0])
    if node.op == "Squeeze":
        inner, axes = node.inputs[0], integers(node, "axes", 1)
        added = ir.producer(inner)
        if added is not None and added.op == "Add" and not added.domain:
            inner = _without_zero(added) or inner
        put = ir.producer(inner)
        if put is not None and put.op == "Unsqueeze" and axes is not None and integers(put, "axes", 1) == axes:
            return _source(put.inputs[0])
    return tensor


def _without_zero(node: ir.Node) -> ir.Tensor | None:
    """What a zero is added to; it has one axis at least, as an Unsqueeze makes it."""
    for tensor, other in (node.inputs, reversed(node.inputs)):
        zero = constant(other)
        if zero is not None and zero.size == 1 and zero.ndim <= 1 and not np.any(zero):
            return tensor
    return None


def _states(loop: ir.Node, body: ir.Graph) -> int:
    return min(len(loop.inputs) - FIRST_STATE, len(body.inputs) - FIRST_STATE, len(body.outputs) - 1, len(loop.outputs))


def _unchanged(loop: ir.Node, body: ir.Graph, graph: ir.Graph, outer: ir.Graph, namer: ir.Namer) -> int:
    """Takes states out that never change; how many."""
    count = 0
    for place in reversed(range(_states(loop, body))):
        initial, given, last = loop.inputs[FIRST_STATE + place], body.inputs[FIRST_STATE + place], loop.outputs[place]
        if sum(given is tensor for tensor in body.outputs) != 1 or body.outputs[place + 1] is not given:
            continue
        bypassed = not last.name or bypass(loop, initial, outer, graph, place)
        del body.inputs[FIRST_STATE + place], body.outputs[place + 1]
        del loop.inputs[FIRST_STATE + place], loop.outputs[place]
        ir.replace_uses(given, initial, graph)
        if not bypassed:
            outer.nodes.append(ir.Node("Identity", namer(f"{last.name}_unchanged"), inputs=[initial], outputs=[last]))
        count += 1
    return count


def _hoisted(body: ir.Graph, outer: ir.Graph) -> int:
    """Moves nodes of the body in front of it; how many."""
    inside = {*body.inputs, *(tensor for node in body.nodes for tensor in node.outputs)}
    count = 0
    for node in list(body.nodes):
        fixed = not any(tensor in inside for tensor in node.inputs)
        computed = any(tensor.name and not ir.is_constant(tensor) for tensor in node.inputs)  # else it will be folded
        returned = any(tensor in body.outputs for tensor in node.outputs)
        if fixed and computed and not returned and node.op in UNFAILING and node.domain in STANDARD_DOMAINS:
            body.nodes.remove(node)
            outer.nodes.append(node)
            inside.difference_update(node.outputs)
            count += 1
    return count
