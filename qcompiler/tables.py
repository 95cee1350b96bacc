"""Which nodes each table of a compiled model stands for: noted in the model's metadata by whoever makes the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from qcompiler import ir
from qcompiler.pipeline import Diagnostic

OPERATOR = "TableLookup"
PRODUCT = "TableLookup2"
DOMAIN = "qcompiler"
KEY = "qcompiler.tables"
MAKER = "fuse-tables"
"""The pass that makes the tables."""


def tables_of(graph: ir.Graph) -> dict[str, list[str]]:
    """For each TableLookup of the graph, by name, the nodes that it stands for, in order of computation; nothing where
    the note is missing or no longer readable."""
    try:
        noted = json.loads(graph.metadata.get(KEY, "{}"))
    except json.JSONDecodeError:
        return {}
    if not isinstance(noted, dict):
        return {}
    lookups = [node.name for _, node in ir.all_nodes(graph) if node.op == OPERATOR and node.domain == DOMAIN]
    found = {name: noted.get(name) for name in lookups}
    return {name: [str(one) for one in nodes] for name, nodes in found.items() if isinstance(nodes, list)}


def note(graph: ir.Graph, tables: Mapping[str, Sequence[str]]) -> None:
    """Writes down the nodes of more tables."""
    noted = {**tables_of(graph), **{name: list(nodes) for name, nodes in tables.items()}}
    graph.metadata[KEY] = json.dumps(noted)


def refusals(remarks: Iterable[Diagnostic]) -> dict[str, str]:
    """Why nodes are part of no table, by name, as far as the maker of the tables said so."""
    return {one.where: one.message for one in remarks if (one.source, one.severity) == (MAKER, "refused")}
