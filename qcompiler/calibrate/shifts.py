"""By how much rounding shifts the mean of what nodes compute, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir
from qcompiler.runtime import Feed, run, session, side_by_side

_MEAN, _SHIFT = "qcompiler_mean", "qcompiler_shift"
_AXES_ARE_AN_INPUT = 18
"""The opset from which on ReduceMean takes its axes so."""


def mean_shifts(
    plain: ir.Graph,
    coded: ir.Graph,
    ranks: Mapping[str, int],
    feeds: Sequence[Feed],
    *,
    optimize: str = "all",
    told: dict[str, list[np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """The plain graph's mean less the coded one's, float32 ``[samples, C]``, of each tensor of the outermost graphs
    that ``ranks`` names with its number of axes; channels are axis 1.

    Each is told alone: while the coded graph runs, every one of these tensors is moved to the mean that it has in the
    plain graph on the same sample before it is read. Tensors that one of the graphs does not compute are left out.
    ``optimize``: how far ONNX Runtime may rewrite the coded graph. ``told``: means in the plain graph of each feed that
    are known from an earlier call; those that this one had to tell are added.
    """
    told = {} if told is None else told
    known = {tensor.name for node in coded.nodes for tensor in node.outputs}
    names = [name for name in ranks if name in known & {t.name for node in plain.nodes for t in node.outputs}]
    if not names:
        return {}
    means, shifts = ([f"{what}_{index}" for index in range(len(names))] for what in (_MEAN, _SHIFT))
    unknown = [name for name in names if name not in told]
    if unknown:
        found = _outputs(_with_means(plain, unknown, ranks), means[: len(unknown)], feeds)
        told.update((name, [values[index] for values in found]) for index, name in enumerate(unknown))
    given = [
        {**feed, **{mean: told[name][index] for mean, name in zip(means, names)}} for index, feed in enumerate(feeds)
    ]
    found = _outputs(_with_shifts(coded, names, ranks), shifts, given, optimize)
    return {
        name: np.stack([values[index].mean(axis=0).reshape(-1) for values in found])
        for index, name in enumerate(names)
    }


def _outputs(
    graph: ir.Graph, names: Sequence[str], feeds: Sequence[Feed], optimize: str = "all"
) -> list[list[np.ndarray]]:
    """The named outputs for each feed; means are taken promptly, so that what they are of need not be kept."""
    with session(graph, optimize=optimize, prompt=True) as model:
        return list(side_by_side(lambda feed: run(model, feed, names), feeds))


def _with_means(graph: ir.Graph, names: Sequence[str], ranks: Mapping[str, int]) -> ir.Graph:
    graph = ir.clone(graph)
    namer, tensors = ir.Namer(graph), ir.all_tensors(graph)
    for index, name in enumerate(names):
        mean = _mean(graph, tensors[name], ranks[name], namer)
        mean.name = f"{_MEAN}_{index}"
        graph.outputs.append(mean)
    ir.sort(graph)
    return graph


def _with_shifts(graph: ir.Graph, names: Sequence[str], ranks: Mapping[str, int]) -> ir.Graph:
    graph = ir.clone(graph)
    namer, tensors = ir.Namer(graph), ir.all_tensors(graph)
    for index, name in enumerate(names):
        tensor = tensors[name]
        readers = list(dict.fromkeys(tensor.outputs))
        wanted = ir.Variable(f"{_MEAN}_{index}", np.dtype(np.float32), _shape(ranks[name]))
        shift = ir.Variable(f"{_SHIFT}_{index}", np.dtype(np.float32), _shape(ranks[name]))
        moved = ir.Variable(namer(f"{name}_moved"), np.dtype(np.float32), tensor.shape)
        mean = _mean(graph, tensor, ranks[name], namer)
        graph.nodes.append(ir.Node("Sub", namer("shift"), inputs=[wanted, mean], outputs=[shift]))
        for reader in readers:
            reader.inputs = [moved if read is tensor else read for read in reader.inputs]
        graph.nodes.append(ir.Node("Add", namer("move"), inputs=[tensor, shift], outputs=[moved]))
        graph.inputs.append(wanted)
        graph.outputs.append(shift)
    ir.sort(graph)
    return graph


def _shape(rank: int) -> list[int | str | None]:
    return [None, None, *([1] * (rank - 2))]


def _mean(graph: ir.Graph, tensor: ir.Tensor, rank: int, namer: ir.Namer) -> ir.Variable:
    """Of each channel of each image, or of all rows of a matrix."""
    axes = list(range(2, rank)) or [0]
    mean = ir.Variable(namer(f"{tensor.name}_mean"), np.dtype(np.float32), _shape(rank))
    inputs: list[ir.Tensor] = [tensor]
    attributes: dict[str, int | list[int]] = {"keepdims": 1}
    if graph.opset < _AXES_ARE_AN_INPUT:
        attributes["axes"] = axes
    else:
        inputs.append(ir.Constant(namer("axes"), np.array(axes, np.int64)))
    graph.nodes.append(ir.Node("ReduceMean", namer("mean"), attributes, inputs=inputs, outputs=[mean]))
    return mean
