"""The best mixture of precisions that a budget allows: a small mixed-integer program, solved by HiGHS.

Each site is computed in one of several ways, and each way has a price in error, time and bytes. Some of what is paid
belongs to no site alone: a tensor that two sites read is rounded once, and what one makes in codes and another reads in
float is converted in between. Such terms are paid once when any of some combinations is picked. Prices add up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.optimize import Bounds, LinearConstraint

SECONDS = 10.0
"""How long the solver may look, at most; it then returns the best that it has. It takes a tenth of a second for 126
sites, and more where other work holds it up."""
GAP = 5e-2
"""How far, as a share, the solution may be from the best there is: two tenths of a decibel at most, and
hundredths where it was looked at. A share of 1e-2 takes more than twice as long."""

Pick = tuple[str, str]
"""A site and the way in which it is computed."""


@dataclass(frozen=True)
class Price:
    """``error``: a noise-to-signal ratio of powers at the outputs; ``seconds``: of a run; ``bytes``: of weights."""

    error: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Price) -> Price:
        return Price(self.error + other.error, self.seconds + other.seconds, self.bytes + other.bytes)


@dataclass(frozen=True)
class Term:
    """A price, not negative, that is paid once when all picks of any of the sets ``when`` are made."""

    when: tuple[frozenset[Pick], ...]
    price: Price


@dataclass(frozen=True)
class Problem:
    """``choices``: by site, the ways to compute it and what each costs; ``base``: what is paid anyway."""

    choices: Mapping[str, Mapping[str, Price]]
    terms: Sequence[Term] = ()
    base: Price = Price()

    def price(self, picks: Mapping[str, str]) -> Price:
        """What a choice for every site costs in all."""
        total = self.base
        for site, choice in picks.items():
            total += self.choices[site][choice]
        made = set(picks.items())
        for term in self.terms:
            if any(together <= made for together in term.when):
                total += term.price
        return total

    def best(self, least: str, most: Mapping[str, float] | None = None) -> dict[str, str] | None:
        """The choices with the least of one quantity, under the most of others; None where none stays below them."""
        from scipy.optimize import milp

        program = _Program(self)
        for quantity, bound in (most or {}).items():
            if bound < getattr(self.base, quantity):
                return None
            program.limit(quantity, bound)
        wanted = program.amounts(least)
        with _UNHEARD:
            found = milp(
                wanted / (float(np.max(np.abs(wanted), initial=0.0)) or 1.0),
                integrality=program.integrality,
                bounds=program.bounds,
                constraints=program.constraints,
                options={"mip_rel_gap": GAP, "time_limit": SECONDS},
            )
        if found.x is None:
            return None
        return {
            site: max(choices, key=lambda choice: found.x[program.variables[frozenset([(site, choice)])]])
            for site, choices in self.choices.items()
        }


class _Program:
    """A problem as variables in 0 … 1 with a price each, and linear constraints.

    A variable for each pick, those of a site summing to one. One for each set of picks: no more than any of them, and
    no less than their sum less their number but one, the tightest bounds that a product of them has. One for each
    term, at least that of each of its sets, for as no price is negative it needs to be no larger; but none where the
    term is paid for one set, or unless one set is picked. The first variable is one: it has what is paid anyway.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.prices: list[Price] = [problem.base]
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.variables: dict[frozenset[Pick], int] = {}
        for site, choices in problem.choices.items():
            for choice, price in choices.items():
                self.variables[frozenset([(site, choice)])] = self.add(price)
            self.require({self.variables[frozenset([(site, choice)])]: 1.0 for choice in choices}, 1.0, 1.0)
        self.integrality = np.r_[0.0, np.ones(len(self.variables))]
        terms = [(_without_larger(term.when), term.price) for term in problem.terms]
        for together in sorted(dict.fromkeys(one for when, _ in terms for one in when), key=len):
            if together not in self.variables:
                self.join(together)
        for when, price in terms:
            unless = self.opposite(when)
            if len(when) == 1:
                self.charge(self.variables[when[0]], price, 1.0)
            elif unless in self.variables:
                self.charge(0, price, 1.0)
                self.charge(self.variables[unless], price, -1.0)
            else:
                paid = self.add(price)
                for together in when:
                    self.require({paid: 1.0, self.variables[together]: -1.0}, 0.0, np.inf)
        self.integrality = np.r_[self.integrality, np.zeros(len(self.prices) - len(self.integrality))]

    def add(self, price: Price) -> int:
        self.prices.append(price)
        return len(self.prices) - 1

    def charge(self, index: int, price: Price, times: float) -> None:
        self.prices[index] += Price(times * price.error, times * price.seconds, times * price.bytes)

    def require(self, row: dict[int, float], low: float, high: float) -> None:
        self.rows.append((row, low, high))

    def join(self, together: frozenset[Pick]) -> None:
        picks = [self.variables[frozenset([pick])] for pick in sorted(together)]
        self.variables[together] = index = self.add(Price())
        for own in picks:
            self.require({index: 1.0, own: -1.0}, -np.inf, 0.0)
        self.require({index: 1.0, **dict.fromkeys(picks, -1.0)}, 1.0 - len(picks), np.inf)
        for pick, own in zip(sorted(together), picks):
            if (others := self.variables.get(together - {pick})) is not None and len(picks) > 2:
                self.require({index: 1.0, others: -1.0}, -np.inf, 0.0)
                self.require({index: 1.0, others: -1.0, own: -1.0}, -1.0, np.inf)

    def opposite(self, when: Sequence[frozenset[Pick]]) -> frozenset[Pick]:
        """The picks that are all made where none of the sets is; empty where there are no such picks."""
        picks = [next(iter(together)) for together in when if len(together) == 1]
        if len(picks) < len(when) or any(len(self.problem.choices[site]) != 2 for site, _ in picks):
            return frozenset()
        others = {site: [*self.problem.choices[site]] for site, _ in picks}
        return frozenset((site, others[site][1 - others[site].index(choice)]) for site, choice in picks)

    def amounts(self, quantity: str) -> np.ndarray:
        return np.array([getattr(price, quantity) for price in self.prices])

    def limit(self, quantity: str, most: float) -> None:
        own = self.amounts(quantity)
        # The solver's tolerances are absolute.
        unit = max(most - getattr(self.problem.base, quantity), float(np.max(np.abs(own))) * 1e-6) or 1.0
        self.require({i: value / unit for i, value in enumerate(own.tolist()) if value}, -np.inf, most / unit)

    @property
    def bounds(self) -> Bounds:
        from scipy.optimize import Bounds

        return Bounds(np.r_[1.0, np.zeros(len(self.prices) - 1)], 1.0)

    @property
    def constraints(self) -> LinearConstraint:
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        rows = [row for row, _, _ in self.rows]
        values = [value for row in rows for value in row.values()]
        columns = [column for row in rows for column in row]
        starts = np.cumsum([0, *(len(row) for row in rows)])
        matrix = csr_array((values, columns, starts), shape=(len(rows), len(self.prices)))
        return LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows])


def _without_larger(when: Sequence[frozenset[Pick]]) -> list[frozenset[Pick]]:
    """The sets but for those that hold another: where they are picked, that one is."""
    once = list(dict.fromkeys(when))
    return [one for one in once if not any(other < one for other in once)]


class _Unheard:
    """In its context what is written to standard output is lost: HiGHS writes there when it solves a part of a problem
    again, whatever its options say. Several threads may be in it at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._kept = -1

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                sys.stdout.flush()
                self._kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.close(nowhere)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.dup2(self._kept, 1)
                os.close(self._kept)


_UNHEARD = _Unheard()
