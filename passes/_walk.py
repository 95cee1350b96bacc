"""The way up through nodes that compute for one reader alone."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler import ir

_OPERANDS = {"Add": 2, "Div": 2, "MatMul": 2, "Mul": 2, "Reshape": 2}
"""Inputs without which no runtime takes an operator, where that is more than one."""


class Walk:
    """Upwards from a tensor, along nodes whose results nobody else reads. ``tensor``: where it is; None where it has
    lost its way. ``passed``: the nodes, the last one first."""

    def __init__(self, tensor: ir.Tensor, returned: set[ir.Tensor]) -> None:
        self.tensor: ir.Tensor | None = tensor
        self.returned = returned
        self.passed: list[ir.Node] = []

    def up(self, ops: Sequence[str], index: int = 0) -> ir.Node | None:
        """The node that makes the tensor, if it is one of these, from whose input ``index`` the walk goes on."""
        tensor, self.tensor = self.tensor, None
        node = None if tensor is None else ir.producer(tensor)
        if tensor is None or node is None or node.domain or node.op not in ops:
            return None
        if len(node.inputs) < max(_OPERANDS.get(node.op, 1), index + 1):
            return None
        if len(tensor.outputs) != 1 or tensor in self.returned:
            return None
        self.tensor = node.inputs[index]
        self.passed.append(node)
        return node
