"""What costs no time of a run: other ranges and corrected biases are kept as they measure, together or alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from qcompiler import ir
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.search import free
from qcompiler.search.refine import Candidate

SHIFTS, RANGES = {"bias": [0.5]}, {"x": (-1.0, 1.0)}


class Measuring:
    """In the place of a refiner: what a candidate measures hangs on whether its plan has other ranges and shifts."""

    def __init__(self, decibels: dict[tuple[bool, bool], float]) -> None:
        self.told = decibels
        self.ctx = PassContext()
        self.compilation = SimpleNamespace(solved=lambda ctx: ctx.plan)

    def built(self, plan: Plan) -> Candidate:
        return Candidate(ir.Graph(), plan)

    def unsolved(self, plan: Plan) -> Plan:
        return plan

    def decibels(self, candidate: Candidate) -> list[float]:
        return [self.told[bool(candidate.plan.ranges), bool(candidate.plan.shifts)]]


class Improving:
    def __init__(self) -> None:
        self.activations = {"x": 0.5}

    def with_better_ranges(self) -> Plan:
        self.activations = {"x": 0.1}
        return Plan(ranges=RANGES)


@pytest.fixture(autouse=True)
def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free, "corrected", lambda compilation, plan: replace(plan, shifts=SHIFTS))


@pytest.mark.parametrize(
    ("plain", "corrected", "ranged", "both", "kept"),
    [
        (10.0, 18.0, 14.0, 16.0, ["biases corrected"]),  # what other ranges gain is not there behind corrected biases
        (10.0, 12.0, 14.0, 16.0, ["given other ranges", "biases corrected"]),
        (10.0, 9.0, 14.0, 13.0, ["given other ranges"]),
        (10.0, 9.0, 8.0, 7.0, []),
    ],
)
def test_the_best_of_both(plain: float, corrected: float, ranged: float, both: float, kept: list[str]) -> None:
    told = {(False, False): plain, (False, True): corrected, (True, False): ranged, (True, True): both}
    refiner, improver = Measuring(told), Improving()
    candidate, decibels = free.best_of(refiner, (refiner.built(Plan()), [plain]), improver)
    assert decibels == [max(told.values())]
    assert [decision.action for decision in candidate.plan.decisions] == kept
    assert improver.activations == {"x": 0.1 if "given other ranges" in kept else 0.5}
