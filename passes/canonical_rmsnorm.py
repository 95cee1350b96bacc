"""Root mean square normalization takes the form that runtimes have one kernel for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import ONE, Match, Monomial, Refusal, downward, expand, product, rewrite, scalar, upward
from qcompiler.passes._edit import is_float32
from qcompiler.passes._normalization import filled, last_axes, made_by, normalized_shape, root_power
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

CANONICAL = Counter(("Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"))
AXES_AS_INPUT = 18
"""The operator set since which ReduceMean takes its axes as an input."""


@dataclass(frozen=True)
class CanonicalRmsNorm(Pass):
    """``x / sqrt(mean(x²) + eps) · gamma`` over the last axis (Zhang and Sennrich 2019), however it is written, becomes
    Pow, ReduceMean, Add, Sqrt, Div and Mul: of this, and not of other forms, ONNX Runtime 1.32 makes one operator.
    PyTorch's newer exporter writes Reciprocal and Mul for the division, and a model ``x · x`` for the power.

    Operands may be in any order, the division Reciprocal and Mul, or Pow(−0.5), or by Pow(0.5), with a factor beside
    gamma or in its place.

    Left alone: without gamma or epsilon, as no runtime makes one operator of it; with the reason, gamma that is
    computed or has another shape; other axes; types other than float32; patterns of which a part is used elsewhere.
    """

    name: ClassVar[str] = "canonical-rmsnorm"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return rewrite(graph, partial(_attempt, opset=graph.opset, namer=ir.Namer(graph)))


def _attempt(node: ir.Node, opset: int, namer: ir.Namer) -> Iterator[Match | Refusal]:
    power = root_power(node)
    if power is None:
        return
    for mean in upward(node.inputs[0]):
        average = ir.producer(mean)
        if average is None or not made_by(mean, "ReduceMean"):
            continue
        square = ir.producer(average.inputs[0])
        source = _squared(square)
        shifted = expand(node.inputs[0], stop={mean})
        if source is None or square is None or shifted.terms.keys() - {product(mean), ONE}:
            continue
        epsilon = shifted.terms.get(ONE, 0.0)
        if shifted.terms.get(product(mean)) != 1.0 or epsilon <= 0.0:
            continue
        axes = last_axes(average, source)
        if axes != 1 or not is_float32(source):
            reason = axes if isinstance(axes, str) else "it is over several axes, or not in float32"
            yield Refusal(node.name, reason)
            return
        yield from _roots(node, power, source, epsilon, {node, average, square} | shifted.nodes, opset, namer)
        return


def _squared(node: ir.Node | None) -> ir.Tensor | None:
    """What the node squares."""
    if node is None or node.domain or node.op not in ("Mul", "Pow"):
        return None
    base, by = node.inputs
    return base if (base is by if node.op == "Mul" else scalar(by, floating=False) == 2.0) else None


def _roots(
    node: ir.Node, power: int, source: ir.Tensor, epsilon: float, nodes: set[ir.Node], opset: int, namer: ir.Namer
) -> Iterator[Match | Refusal]:
    """The normalized tensors, the last one, with most of gamma in it, first."""
    normalized, reason = product(source, (node.outputs[0], power)), ""
    for root in reversed(list(downward(node.outputs[0]))):
        whole = expand(root, stop={source, node.outputs[0]})
        if len(whole.terms) != 1:
            continue
        ((monomial, factor),) = whole.terms.items()
        gamma = monomial - normalized
        if not normalized <= monomial or len(gamma) > 1 or any(exponent != 1 for _, exponent in gamma):
            continue
        if not gamma and factor == 1.0:
            continue
        tensors = [tensor for tensor, _ in gamma]
        shape = normalized_shape(tensors, source, 1) if all(map(ir.is_constant, tensors)) else None
        if shape is None:
            reason = reason or "gamma is computed, or no constant of the size of the last axis"
        elif gamma and Counter(one.op for one in nodes | whole.nodes) == CANONICAL:
            return
        else:
            yield Match(root, nodes | whole.nodes, partial(_build, source, epsilon, gamma, factor, shape, opset, namer))
    if reason:
        yield Refusal(node.name, reason)


def _build(
    source: ir.Tensor, epsilon: float, gamma: Monomial, factor: float, shape: tuple[int, ...], opset: int,
    namer: ir.Namer,
) -> list[ir.Node]:  # fmt: skip
    made: list[ir.Node] = []

    def add(op: str, hint: str, *inputs: ir.Tensor | np.ndarray, **attributes: Any) -> ir.Variable:
        name = f"{source.name}_{hint}"
        given = [ir.Constant(namer(name), one) if isinstance(one, np.ndarray) else one for one in inputs]
        result = ir.Variable(namer(name), np.dtype(np.float32))
        made.append(ir.Node(op, namer(f"{name}_{op}"), attributes, inputs=given, outputs=[result]))
        return result

    squared = add("Pow", "squared", source, np.array(2.0, np.float32))
    if opset < AXES_AS_INPUT:
        mean = add("ReduceMean", "mean_square", squared, axes=[-1])
    else:
        mean = add("ReduceMean", "mean_square", squared, np.array([-1]))
    root = add("Sqrt", "root", add("Add", "mean_square_and_epsilon", mean, np.array(epsilon, np.float32)))
    scale = filled(gamma, factor, shape, np.dtype(np.float32))
    add("Mul", "normalized", add("Div", "over_root", source, root), np.asarray(scale))
    made[-1].outputs.clear()
    return made
