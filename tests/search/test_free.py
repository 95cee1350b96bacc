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


@pytest.mark.parametrize("before", [{}, {"bias": [9.0]}], ids=["none", "stale"])
@pytest.mark.parametrize(("bare", "anew"), [(20.0, 22.0), (20.0, 19.0)], ids=["helps", "harms"])
def test_a_change_loses_the_biases_that_were_corrected_for_the_whole(
    before: dict[str, list[float]], bare: float, anew: float
) -> None:
    """They are corrected anew, where they were at all and where that measures better."""
    refiner = Measuring({(False, False): bare, (False, True): anew})
    whole = refiner.built(Plan(shifts=before))
    seen: list[Plan] = []

    def change(given: Candidate) -> Candidate:
        seen.append(given.plan)
        return replace(given, plan=given.plan.without_nodes({"n": "why"}))

    candidate, decibels = free.with_own_biases(refiner, change, whole)
    assert seen[0].shifts == {} and candidate.plan.kept == {"n": "why"}
    corrected_anew = bool(before) and anew > bare
    assert candidate.plan.shifts == (SHIFTS if corrected_anew else {})
    assert decibels == [anew if corrected_anew else bare]
