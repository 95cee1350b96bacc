"""HardSigmoid, written out with a clamp, becomes one node."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._algebra import ONE, Match, Refusal, clamp, downward, expand, product, rewrite, upward
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class RecognizeHardSigmoid(Pass):
    """``max(0, min(1, alpha·x + beta))`` becomes ``HardSigmoid(alpha, beta)``.

    1. ``relu6(x + 3) / 6`` or ``· 1/6`` (PyTorch, Keras, Paddle).
    2. ``clip(a·x + b, 0, 1)`` (Keras, TensorFlow); any scale and shift by single numbers before or after the clamp
       that bring the result between 0 and 1.
    3. The clamp may be a Clip with its bounds in attributes or in inputs, Min and Max in either order and with either
       operand first, Relu and Min, or Clip after Relu.

    Left alone: clamps without a shift, which are ReLU6 and its like; patterns of which a part is used elsewhere.
    ONNX Runtime runs one pass over memory for the node, three for the written form: 0.060 against 0.093 ms on 102,400
    values, one thread.
    """

    name: ClassVar[str] = "recognize-hardsigmoid"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return rewrite(graph, _attempt)


def _attempt(node: ir.Node) -> Iterator[Match | Refusal]:
    limits = clamp(node.outputs[0]) if node.op in ("Clip", "Min", "Max", "Relu") else None
    if limits is None:
        return
    clamped = node.outputs[0]
    for root in downward(clamped):
        after = expand(root, stop={clamped})
        scale, shift = after.terms.get(product(clamped), 0.0), after.terms.get(ONE, 0.0)
        tolerance = max(after.tolerance, limits.tolerance)
        if (
            after.terms.keys() <= {product(clamped), ONE}
            and scale > 0
            and math.isclose(limits.low * scale + shift, 0.0, abs_tol=tolerance)
            and math.isclose(limits.high * scale + shift, 1.0, rel_tol=tolerance)
        ):
            break
    else:
        return
    # The farthest source first: it takes the most nodes in. A nearer one does where that one's nodes are shared.
    for source in reversed(list(upward(limits.source))):
        before = expand(limits.source, stop={source})
        slope, offset = before.terms.get(product(source), 0.0), before.terms.get(ONE, 0.0)
        if before.terms.keys() == {product(source), ONE} and offset:
            attributes = {"alpha": slope * scale, "beta": offset * scale + shift}
            yield Match(
                root,
                after.nodes | limits.nodes | before.nodes,
                lambda source=source, attributes=attributes: [  # type: ignore[misc]
                    ir.Node("HardSigmoid", attrs=attributes, inputs=[source])
                ],
            )
