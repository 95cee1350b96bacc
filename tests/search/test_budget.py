"""Mixtures of precisions under a budget, held against trying all of them."""

from __future__ import annotations

import itertools
import math
import os
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.search import budget
from qcompiler.search.budget import _UNHEARD, GAP, Price, Problem, Term

amounts = st.floats(0.0, 10.0).map(lambda value: round(value, 2))
prices = st.builds(Price, amounts, amounts, amounts)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to five sites of one to three choices, with terms over any combinations of picks."""
    choices = {
        f"site{index}": {name: draw(prices) for name in ("float", "int8", "int4")[: draw(st.integers(1, 3))]}
        for index in range(draw(st.integers(1, 5)))
    }
    picks = [(site, choice) for site, ways in choices.items() for choice in ways]
    together = st.frozensets(st.sampled_from(picks), min_size=1, max_size=3)
    terms = draw(st.lists(st.builds(Term, st.lists(together, min_size=1, max_size=3).map(tuple), prices), max_size=6))
    return Problem(choices, terms, draw(prices))


def tried(problem: Problem, least: str, most: dict[str, float]) -> float:
    """The least of a quantity under the most of others, by trying everything; infinite where nothing fits."""
    found = math.inf
    for chosen in itertools.product(*problem.choices.values()):
        price = problem.price(dict(zip(problem.choices, chosen)))
        if all(getattr(price, name) <= bound for name, bound in most.items()):
            found = min(found, getattr(price, least))
    return found


@settings(max_examples=60, deadline=None)
@given(problems(), st.permutations(("error", "seconds", "bytes")), st.floats(0.0, 1.0), st.integers(0, 2))
def test_the_solver_comes_within_its_gap_of_trying_everything(
    problem: Problem, order: list[str], share: float, bounds: int
) -> None:
    least, *others = order
    spans = {name: (tried(problem, name, {}), sum_of(problem, name)) for name in others[:bounds]}
    most = {name: low + share * (high - low) + 0.005 for name, (low, high) in spans.items()}
    wanted = tried(problem, least, most)
    for gap in (0.0, GAP):  # to the end, and as far as it is usually looked
        with patch.object(budget, "GAP", gap):
            picks = problem.best(least, most)
        if picks is None:
            assert wanted == math.inf
            continue
        price = problem.price(picks)
        assert wanted - 1e-3 <= getattr(price, least) <= wanted / (1.0 - gap) + 1e-3
        assert all(getattr(price, name) <= bound + 1e-4 for name, bound in most.items())


def sum_of(problem: Problem, quantity: str) -> float:
    """More than any mixture costs."""
    parts = [*(price for ways in problem.choices.values() for price in ways.values()), problem.base]
    return sum(getattr(part, quantity) for part in (*parts, *(term.price for term in problem.terms)))


def test_what_two_sites_share_is_paid_once() -> None:
    free = {"float": Price(seconds=10.0), "int8": Price(seconds=4.0)}
    shared = Term((frozenset({("a", "int8")}), frozenset({("b", "int8")})), Price(seconds=7.0))
    alone = Problem({"a": free}, [Term(shared.when[:1], shared.price)])
    assert alone.best("seconds") == {"a": "float"}
    assert Problem({"a": free, "b": free}, [shared]).best("seconds") == {"a": "int8", "b": "int8"}


def test_a_step_between_codes_and_float_keeps_neighbours_together() -> None:
    coded, plain = Price(error=1.0, seconds=1.0), Price(seconds=2.0)
    ways = {"float": plain, "int8": coded}
    step = Term((frozenset({("a", "int8"), ("b", "float")}),), Price(seconds=5.0))
    found = Problem({"a": ways, "b": ways}, [step]).best("error", {"seconds": 3.0})
    assert found == {"a": "float", "b": "int8"}  # the other way round there would be a step


def test_a_bound_below_what_is_paid_anyway_has_no_solution() -> None:
    problem = Problem({"a": {"float": Price()}}, base=Price(seconds=2.0))
    assert problem.best("error", {"seconds": 1.0}) is None
    assert problem.best("error", {"seconds": 2.0}) == {"a": "float"}


def test_what_the_solver_prints_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with _UNHEARD:
        with _UNHEARD:  # of another thread
            pass
        os.write(1, b"HighsMipSolverData: a remark\n")
    os.write(1, b"ours\n")
    assert capfd.readouterr().out == "ours\n"
