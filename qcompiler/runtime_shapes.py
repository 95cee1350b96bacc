"""Shapes behind operators that ONNX knows nothing of: ONNX Runtime infers them for its own."""

from __future__ import annotations

import numpy as np

from qcompiler import ir
from qcompiler.errors import VerificationError
from qcompiler.inspect import STANDARD_DOMAINS
from qcompiler.runtime import session

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}  # fmt: skip

_MADE_UP = "unk__"
"""How ONNX Runtime's own names of sizes begin."""


def learn_shapes(graph: ir.Graph) -> None:
    """Fills in ``dtype`` and ``shape`` of the outermost graph's variables where they are unknown, in place, if the
    graph has operators of other domains. What ONNX Runtime does not know either, or refuses to load without its
    weights, stays as it was: there is less to quantize then, and nothing to say of a model that runs."""
    if all(node.domain in STANDARD_DOMAINS for _, node in ir.all_nodes(graph)):
        return
    skeleton = ir.skeleton(graph)
    returned = {tensor.name for tensor in skeleton.outputs}
    unknown = [
        tensor
        for node in skeleton.nodes
        for tensor in node.outputs
        if tensor.name and tensor.shape is None and tensor.type_proto is None and tensor.name not in returned
    ]
    skeleton.outputs += unknown
    try:
        with session(skeleton, optimize="none") as loaded:
            found = {value.name: (value.shape, value.type) for value in loaded.get_outputs()}
    except VerificationError:
        return
    tensors = ir.all_tensors(graph)
    for tensor in unknown:
        shape, kind = found[tensor.name]
        mine = tensors[tensor.name]
        if not shape or kind not in _TYPES:  # of no axes, or of an unknown number of them
            continue
        mine.shape = [None if str(size).startswith(_MADE_UP) else size for size in shape]
        mine.dtype = np.dtype(_TYPES[kind])
