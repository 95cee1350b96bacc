"""Products that quantize what they read as they run: placed, told of, tried, and kept where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import weights

import qcompiler
from qcompiler import ir, native, numerics
from qcompiler.compiler import Compilation
from qcompiler.passes.place import Place
from qcompiler.pipeline import PassContext, Pipeline
from qcompiler.plan import Plan, Site
from qcompiler.runtime import Feed, run, session
from qcompiler.search import by_row
from qcompiler.search.budget import Price
from qcompiler.search.cost import Cost
from qcompiler.search.goal import Goal
from qcompiler.search.meet import Meeting, Standing
from qcompiler.search.refine import Candidate, Refiner
from qcompiler.search.sensitivity import contributions
from qcompiler.search.settle import Measured
from qcompiler.target_files import load_target

NATIVE, STANDARD = (load_target("ort-cpu", "vnni").at("int8", ops) for ops in ("native", "standard"))
needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")

NET = "(float[8,32] x) => (float[8,16] y) { t = Neg(x) a = Gemm(t, w, b) n = Tanh(a) y = MatMul(n, v) }"
WEIGHTS = weights(w=(32, 24), b=(24,), v=(24, 16))
BOTH = frozenset({"Gemm_1", "MatMul_3"})


def placed(graph: ir.Graph, dynamic: frozenset[str], native_ops: bool = True) -> Plan:
    target = NATIVE if native_ops else STANDARD
    plan = Pipeline([Place()]).run(graph, PassContext(target, Plan(dynamic=dynamic))).plan
    assert plan is not None
    return plan


def rows_apart(count: int = 6) -> list[Feed]:
    """Rows of very different magnitude: one range for all of them is far too wide for most."""
    random = np.random.default_rng(1)
    scale = np.geomspace(0.01, 10.0, 8)[:, None]
    return [{"x": (random.normal(size=(8, 32)) * scale).astype(np.float32)} for _ in range(count)]


def test_placed_as_the_plan_says() -> None:
    plan = placed(program(NET, WEIGHTS), BOTH)
    assert plan.intended == BOTH and plan.dynamic == BOTH
    origins = {str(site): quant.origin for site, quant in plan.sites.items()}
    assert origins == {"Gemm_1:0": "dynamic", "Gemm_1:1": "unsolved", "MatMul_3:0": "dynamic", "MatMul_3:1": "unsolved"}


def test_standard_operators_have_no_such_form() -> None:
    plan = placed(program(NET, WEIGHTS), BOTH, native_ops=False)
    assert plan.intended == BOTH and all(quant.origin == "unsolved" for quant in plan.sites.values())


def test_what_is_in_codes_anyway_is_read_in_codes() -> None:
    text = "(float[1,3,8,8] x) => (float[1,5] y) { c = Conv(x, k) f = Flatten(c) y = Gemm(f, g, h) }"
    graph = program(text, weights(k=(4, 3, 3, 3), g=(144, 5), h=(5,)))
    ir.infer_shapes(graph)
    plan = placed(graph, frozenset({"Gemm_2"}))
    assert plan.sites[Site("f", "Gemm_2", 0)].origin == "unsolved" and Site("h", "Gemm_2", 2) in plan.sites


def test_a_plan_remembers_them() -> None:
    plan = placed(program(NET, WEIGHTS), BOTH)
    assert Plan.from_json(plan.to_json()) == plan and Plan.from_json(plan.to_json()).dynamic == BOTH


def test_they_make_their_own_codes_in_their_own_time() -> None:
    plan = placed(program(NET, WEIGHTS), BOTH)
    cost = Cost({}, {}, {name: 100.0 for name in "tn"}, 1.0, 0.0, {}, frozenset())
    assert cost.crossing(plan) == 0.0
    assert cost.crossing(placed(program(NET, WEIGHTS), frozenset())) == 200.0


def test_noise_is_told_row_by_row() -> None:
    graph = program(NET, WEIGHTS)
    ir.infer_shapes(graph)
    plan, feeds = placed(graph, BOTH), rows_apart(2)
    trial = {"t": plan.sites[Site("t", "Gemm_1", 0)]}
    told = contributions(graph, plan, [trial], ["a"], feeds)[0]["a"]
    signal = noise = 0.0
    for feed in feeds:
        t = -feed["x"].astype(np.float64)
        low, high = t.min(1, keepdims=True), t.max(1, keepdims=True)
        rounded = np.round((t - low) / (high - low) * 255) / 255 * (high - low) + low
        exact = t @ WEIGHTS["w"] + WEIGHTS["b"]
        signal += np.sum(exact**2)
        noise += np.sum(((rounded - t) @ WEIGHTS["w"]) ** 2)
    assert told == pytest.approx(noise / signal, rel=0.05)


def refiner(monkeypatch: pytest.MonkeyPatch, faster: float, ops: str = "native") -> tuple[Refiner, by_row.Ways]:
    """What comes of trying it where it is so many times as fast."""
    monkeypatch.setattr(Refiner, "ratio", lambda self, base, trial: faster)
    options = qcompiler.Options(ops=ops)
    job = Compilation(program(NET, WEIGHTS), rows_apart(), "ort-cpu", "int8", None, options)
    job.clean()
    plan, statistics = job.decide()
    made = Refiner(job, PassContext(job.target, plan, statistics, job.observers), replayed=False)
    return made, by_row.ways(made, made.fused(made.built(plan)))


@needs_library
def test_kept_where_it_is_more_faithful_and_no_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ways = refiner(monkeypatch, faster=1.0)
    assert ways.best.plan is not None and ways.best.plan.dynamic == ways.best.plan.intended and ways.other is None
    assert set(ways.best.operators) >= {"MatMulInt8"}
    assert all(fate.form == "MatMulInt8" and fate.fused for fate in ways.best.forms.values())
    assert "with ranges from samples, at 1.00x the speed" in ways.best.plan.decisions[-1].reason
    assert made.unsolved(ways.best.plan).dynamic == ways.best.plan.dynamic  # placed again, they are what they were


@needs_library
def test_what_is_slower_is_there_for_a_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ways = refiner(monkeypatch, faster=0.5)
    assert ways.best.plan is not None and not ways.best.plan.dynamic
    assert ways.other is not None and ways.other.plan is not None and ways.other.plan.dynamic


def test_nothing_is_tried_with_standard_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ways = refiner(monkeypatch, faster=2.0, ops="standard")
    assert ways.best.plan is not None and not ways.best.plan.dynamic and ways.other is None


@needs_library
def test_a_goal_may_be_met_by_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ways = refiner(monkeypatch, faster=0.5)
    made.other = ways.other
    meeting = Meeting(made.compilation, made, Goal(min_sqnr=20.0))

    def searched(candidate: Candidate) -> tuple[Standing | None, list[Standing]]:
        standing = Standing(candidate, Measured([], None, 0), Price(), 1.0)
        return (standing if candidate is ways.other else None), [standing]

    monkeypatch.setattr(meeting, "searched", searched)
    assert meeting.met(ways.best).candidate is ways.other


@needs_library
def test_a_sites_own_word_counts_in_a_plan_written_by_hand() -> None:
    graph, feeds = program(NET, WEIGHTS), rows_apart()
    options = qcompiler.Options(ops="native", timing=False, improve="none")
    first = qcompiler.compile(graph, feeds, options=options)
    assert first.plan is not None and "MatMulInt8" not in first.report.operators
    site = next(site for site in first.plan.sites if site.node == "MatMul_3" and site.index == 0)
    changed = replace(first.plan.sites[site], origin="dynamic", scale=None, zero_point=None)
    plan = replace(first.plan, sites={**first.plan.sites, site: changed})
    result = qcompiler.compile(graph, feeds, plan=Plan.from_json(plan.to_json()), options=options)
    assert result.report.operators["MatMulInt8"] == 1


@pytest.mark.parametrize("ops", ["standard", pytest.param("native", marks=needs_library)])
def test_samples_make_dynamic_weights_better(ops: str) -> None:
    random = np.random.default_rng(2)
    made = random.normal(size=(64, 48)).astype(np.float32)
    graph = program("(float[16,64] x) => (float[16,48] y) { t = Identity(x) y = MatMul(t, w) }", {"w": made})
    mixing = random.normal(size=(64, 64)) / 8.0
    feeds = [{"x": (random.normal(size=(16, 64)) @ mixing).astype(np.float32)} for _ in range(24)]
    for feed in feeds:
        feed["x"][:, 3] *= 30.0
    decibels = []
    for data in (None, feeds):
        options = qcompiler.Options(timing=False, ops=ops)
        compiled = qcompiler.compile(graph, data, precision="int8-dynamic", options=options)
        with session(graph) as plain, session(compiled.graph) as own:
            pairs = [(run(plain, feed)[0], run(own, feed)[0]) for feed in feeds]
        decibels.append(numerics.sqnr(*(np.concatenate(side) for side in zip(*pairs))))
    assert decibels[1] > decibels[0] + 2.0
