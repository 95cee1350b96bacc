"""Layer normalization, written out, becomes one node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import ONE, Match, Refusal, Sum, downward, expand, product, rewrite, upward
from qcompiler.passes._normalization import filled, last_axes, made_by, normalized_shape, root_power
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_OPSET = 17


@dataclass(frozen=True)
class RecognizeLayerNorm(Pass):
    """``(x − mean) / sqrt(variance + eps) · gamma + beta`` over the last axes becomes ``LayerNormalization``.

    1. ReduceMean, Sub, Pow(2), ReduceMean, Add, Sqrt, Div, Mul, Add (PyTorch, Paddle), also with a Sub of its own for
       each of its two readers (older PyTorch).
    2. Reciprocal of the Sqrt and Mul for the division, Pow(−0.5) or Pow(0.5) for the root, ``d · d`` for the power.
    3. ``x · (inv · gamma) + (beta − mean · (inv · gamma))`` (TensorFlow by tf2onnx, Keras).
    4. Operands in any order; without beta; a single number for gamma or beta, or factors beside them; without gamma
       where the size of the axis is known.
    5. The last axis or the last several, written as −1 or, where the rank is known, counted from the front; in an
       attribute or in an input.

    Left alone, with the reason: opset below 17; other axes; a gamma or beta that is computed or of another shape, if
    what stands before it cannot be taken alone; a Cast to another type inside; float64, whose mean the node may take
    in float32; patterns of which a part is used elsewhere. RMSNorm, which subtracts no mean, is another function.
    """

    name: ClassVar[str] = "recognize-layernorm"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return rewrite(graph, partial(_attempt, opset=graph.opset, namer=ir.Namer(graph)))


def _attempt(node: ir.Node, opset: int, namer: ir.Namer) -> Iterator[Match | Refusal]:
    """Looks from the square root up to the variance and the mean, and from there down to what is normalized."""
    power = root_power(node)
    if power is None:
        return
    deviation = node.outputs[0]
    inside = [t for t in upward(node.inputs[0]) if made_by(t, "ReduceMean", "Cast")]
    for variance in inside:
        shifted = expand(node.inputs[0], stop={variance})
        if not shifted.terms.keys() <= {product(variance), ONE} or shifted.terms.get(product(variance)) != 1.0:
            continue
        epsilon = shifted.terms.get(ONE, 0.0)
        average = ir.producer(variance)
        assert average is not None
        squares = average.inputs[0]
        within = list(upward(squares))
        if average.op == "Cast" or any(made_by(t, "Cast") for t in within):
            # A Cast changes the precision of a part; the node computes the whole in one.
            if any(made_by(t, "ReduceMean" if average.op == "Cast" else "Sub") for t in within):
                yield Refusal(node.name, "a Cast to another type stands inside what looks like a layer normalization")
            return
        for mean in within:
            if not made_by(mean, "ReduceMean"):
                continue
            centre = ir.producer(mean)
            assert centre is not None
            source = centre.inputs[0]
            spread = expand(squares, stop={source, mean})
            if not spread.equals({product((source, 2)): 1.0, product(source, mean): -2.0, product((mean, 2)): 1.0}):
                continue
            nodes = {node, average, centre} | shifted.nodes | spread.nodes
            axes = last_axes(average, source)
            if opset < _OPSET:
                yield Refusal(node.name, f"LayerNormalization needs opset {_OPSET}, the model has {opset}")
            elif isinstance(axes, str):
                yield Refusal(node.name, axes)
            elif axes != last_axes(centre, source) or epsilon < 0:
                yield Refusal(node.name, "mean and variance are taken over different axes, or epsilon is negative")
            else:
                place = _Place(source, mean, deviation, power, axes, epsilon, namer)
                yield from _roots(node, place, nodes)
            return


@dataclass(frozen=True)
class _Place:
    """Where a normalization stands: ``deviation`` to the ``power`` is one over the standard deviation."""

    source: ir.Tensor
    mean: ir.Tensor
    deviation: ir.Tensor
    power: int
    axes: int
    epsilon: float
    namer: ir.Namer


def _roots(node: ir.Node, place: _Place, nodes: set[ir.Node]) -> Iterator[Match | Refusal]:
    """The tensors that hold a normalized result, the last one, with most of gamma and beta in it, first."""
    reason = ""
    for root in reversed(list(downward(place.deviation))):
        whole = expand(root, stop={place.source, place.mean, place.deviation})
        affine = _gamma_and_beta(whole, place)
        if isinstance(affine, str):
            reason = reason or affine
        elif affine is not None:
            yield Match(root, nodes | whole.nodes, partial(_build, place, *affine))
    if reason:
        yield Refusal(node.name, reason)


def _gamma_and_beta(whole: Sum, place: _Place) -> tuple[np.ndarray, np.ndarray | None] | str | None:
    """What scales and shifts the normalized value; a reason why it can't be had; None where this isn't one."""
    normalized = (place.deviation, place.power)
    gammas = {
        monomial - {(place.source, 1), normalized}
        for monomial in whole.terms
        if {(place.source, 1), normalized} <= monomial
    }
    if len(gammas) != 1:
        return None
    (gamma,) = gammas
    scaled, centre = gamma | product(place.source) | {normalized}, gamma | product(place.mean) | {normalized}
    factor = whole.terms[scaled]
    rest = {monomial: value for monomial, value in whole.terms.items() if monomial not in (scaled, centre)}
    if not whole.close(whole.terms.get(centre, 0.0), -factor) or len(rest) > 1:
        return None
    ((beta, shift),) = rest.items() if rest else ((ONE, 0.0),)
    if len(gamma) > 1 or len(beta) > 1 or any(power != 1 for _, power in (*gamma, *beta)):
        return None
    tensors = [tensor for tensor, _ in (*gamma, *beta)]
    if not all(ir.is_constant(tensor) for tensor in tensors):
        return "gamma or beta is computed, not a constant"
    shape = normalized_shape(tensors, place.source, place.axes)
    if shape is None:
        return f"gamma and beta are not constants of the shape of the last {place.axes} axes"
    dtypes = {t.values.dtype for t in tensors} or {np.dtype(place.source.dtype) if place.source.dtype else None}
    (dtype,) = dtypes if len(dtypes) == 1 else (None,)
    if dtype is None or dtype == np.float64:
        return "its type is unknown" if dtype is None else "float64, which the node need not keep"
    return filled(gamma, factor, shape, dtype), filled(beta, shift, shape, dtype) if rest else None


def _build(place: _Place, gamma: np.ndarray, beta: np.ndarray | None) -> list[ir.Node]:
    inputs = [place.source, ir.Constant(place.namer(f"{place.source.name}_gamma"), gamma)]
    if beta is not None:
        inputs.append(ir.Constant(place.namer(f"{place.source.name}_beta"), beta))
    return [ir.Node("LayerNormalization", attrs={"axis": -place.axes, "epsilon": place.epsilon}, inputs=inputs)]
