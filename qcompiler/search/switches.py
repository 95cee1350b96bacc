"""Writes into a float graph both what is rounded and what is not, and a switch for each group of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler import ir, numerics
from qcompiler.plan import Plan, Site, TensorQuant

SWITCH = "qcompiler_switch"
"""The input that says which are on."""


def switched(
    graph: ir.Graph,
    plan: Plan,
    sites: Mapping[str, Sequence[Site]],
    trials: Sequence[Mapping[str, TensorQuant]],
) -> ir.Graph:
    """A copy with the input ``SWITCH``, bool ``[trials]``: with a trial on, the tensors of its representations are
    rounded as these say where the plan's ``sites``, by tensor, read them. The last trial that is on counts."""
    graph = ir.clone(graph)
    namer = ir.Namer(graph)
    nodes = {node.name: node for _, node in ir.all_nodes(graph)}
    tensors = ir.all_tensors(graph)
    switches = ir.Variable(SWITCH, np.dtype(bool), [len(trials)])
    graph.inputs.append(switches)
    choices: dict[str, list[tuple[int, TensorQuant]]] = {}
    for index, trial in enumerate(trials):
        for name, quant in trial.items():
            choices.setdefault(name, []).append((index, quant))
    flags = _Flags(graph, switches, namer)
    chosen: dict[str, ir.Tensor] = {}
    for name, options in choices.items():
        tensor = tensors[name]
        where = graph if ir.is_constant(tensor) else ir.home_of(tensor, graph)
        places = tuple(index for index, _ in options)
        if len(options) > 1 and not ir.is_constant(tensor) and _differ_in_steps([quant for _, quant in options]):
            rounded = _branch(where)
            result = _rounded_as(tensor, options, flags.last_of(places), rounded, namer)
            roundings = [(flags.any_of(places), rounded, result)]
        else:
            roundings = []
            for index, quant in options:
                rounded = _branch(where)
                roundings.append((flags.one(index), rounded, _rounded(tensor, quant, rounded, plan, namer)))
        for flag, rounded, result in roundings:
            chosen[name] = _chosen(flag, rounded, result, chosen.get(name, tensor), where, namer)
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


def _branch(graph: ir.Graph) -> ir.Graph:
    """An empty one, of an If of the graph."""
    return ir.Graph(opset=graph.opset, name="branch")


def _chosen(
    flag: ir.Variable, rounded: ir.Graph, result: ir.Tensor, otherwise: ir.Tensor, where: ir.Graph, namer: ir.Namer
) -> ir.Variable:
    """The ``result`` of the branch ``rounded`` where the flag is on: nothing is rounded in vain."""
    plain = _branch(where)
    for branch, tensor in ((rounded, result), (plain, otherwise)):
        returned = ir.Variable(namer(f"{otherwise.name}_returned"), np.dtype(np.float32), otherwise.shape)
        branch.nodes.append(ir.Node("Identity", namer("return"), inputs=[tensor], outputs=[returned]))
        branch.outputs.append(returned)
    chosen = ir.Variable(namer(f"{otherwise.name}_chosen"), np.dtype(np.float32), otherwise.shape)
    attributes = {"then_branch": rounded, "else_branch": plain}
    where.nodes.append(ir.Node("If", namer("choose"), attributes, inputs=[flag], outputs=[chosen]))
    return chosen


class _Flags:
    """Scalars that tell which switches are on; each is computed once."""

    def __init__(self, graph: ir.Graph, switches: ir.Variable, namer: ir.Namer) -> None:
        self._graph, self._switches, self._namer = graph, switches, namer
        self._made: dict[tuple[str, tuple[int, ...]], ir.Variable] = {}

    def one(self, index: int) -> ir.Variable:
        """Whether it is on: bool."""
        position = self._constant(np.array(index, np.int64))
        return self._once(("one", (index,)), "Gather", bool, [self._switches, position], axis=0)

    def last_of(self, places: tuple[int, ...]) -> ir.Variable:
        """The last of these that is on, as its place among them, -1 where none is: int64."""
        if ("last", places) not in self._made:
            positions = self._constant(np.array(places, np.int64))
            on = self._add("Gather", bool, [len(places)], [self._switches, positions], axis=0)
            order, none = self._constant(np.arange(len(places))), self._constant(np.array(-1, np.int64))
            found = self._add("Where", np.int64, [len(places)], [on, order, none])
            self._once(("last", places), "ReduceMax", np.int64, [found], keepdims=0)
        return self._made["last", places]

    def any_of(self, places: tuple[int, ...]) -> ir.Variable:
        """Whether any of these is on: bool."""
        none = self._constant(np.array(-1, np.int64))
        return self._once(("any", places), "Greater", bool, [self.last_of(places), none])

    def _once(
        self, key: tuple[str, tuple[int, ...]], op: str, dtype: type, inputs: Sequence[ir.Tensor], **attributes: int
    ) -> ir.Variable:
        if key not in self._made:
            self._made[key] = self._add(op, dtype, [], inputs, **attributes)
        return self._made[key]

    def _add(
        self, op: str, dtype: type, shape: list[int], inputs: Sequence[ir.Tensor], **attributes: int
    ) -> ir.Variable:
        result = ir.Variable(self._namer(f"{SWITCH}_{op}"), np.dtype(dtype), shape)
        self._graph.nodes.append(ir.Node(op, self._namer("switch"), attributes, inputs=list(inputs), outputs=[result]))
        return result

    def _constant(self, values: np.ndarray) -> ir.Constant:
        return ir.Constant(self._namer(f"{SWITCH}_constant"), values)


def _differ_in_steps(quants: Sequence[TensorQuant]) -> bool:
    """Whether these are all of one type of 8 bits, with one step for the whole tensor that is known beforehand."""
    types = {quant.scheme.dtype for quant in quants}
    return len(types) == 1 and types <= {"uint8", "int8"} and all(
        quant.scale is not None and quant.scale.ndim == 0 for quant in quants
    )


def _rounded_as(
    tensor: ir.Tensor,
    options: Sequence[tuple[int, TensorQuant]],
    which: ir.Variable,
    where: ir.Graph,
    namer: ir.Namer,
) -> ir.Variable:
    """Rounded by one of the options, of which ``which`` is the place."""
    dtype = np.dtype(options[0][1].scheme.dtype)
    scales = ir.Constant(namer(f"{tensor.name}_scales"), np.array([quant.scale for _, quant in options], np.float32))
    zero_points = ir.Constant(
        namer(f"{tensor.name}_zero_points"), np.array([quant.zero_point for _, quant in options]).astype(dtype)
    )
    scale = ir.Variable(namer(f"{tensor.name}_scale"), np.dtype(np.float32), [])
    zero_point = ir.Variable(namer(f"{tensor.name}_zero_point"), dtype, [])
    for all_of_them, own in ((scales, scale), (zero_points, zero_point)):
        node = ir.Node("Gather", namer("pick"), {"axis": 0}, inputs=[all_of_them, which], outputs=[own])
        where.nodes.append(node)
    return _there_and_back(tensor, scale, zero_point, where, namer)


def _rounded(tensor: ir.Tensor, quant: TensorQuant, where: ir.Graph, plan: Plan, namer: ir.Namer) -> ir.Tensor:
    if quant.origin == "dynamic":
        return _rounded_by_row(tensor, where, namer)
    assert quant.scale is not None and quant.zero_point is not None
    if ir.is_constant(tensor):
        codes = plan.codes(tensor.name, tensor.values, quant)
        return ir.Constant(
            namer(f"{tensor.name}_rounded"), numerics.dequantize(codes, quant.scale, quant.zero_point, quant.scheme)
        )
    scale = ir.Constant(namer(f"{tensor.name}_scale"), quant.scale)
    zero_point = ir.Constant(namer(f"{tensor.name}_zero_point"), quant.zero_point.astype(quant.scheme.dtype))
    return _there_and_back(tensor, scale, zero_point, where, namer)


def _there_and_back(
    tensor: ir.Tensor, scale: ir.Tensor, zero_point: ir.Tensor, where: ir.Graph, namer: ir.Namer
) -> ir.Variable:
    """To codes, and from codes."""
    codes = ir.Variable(namer(f"{tensor.name}_codes"), zero_point.dtype, tensor.shape)
    value = ir.Variable(namer(f"{tensor.name}_rounded"), np.dtype(np.float32), tensor.shape)
    where.nodes.append(ir.Node("QuantizeLinear", namer("round"), inputs=[tensor, scale, zero_point], outputs=[codes]))
    where.nodes.append(
        ir.Node("DequantizeLinear", namer("unround"), inputs=[codes, scale, zero_point], outputs=[value])
    )
    return value


def _rounded_by_row(tensor: ir.Tensor, where: ir.Graph, namer: ir.Namer) -> ir.Tensor:
    """As ``MatMulInt8`` rounds: 255 steps from the smallest value of a row to its largest."""

    def add(op: str, *inputs: ir.Tensor, **attrs: object) -> ir.Variable:
        result = ir.Variable(namer(f"{tensor.name}_{op}"), np.dtype(np.float32))
        where.nodes.append(ir.Node(op, namer(op), attrs, inputs=list(inputs), outputs=[result]))
        return result

    def number(hint: str, value: float) -> ir.Constant:
        return ir.Constant(namer(f"{tensor.name}_{hint}"), np.array(value, np.float32))

    # TopK has had one form since opset 11; reductions take their axes as an attribute up to opset 17, then as an input.
    one = ir.Constant(namer(f"{tensor.name}_one"), np.array([1], np.int64))
    ends = []
    for largest in (0, 1):
        end = ir.Variable(namer(f"{tensor.name}_end"), np.dtype(np.float32))
        index = ir.Variable(namer(f"{tensor.name}_place"), np.dtype(np.int64))
        attrs = {"axis": -1, "largest": largest, "sorted": 0}
        where.nodes.append(ir.Node("TopK", namer("end"), attrs, inputs=[tensor, one], outputs=[end, index]))
        ends.append(end)
    low, high = ends
    step = add("Max", add("Div", add("Sub", high, low), number("codes", 255.0)), number("least", 1e-37))
    rounded = add("Add", add("Mul", add("Round", add("Div", add("Sub", tensor, low), step)), step), low)
    rounded.shape = tensor.shape
    return rounded
