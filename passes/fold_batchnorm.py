"""Folds batch normalization into the operator before it, or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler import ir
from qcompiler.passes._linear import (
    LINEAR,
    Refusal,
    WeightEditor,
    fold_chain,
    input_channels,
    normalization,
    output_channels,
    weight,
)
from qcompiler.passes._shape_values import ShapeValues
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds a BatchNormalization that infers, at every depth, into the weight and bias of

    1. a Conv before it, grouped, depthwise, with or without a bias;
    2. a ConvTranspose, grouped too;
    3. a Gemm, its weight transposed or not, whatever its alpha and beta;
    4. a MatMul by a constant with a result of rank 2; an Add of the new bias takes the normalization's place;

    or where there is none of these, of

    5. a Gemm behind it, the only reader: behind an activation, as networks for tables have it.

    Refused, and left as it is: one that trains; parameters that are computed; nothing of the above before it; a
    result of that operator which somebody else reads or which is returned; weights that would overflow their type.
    """

    name: ClassVar[str] = "fold-batchnorm"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        shapes, editor = ShapeValues(graph), WeightEditor(graph)
        returned = ir.output_tensors(graph)
        rewrites = 0
        refused: list[Diagnostic] = []
        for inner in list(ir.all_graphs(graph)):
            for node in list(inner.nodes):
                if node.op != "BatchNormalization" or node.domain:
                    continue
                try:
                    _fold(node, inner, graph.opset, returned, shapes, editor)
                    rewrites += 1
                except Refusal as refusal:
                    if _fold_behind(node, inner, graph.opset, returned, editor):
                        rewrites += 1
                    else:
                        refused.append(Diagnostic(node.name, str(refusal), "refused"))
        return PassResult(rewrites, tuple(refused))


def _fold(
    node: ir.Node, inner: ir.Graph, opset: int, returned: set[ir.Tensor], shapes: ShapeValues, editor: WeightEditor
) -> None:
    scale, shift = normalization(node, opset)
    source = node.inputs[0]
    before = ir.producer(source)
    if before is None or before.domain or before.op not in LINEAR:
        raise Refusal(f"it follows {before.op if before else 'an input'}, not one of {', '.join(LINEAR)}")
    values = weight(before)
    if values is None:
        raise Refusal(f"the weight of '{before.name}' is not constant")
    if len(source.outputs) > 1:
        raise Refusal(f"'{source.name}' has other readers")
    if source in returned:
        raise Refusal(f"'{source.name}' is an output")
    if not any(other is before for other in inner.nodes):
        raise Refusal(f"'{before.name}' is outside of this body")
    if before.op == "MatMul" and len(shapes.dims(source) or []) != 2:
        # The channels of a normalization are on axis 1, those of a MatMul on the last.
        raise Refusal(f"the channels of '{before.name}' may not be on axis 1")
    if scale.size != output_channels(before, values):
        raise Refusal(f"it has {scale.size} channels, '{before.name}' has {output_channels(before, values)}")
    fold_chain(editor, inner, before, [node], scale, shift)


def _fold_behind(
    node: ir.Node, inner: ir.Graph, opset: int, returned: set[ir.Tensor], editor: WeightEditor
) -> bool:
    """Folds the normalization into the operator that reads it, and returns whether that can be."""
    result = node.outputs[0]
    if len(result.outputs) != 1 or result in returned:
        return False
    (reader,) = result.outputs
    values = weight(reader)
    if values is None or reader.op != "Gemm" or reader.inputs[0] is not result:
        return False
    if reader.attrs.get("transA", 0) or not any(other is reader for other in inner.nodes):
        return False
    try:
        scale, shift = normalization(node, opset)
        if scale.size != input_channels(reader, values):
            return False
        editor.before(reader, scale, shift)
    except Refusal:
        return False
    reader.inputs[0] = node.inputs[0]
    ir.detach(node)
    inner.nodes[:] = [other for other in inner.nodes if other is not node]
    return True
