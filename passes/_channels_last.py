"""Nodes of four axes whose channels come last, as ONNX Runtime lays codes out beside convolutions."""

from __future__ import annotations

from qcompiler import ir

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Of four axes: how the channels come last, and how they come back."""


def turn(graph: ir.Graph, node: ir.Node, inputs: int, namer: ir.Namer) -> None:
    """Puts a Transpose before each of the node's first ``inputs`` inputs and behind its output, so that it reads and
    writes with the channels last. ONNX Runtime cancels those that meet its own."""
    result = node.outputs[0]
    moves = []
    for index, source in enumerate(node.inputs[:inputs]):
        node.inputs[index] = ir.Variable(namer(f"{node.name}_channels_last"), source.dtype)
        moves.append((LAST, source, node.inputs[index]))
    written = node.outputs[0] = ir.Variable(namer(f"{result.name}_channels_last"), result.dtype, [None] * 4)
    moves.append((FIRST, written, result))
    for permutation, before, after in moves:
        name = namer(f"{after.name}_Transpose")
        graph.nodes.append(ir.Node("Transpose", name, {"perm": list(permutation)}, inputs=[before], outputs=[after]))
