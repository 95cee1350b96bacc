"""The graph in memory: load, save, clone, and the questions passes ask of it."""

from qcompiler.ir.graph import (
    Computed,
    Constant,
    Graph,
    Namer,
    Node,
    Tensor,
    Variable,
    adopt,
    all_graphs,
    all_nodes,
    all_tensors,
    clone,
    detach,
    home_of,
    is_constant,
    output_tensors,
    producer,
    remove_dead,
    replace_uses,
    reroute,
    sort,
    subgraphs,
)
from qcompiler.ir.load import load
from qcompiler.ir.save import EMBEDDED_LIMIT, save, to_proto, weight_bytes, written_beside
from qcompiler.ir.segments import depths, opening, outer_reads, segments, stages
from qcompiler.ir.shapes import infer_shapes, skeleton
from qcompiler.ir.structure import check_structure

__all__ = [
    "EMBEDDED_LIMIT", "Computed", "Constant", "Graph", "Namer", "Node", "Tensor", "Variable", "adopt", "all_graphs",
    "all_nodes", "all_tensors", "check_structure", "clone", "depths", "detach", "home_of", "infer_shapes",
    "is_constant", "load", "opening", "outer_reads", "output_tensors", "producer", "remove_dead", "replace_uses",
    "reroute", "save", "segments", "skeleton", "sort", "stages", "subgraphs", "to_proto", "weight_bytes",
    "written_beside",
]  # fmt: skip
