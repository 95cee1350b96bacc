"""Passes that help one model and harm another are kept where the outputs of a few samples gain by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pass_helpers import feed, program
from planned import weights

import qcompiler
from qcompiler import calibrate, ir
from qcompiler.compiler import Compilation
from qcompiler.errors import PlanError
from qcompiler.numerics import sqnr
from qcompiler.pipeline import PassContext, PassResult, RowsPass
from qcompiler.plan import Plan
from qcompiler.runtime import run, session
from qcompiler.search.attempts import attempted
from qcompiler.several import statistics_for

CHAIN = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, w, b) h = Relu(a) d = Conv<group = 8, pads = [1,1,1,1]>(h, v) y = Conv(d, u)
}"""
UNTIMED = qcompiler.Options(timing=False)
AVX2 = replace(UNTIMED, cpu="avx2")  # the same codes wherever the tests run


def even() -> dict[str, np.ndarray]:
    return weights(w=(8, 4, 1, 1), b=(8,), v=(8, 1, 3, 3), u=(4, 8, 1, 1))


def uneven() -> dict[str, np.ndarray]:
    """The first channel between the convolutions reaches a hundred times as far as the others."""
    made = even()
    made["w"][1:] *= 0.01
    made["b"][1:] *= 0.01
    made["u"][:, 1:] *= 100.0
    return made

TWICE = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, w) c = Conv(a, m, b) d = Conv<group = 8>(c, v) y = Conv(d, t)
}"""


def both() -> dict[str, np.ndarray]:
    """Of ``a`` one direction reaches far, which is hardly read, of ``c`` one channel."""
    made = weights(w=(8, 4, 1, 1), m=(8, 8, 1, 1), b=(8,), v=(8, 1, 1, 1), t=(4, 8, 1, 1))
    loud = np.random.default_rng(5).standard_normal(8).astype(np.float32)
    along = loud / np.linalg.norm(loud)
    made["w"][:, 0, 0, 0] += 4.0 * loud
    made["m"] -= np.einsum("oixy,i,j->ojxy", made["m"], along, along)
    made["m"][1:] *= 0.1
    made["b"][1:] *= 0.1
    made["t"][:, 1:] *= 10.0
    return {name: values.astype(np.float32) for name, values in made.items()}


@dataclass(frozen=True)
class Skew(RowsPass):
    """Lets the first channel reach so many ``times`` as far: the same function, and easier to round below one."""

    name: ClassVar[str] = "skew"
    times: float = 1.0

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        return {"h": 1}

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        assert ctx.rows["h"].values.shape[1] == 8 and ctx.plan is not None
        by = np.ones((8, 1, 1, 1), np.float32)
        by[0] = self.times
        convolutions = {node.inputs[1].name: node for node in graph.nodes if node.op == "Conv"}
        maker, reader = convolutions["w"], convolutions["v"]
        maker.inputs[1] = ir.Constant("w_skewed", maker.inputs[1].values * by)
        maker.inputs[2] = ir.Constant("b_skewed", maker.inputs[2].values * by[:, 0, 0, 0])
        reader.inputs[1] = ir.Constant("v_skewed", reader.inputs[1].values / by)
        return PassResult(1, plan=replace(ctx.plan, smoothing={**ctx.plan.smoothing, "w": by[:, 0, 0, 0]}))


def job(constants: dict[str, np.ndarray]) -> tuple[Compilation, PassContext]:
    graph = program(CHAIN, constants)
    made = Compilation(graph, [feed(graph, seed) for seed in range(48)], "ort-cpu", "int8", None, UNTIMED)
    made.clean()
    return made, made.placed(PassContext(made.target, Plan()))


def test_what_helps_is_kept() -> None:
    compilation, ctx = job(uneven())
    before = compilation.graph
    after = attempted(compilation, ctx, [Skew(0.01)])
    assert after.plan is not None and list(after.plan.smoothing) == ["w"] and after.rows is None
    assert [(one.action, one.where) for one in after.plan.decisions] == [("kept", ("skew",))]
    assert compilation.graph is not before
    assert any(tensor.name == "w_skewed" for node in compilation.graph.nodes for tensor in node.inputs)


@pytest.mark.parametrize("times", [1.0, 100.0])
def test_what_does_not_help_leaves_the_graph_as_it_was(times: float) -> None:
    compilation, ctx = job(even())
    before = compilation.graph
    after = attempted(compilation, ctx, [Skew(times)])
    assert after.plan is not None and not after.plan.smoothing
    assert [one.action for one in after.plan.decisions] == ["tried and not kept"]
    assert compilation.graph is before and "dB, and" in after.plan.decisions[0].reason


def test_a_kept_pass_is_repeated_by_the_plan_and_by_the_statistics() -> None:
    graph = program(CHAIN, uneven())
    feeds = [feed(graph, seed) for seed in range(48)]
    found = qcompiler.compile(graph, feeds, options=UNTIMED)
    assert any("equalize-channels" in text and "kept" in text for text in found.report.decisions)
    without = qcompiler.compile(graph, feeds, options=replace(UNTIMED, passes=("-equalize-channels",)))
    assert found.report.sqnr > without.report.sqnr + 3.0

    def weights_of(result: qcompiler.Result) -> list[np.ndarray]:
        return [tensor.values for tensor in ir.all_tensors(result.graph).values() if ir.is_constant(tensor)]

    again = qcompiler.compile(graph, plan=Plan.from_json(found.plan.to_json()), options=UNTIMED)
    assert all(np.array_equal(a, b) for a, b in zip(weights_of(found), weights_of(again), strict=True))
    counted = qcompiler.compile(graph, feeds, statistics=found.statistics, options=UNTIMED)
    assert counted.plan is not None and counted.plan.smoothing.keys() == found.plan.smoothing.keys()
    assert counted.report.sqnr == pytest.approx(found.report.sqnr, abs=0.5)


def test_plans_and_statistics_repeat_passes_that_change_the_same_weights(tmp_path: Path) -> None:
    graph = program(TWICE, both())
    feeds = [feed(graph, seed) for seed in range(48)]
    found = qcompiler.compile(graph, feeds, options=AVX2)
    assert found.plan is not None and found.statistics is not None
    assert {"mix-channels: a", "equalize-channels: c"} <= found.plan.smoothing.keys()
    again = qcompiler.compile(graph, plan=Plan.from_json(found.plan.to_json()), options=AVX2)
    assert again.model.SerializeToString() == found.model.SerializeToString()
    found.statistics.save(tmp_path / "stats.npz")
    earlier = calibrate.Statistics.load(tmp_path / "stats.npz")
    counted = qcompiler.compile(graph, feeds, statistics=earlier, options=AVX2)
    assert counted.plan is not None and counted.plan.smoothing.keys() == found.plan.smoothing.keys()


def test_a_plan_of_another_model_is_refused() -> None:
    plan = Plan(smoothing={"mix-channels: elsewhere": np.eye(8, dtype=np.float32)})
    with pytest.raises(PlanError, match=r"the plan belongs to another model.*no tensor 'elsewhere'"):
        qcompiler.compile(program(TWICE, both()), plan=plan, options=AVX2)


def test_targets_that_share_a_calibration_share_what_was_kept() -> None:
    graph = program(TWICE, both())
    feeds = [feed(graph, seed) for seed in range(48)]
    jobs = [
        Compilation(graph, feeds, target, "int8", None, options)
        for target, options in (("ort-cpu", AVX2), ("tensorrt", UNTIMED))
    ]
    shared = statistics_for(jobs)
    assert {"mix-channels: a", "equalize-channels: c"} <= shared.smoothing.keys()
    for job in jobs:
        job.clean()
        plan, _ = job.decide(shared)
        assert plan.smoothing.keys() >= shared.smoothing.keys()
        with session(graph) as plain, session(job.lowered(plan), optimize="none") as coded:
            assert all(sqnr(*(run(one, values)[0] for one in (plain, coded))) > 20.0 for values in feeds[:4])
