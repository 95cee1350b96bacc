"""How much each quantized part of a model disturbs its outputs, measured without building a model for each.

One float graph holds every quantized tensor twice, plain and rounded, and a switch for each group of them. With one
switch on, the error at the outputs is that group's own; to first order errors of different groups add up in power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir, numerics
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed, run, session

SWITCH = "qcompiler_switch"


def contributions(
    graph: ir.Graph,
    plan: Plan,
    trials: Sequence[Mapping[str, TensorQuant]],
    points: Sequence[str],
    feeds: Sequence[Feed],
) -> list[dict[str, float]]:
    """For each trial, the noise-to-signal power ratio that rounding its tensors, and nothing else, causes at each of
    ``points``, float tensors of the outermost graph.

    ``graph`` is the cleaned float graph of ``plan``, whose sites say where a tensor is read in codes. A tensor may occur
    in several trials, represented differently in each.
    """
    names = list(points)
    switchable = _switched(with_outputs(graph, names), plan, trials)
    off = np.zeros(len(trials), bool)
    with session(switchable) as model:
        noise = [dict.fromkeys(names, 0.0) for _ in trials]
        signal = dict.fromkeys(names, 0.0)
        for feed in feeds:
            plain = run(model, {**feed, SWITCH: off}, names)
            for name, value in zip(names, plain):
                signal[name] += _power(value)
            for index in range(len(trials)):
                on = off.copy()
                on[index] = True
                for name, value, reference in zip(names, run(model, {**feed, SWITCH: on}, names), plain):
                    noise[index][name] += _power(value.astype(np.float64) - reference)
    return [{name: part[name] / signal[name] if signal[name] else 0.0 for name in names} for part in noise]


def with_outputs(graph: ir.Graph, names: Sequence[str]) -> ir.Graph:
    """A copy that returns the named tensors as well."""
    graph = ir.clone(graph)
    tensors = ir.all_tensors(graph)
    returned = {tensor.name for tensor in graph.outputs}
    graph.outputs += [tensors[name] for name in names if name not in returned]
    return graph


def _power(values: np.ndarray) -> float:
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    return float(np.sum(finite * finite))


def _switched(graph: ir.Graph, plan: Plan, trials: Sequence[Mapping[str, TensorQuant]]) -> ir.Graph:
    namer = ir.Namer(graph)
    home = {node: inner for inner, node in ir.all_nodes(graph)}
    nodes = {node.name: node for node in home}
    tensors = ir.all_tensors(graph)
    sites = plan.tensors()
    switches = ir.Variable(SWITCH, np.dtype(bool), [len(trials)])
    graph.inputs.append(switches)
    chosen: dict[str, ir.Tensor] = {}
    for index, trial in enumerate(trials):
        flag = ir.Variable(namer(f"{SWITCH}_{index}"), np.dtype(bool), [])
        position = ir.Constant(namer(f"{SWITCH}_{index}_position"), np.array(index, np.int64))
        graph.nodes.append(ir.Node("Gather", namer("switch"), {"axis": 0}, inputs=[switches, position], outputs=[flag]))
        for name, quant in trial.items():
            tensor = tensors[name]
            where = graph if ir.is_constant(tensor) else _graph_of(tensor, graph, home)
            result = ir.Variable(namer(f"{name}_switched"), np.dtype(np.float32), tensor.shape)
            inputs = [flag, _rounded(tensor, quant, where, namer), chosen.get(name, tensor)]
            where.nodes.append(ir.Node("Where", namer("choose"), inputs=inputs, outputs=[result]))
            chosen[name] = result
    for name, result in chosen.items():
        tensor = tensors[name]
        for site in sites[name]:
            if site.node:
                nodes[site.node].inputs[site.index] = result
                continue
            for inner in ir.all_graphs(graph):
                for index, output in enumerate(inner.outputs):
                    if output is tensor:
                        tensor.name, result.name = namer(f"{name}_plain"), name
                        inner.outputs[index] = result
    ir.sort(graph)
    return graph


def _graph_of(tensor: ir.Variable, graph: ir.Graph, home: Mapping[ir.Node, ir.Graph]) -> ir.Graph:
    node = ir.producer(tensor)
    if node is not None:
        return home[node]
    return next(inner for inner in ir.all_graphs(graph) if any(t is tensor for t in inner.inputs))


def _rounded(tensor: ir.Tensor, quant: TensorQuant, where: ir.Graph, namer: ir.Namer) -> ir.Tensor:
    assert quant.scale is not None and quant.zero_point is not None
    if ir.is_constant(tensor):
        codes = numerics.quantize(tensor.values, quant.scale, quant.zero_point, quant.scheme)
        return ir.Constant(
            namer(f"{tensor.name}_rounded"), numerics.dequantize(codes, quant.scale, quant.zero_point, quant.scheme)
        )
    scale = ir.Constant(namer(f"{tensor.name}_scale"), quant.scale)
    zero_point = ir.Constant(namer(f"{tensor.name}_zero_point"), quant.zero_point.astype(quant.scheme.dtype))
    codes = ir.Variable(namer(f"{tensor.name}_codes"), np.dtype(quant.scheme.dtype), tensor.shape)
    value = ir.Variable(namer(f"{tensor.name}_rounded"), np.dtype(np.float32), tensor.shape)
    where.nodes.append(
        ir.Node("QuantizeLinear", namer("round"), inputs=[tensor, scale, zero_point], outputs=[codes])
    )
    where.nodes.append(
        ir.Node("DequantizeLinear", namer("unround"), inputs=[codes, scale, zero_point], outputs=[value])
    )
    return value
