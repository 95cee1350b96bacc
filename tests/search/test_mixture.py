"""A plan as a problem: its prices are those of the plans that placement makes of its choices."""

from __future__ import annotations

import random

import pytest
from pass_helpers import program
from planned import TARGET, placed, solved, weights

from qcompiler import ir
from qcompiler.passes.halve_weights import HalveWeights
from qcompiler.plan import Plan
from qcompiler.search.cost import Cost
from qcompiler.search.mixture import CODES, FLOAT, FOUR_BITS, HALVED, LEAST_HALVED, FourBits, mixture

NETS = {
    "convolutions": """(float[1,8,12,12] x) => (float[1,8,6,6] y) {
        a = Conv(x, w) b = Relu(a) s = Sigmoid(b) m = Mul(b, s) c = Conv(m, v) t = Tanh(c) y = Conv(t, u)
    }""",
    "a residual": """(float[1,8,12,12] x) => (float[1,8,8,8] y) {
        a = Conv(x, w) b = Conv(a, v1) c = Add(a, b) y = Conv(c, u)
    }""",
    "products": """(float[4,16] x) => (float[4,16] y) {
        a = MatMul(x, p) b = MatMul(x, q) s = Add(a, b) n = Neg(s) y = MatMul(n, r)
    }""",
}
CONSTANTS = weights(
    w=(8, 8, 3, 3), v=(8, 8, 3, 3), u=(8, 8, 3, 3), v1=(8, 8, 1, 1), p=(16, 16), q=(16, 16), r=(16, 16)
)


def priced(text: str) -> tuple[ir.Graph, Plan, dict[str, float], Cost]:
    """The graph and its plan, with made-up noise and times."""
    graph = program(text, {name: value for name, value in CONSTANTS.items() if f" {name})" in text})
    ir.infer_shapes(graph)
    plan = solved(graph)
    noise = {name: 1.0 + index for index, name in enumerate(plan.tensors())}
    nodes = [node for _, node in ir.all_nodes(graph)]
    makers = {tensor.name: node.name for node in nodes for tensor in node.outputs}
    for node in nodes:
        if node.op == "Relu":
            makers[node.outputs[0].name] = makers[node.inputs[0].name]
    cost = Cost(
        plain={node.name: 10.0 + index for index, node in enumerate(nodes)},
        coded={name: 3.0 for name in plan.intended},
        elements={name: 100.0 for name in plan.tensors() if name not in CONSTANTS},
        per_element=0.01,
        rest=5.0,
        makers=makers,
        vanishing=frozenset(),
    )
    return graph, plan, noise, cost


@pytest.mark.parametrize("name", NETS)
def test_prices_are_those_of_placed_plans(name: str) -> None:
    """Where placement leaves nothing in float but what is asked for; it also drops light operators whose results nobody
    wants in codes, which no price tells."""
    graph, plan, noise, cost = priced(NETS[name])
    found = mixture(graph, plan, noise, cost, TARGET)
    source = random.Random(1)
    told = 0
    for _ in range(40):
        picks = {site: source.choice((FLOAT, CODES)) for site in found.sites}
        trial = placed(graph, dict.fromkeys(found.kept(picks), ""))
        if trial.intended != plan.intended - set(found.kept(picks)):
            continue
        told += 1
        price = found.problem.price(picks)
        assert price.seconds == pytest.approx(cost.of(trial))
        assert price.error == pytest.approx(sum(noise[tensor] for tensor in trial.tensors()))
    assert told >= 5


def test_all_in_codes_is_the_plan_itself() -> None:
    graph, plan, noise, cost = priced(NETS["convolutions"])
    found = mixture(graph, plan, noise, cost, TARGET)
    assert found.kept(found.quantized) == []
    assert found.problem.price(found.quantized).seconds == pytest.approx(cost.of(plan))
    everything = found.problem.price(dict.fromkeys(found.sites, FLOAT))
    assert everything.error == 0.0
    assert everything.bytes == ir.weight_bytes(graph)


def test_bytes_are_those_of_weights() -> None:
    graph, plan, noise, cost = priced(NETS["products"])
    found = mixture(graph, plan, noise, cost, TARGET)
    smaller = found.problem.best("bytes")
    assert smaller == found.quantized
    assert found.problem.price(smaller).bytes < 0.5 * ir.weight_bytes(graph)


def test_four_bits_are_priced_as_they_measure() -> None:
    """And what their product reads and returns is float, which is to be converted where neighbours have codes."""
    graph, plan, noise, cost = priced(NETS["products"])
    few = FourBits({"MatMul_0": 2.0}, {"p": 50.0}, {"p": 200.0})
    found = mixture(graph, plan, noise, cost, TARGET, few)
    chosen = {**found.quantized, "MatMul_0": FOUR_BITS}
    assert found.four_bits(chosen) == {"MatMul_0"} and found.kept(chosen) == []
    price, plain = (found.problem.price({**chosen, "MatMul_0": way}) for way in (FOUR_BITS, FLOAT))
    assert price.error - plain.error == pytest.approx(50.0)
    assert price.seconds - plain.seconds == pytest.approx(2.0 - cost.plain["MatMul_0"])
    assert price.bytes - plain.bytes == pytest.approx(200.0 - 4 * 16 * 16)
    assert found.problem.best("bytes") == chosen
    assert FOUR_BITS not in found.problem.best("error").values()  # type: ignore[union-attr]


def test_weights_left_in_float_are_stored_in_half_where_others_are_not() -> None:
    big = {**weights(p=(64, 64), q=(64, 64), r=(64, 64))}
    graph = program(NETS["products"].replace("16", "64"), big)
    ir.infer_shapes(graph)
    plan = solved(graph)
    cost = Cost({}, {}, {}, 0.0, 0.0, {t.name: n.name for n in graph.nodes for t in n.outputs}, frozenset())
    problem = mixture(graph, plan, {}, cost, TARGET).problem
    everything = dict.fromkeys(problem.choices, FLOAT)
    assert problem.price(everything).bytes == ir.weight_bytes(graph)
    one = problem.price({**everything, "MatMul_0": CODES}).bytes
    assert 2 * 2 * 64 * 64 < one < 2 * 2 * 64 * 64 + 64 * 64 + 1000
    assert (HalveWeights.name, HalveWeights.least_weights) == (HALVED, LEAST_HALVED)
