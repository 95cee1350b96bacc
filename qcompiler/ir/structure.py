"""What must hold of a graph between any two passes."""

from __future__ import annotations

from qcompiler.errors import ModelError
from qcompiler.ir.graph import Constant, Graph, Tensor, subgraphs


def check_structure(graph: Graph) -> None:
    """Raises ModelError at the first violation: a dangling input, a name used twice, a tensor with two producers.

    Cycles are found by ``sort``.
    """
    owners: dict[str, Tensor] = {}
    node_names: set[str] = set()
    _check(graph, set(), owners, node_names)


def _check(graph: Graph, visible: set[Tensor], owners: dict[str, Tensor], node_names: set[str]) -> None:
    here = visible | set(graph.inputs)
    for node in graph.nodes:
        if not node.name or node.name in node_names:
            raise ModelError(f"node name '{node.name}' is {'used twice' if node.name else 'empty'}", where=node.op)
        node_names.add(node.name)
        for tensor in node.outputs:
            if not tensor.name:
                continue
            if isinstance(tensor, Constant):
                raise ModelError(f"constant '{tensor.name}' is written", where=f"node '{node.name}'")
            if tensor in here:
                raise ModelError(f"tensor '{tensor.name}' is computed twice", where=f"node '{node.name}'")
            here.add(tensor)
    for tensor in here - visible:
        _own(tensor, owners, f"graph '{graph.name}'")
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.name and not isinstance(tensor, Constant) and tensor not in here:
                raise ModelError(f"input '{tensor.name}' is never computed", where=f"node '{node.name}'")
            if isinstance(tensor, Constant):
                _own(tensor, owners, f"node '{node.name}'")
        for inner in subgraphs(node):
            _check(inner, here, owners, node_names)
    for tensor in graph.outputs:
        if isinstance(tensor, Constant):
            _own(tensor, owners, f"graph '{graph.name}'")
        elif tensor not in here:
            raise ModelError(f"output '{tensor.name}' is never computed", where=f"graph '{graph.name}'")


def _own(tensor: Tensor, owners: dict[str, Tensor], where: str) -> None:
    if owners.setdefault(tensor.name, tensor) is not tensor:
        raise ModelError(f"two tensors are called '{tensor.name}'", where=where)
