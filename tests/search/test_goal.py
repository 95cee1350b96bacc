"""Goals: what is said of them, and models that are compiled to meet one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pass_helpers import program
from planned import weights

import qcompiler
from qcompiler import ir
from qcompiler.errors import DataError, MetricError, RecipeError, TargetError, VerificationError
from qcompiler.metrics import Drop
from qcompiler.plan import Plan
from qcompiler.search.goal import Goal, budgets
from qcompiler.search.meet import _up

LAYERS = 5


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were a machine with VNNI: what can be met is then the same everywhere."""
    monkeypatch.setattr("qcompiler.target_files.detect_cpu", lambda: "vnni")


def net(rows: int = 64, width: int = 256) -> ir.Graph:
    """Products large enough that 8 bits pay, with operators between them that stay in float."""
    steps, read = [], "x"
    for index in range(LAYERS):
        steps.append(f"m{index} = MatMul({read}, w{index}) t{index} = Tanh(m{index})")
        read = f"t{index}"
    shape = f"float[{rows},{width}]"
    text = f"({shape} x) => ({shape} y) {{ {' '.join(steps)} y = MatMul({read}, out) }}"
    shapes = {f"w{index}": (width, width) for index in range(LAYERS)}
    return program(text, {name: 0.05 * values for name, values in weights(**shapes, out=(width, width)).items()})


def samples(rows: int = 64, width: int = 256) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(rows, width)).astype(np.float32)} for _ in range(6)]


def compiled(goal: Goal, **options: object) -> qcompiler.Result:
    chosen = qcompiler.Options(cpu="vnni", goal=goal, **options)  # type: ignore[arg-type]
    return qcompiler.compile(net(), samples(), options=chosen)


def test_budgets() -> None:
    assert budgets(["latency=0.5x", "size=0.3"]) == {"latency": 0.5, "size": 0.3}
    for text in ("latency", "speed=2x", "size=big", "size=-1x", "latency=nan"):
        with pytest.raises(ValueError, match="is no budget"):
            budgets([text])
    with pytest.raises(ValueError, match="two budgets of size"):
        budgets(["size=0.3x", "size=0.4x"])


def test_a_goal_reads_as_its_options() -> None:
    goal = Goal(25.0, Drop.parse("0.5%"), "top-1", latency=0.5)
    assert str(goal) == "--min-sqnr 25 --max-drop 0.5% of top-1 --budget latency=0.5x"
    assert goal.keeps and not Goal(size=0.3).keeps


@pytest.mark.parametrize(("amount", "said"), [(0.00123, 0.0013), (0.9, 0.9), (12.31, 13.0), (0.0, 0.0)])
def test_what_it_would_take_is_enough(amount: float, said: float) -> None:
    assert _up(amount) == said


def test_decibels_are_kept() -> None:
    plain = compiled(Goal(min_sqnr=5.0))
    assert plain.plan is not None and len(plain.plan.intended) == LAYERS + 1
    wanted = plain.report.sqnr + 3.0
    better = compiled(Goal(min_sqnr=wanted))
    assert better.plan is not None and better.report.sqnr >= wanted
    assert 0 < len(better.plan.intended) < LAYERS + 1
    assert any(f"to meet --min-sqnr {wanted:g}" in decision for decision in better.report.decisions)
    assert len(better.report.front) >= 2 and all(point.sqnr_measured is not None for point in better.report.front)


def test_a_size_is_kept() -> None:
    found = compiled(Goal(size=0.4))
    assert found.report.compiled_bytes <= 0.4 * found.report.source_bytes
    assert found.plan is not None and 0 < len(found.plan.intended) < LAYERS + 1


def test_what_eight_bits_are_too_many_for_has_four_in_places() -> None:
    few_rows = (4, 768)  # with many, the runtime's product with four bits is slower than in float on some processors
    chosen = qcompiler.Options(cpu="vnni", goal=Goal(size=0.2))
    found = qcompiler.compile(net(*few_rows), samples(*few_rows), options=chosen)
    assert found.report.compiled_bytes <= 0.2 * found.report.source_bytes
    precisions = [node.precision for node in found.report.nodes if node.op == "MatMul"]
    assert found.plan is not None and 0 < precisions.count("int4") == len(found.plan.four_bits) < LAYERS + 1
    assert any("given weights of four bits" in decision for decision in found.report.decisions)
    again = qcompiler.compile(net(*few_rows), samples(*few_rows), plan=Plan.from_json(found.plan.to_json()))
    assert again.model.SerializeToString(deterministic=True) == found.model.SerializeToString(deterministic=True)


def test_convolutions_have_no_four_bits() -> None:
    graph = program("(float[1,16,24,24] x) => (float y) { a = Conv(x, v) t = Tanh(a) y = Conv(t, w) }",
                    weights(v=(64, 16, 3, 3), w=(64, 64, 3, 3)))  # fmt: skip
    random = np.random.default_rng(0)
    data = [{"x": random.normal(size=(1, 16, 24, 24)).astype(np.float32)} for _ in range(4)]
    with pytest.raises(VerificationError, match=r"meets --budget size=0.2x .* the smallest 0\.[23]"):
        qcompiler.compile(graph, data, options=qcompiler.Options(cpu="vnni", goal=Goal(size=0.2)))


def test_a_drop_is_kept() -> None:
    found = compiled(Goal(max_drop=Drop.parse("50%"), metric="top-1"))
    assert found.plan is not None and len(found.plan.intended) == LAYERS + 1


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (Goal(min_sqnr=140.0), r"no mixture of precisions meets --min-sqnr 140 \(the best that is no slower has "
                               r".* dB, at .*x the speed\); ask for --min-sqnr .*, or take --precision float"),
        (Goal(size=0.1), r"meets --budget size=0.1x \(the fastest takes 0\..*x the source's time, the smallest 0\.1"),
        (Goal(max_drop=Drop.parse("0"), metric="cosine", min_sqnr=140.0), "no mixture .* meets --min-sqnr 140"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_says_what_can(goal: Goal, said: str) -> None:
    with pytest.raises(VerificationError, match=said):
        compiled(goal)


OWN = """
import numpy as np
X = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
seen = []
def error(model):
    seen.append(model({"x": X})["y"])
    return float(abs(seen[-1] - seen[0]).max())
"""


def test_of_nothing_there_is_no_share(tmp_path: Path) -> None:
    """An error that the float model does not make: what it would take is said as an amount."""
    (tmp_path / "own.py").write_text(OWN)
    goal = Goal(max_drop=Drop.parse("1%"), metric=f"{tmp_path / 'own.py'}:error", lower_is_better=True)
    with pytest.raises(VerificationError, match=r"takes .*own.py:error from 0 to .*; ask for --max-drop \d[\d.]*, or"):
        compiled(goal)


def test_bad_metrics_are_refused_before_anything_is_tried() -> None:
    drop = Drop.parse("1%")
    with pytest.raises(DataError, match="there are 5 labels for 384 samples"):
        compiled(Goal(max_drop=drop, metric="top-1", labels=np.zeros(5)))
    with pytest.raises(MetricError, match="there is no metric 'accuracy'"):
        compiled(Goal(max_drop=drop, metric="accuracy"))


def test_goals_need_something_to_choose_from() -> None:
    goal = Goal(min_sqnr=20.0)
    options = qcompiler.Options(cpu="vnni", goal=goal)
    with pytest.raises(TargetError, match="ort-cpu at float has nothing to choose from"):
        qcompiler.compile(net(), samples(), precision="float", options=options)
    with pytest.raises(DataError, match="is measured"):
        compiled(goal, timing=False)


def test_with_full_effort_the_whole_front_is_measured() -> None:
    found = qcompiler.compile(net(), samples(), options=qcompiler.Options(cpu="vnni", improve="full"))
    assert len(found.report.front) > 2
    assert all(point.sqnr_measured is not None for point in found.report.front)
    speeds = [point.speedup for point in found.report.front]
    assert speeds == sorted(speeds)


def test_an_unknown_effort_is_refused() -> None:
    with pytest.raises(RecipeError, match="improve is 'much'; use one of none, fast, full"):
        qcompiler.compile(net(), samples(), options=qcompiler.Options(cpu="vnni", improve="much"))


def test_without_improvement_nothing_is_searched() -> None:
    options = qcompiler.Options(cpu="vnni", improve="none")
    found = qcompiler.compile(net(), samples(), options=options)
    assert found.plan is not None
    assert not found.plan.rounding and not found.plan.smoothing and not found.plan.ranges and not found.report.front
