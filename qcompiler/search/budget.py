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

import numpy as np

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
        """The choices with the least of one quantity, under the most of others; None where none stays below them.

        A variable in 0 … 1 for each pick, those of a site summing to one. A term's variable is at least the sum of the
        picks of each of its sets less their number but one; as no price is negative, it needs to be no larger.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        picks = [(site, choice) for site, choices in self.choices.items() for choice in choices]
        place = {pick: index for index, pick in enumerate(picks)}
        count = len(picks) + len(self.terms)
        prices = [*(self.choices[site][choice] for site, choice in picks), *(term.price for term in self.terms)]
        rows: list[dict[int, float]] = []
        lows: list[float] = []
        highs: list[float] = []

        def require(row: dict[int, float], low: float, high: float) -> None:
            rows.append(row)
            lows.append(low)
            highs.append(high)

        for site, choices in self.choices.items():
            require({place[site, choice]: 1.0 for choice in choices}, 1.0, 1.0)
        for index, term in enumerate(self.terms, len(picks)):
            for together in term.when:
                require({index: 1.0, **{place[pick]: -1.0 for pick in together}}, 1.0 - len(together), np.inf)
        for quantity, bound in (most or {}).items():
            own = np.array([getattr(price, quantity) for price in prices])
            room = bound - getattr(self.base, quantity)
            if room < 0.0:
                return None
            unit = max(room, float(np.max(own, initial=0.0)) * 1e-6) or 1.0  # the solver's tolerances are absolute
            require({i: value / unit for i, value in enumerate(own.tolist()) if value}, -np.inf, room / unit)
        wanted = np.array([getattr(price, least) for price in prices])
        matrix = csr_array(
            (
                [value for row in rows for value in row.values()],
                [column for row in rows for column in row],
                np.cumsum([0, *(len(row) for row in rows)]),
            ),
            shape=(len(rows), count),
        )
        with _UNHEARD:
            found = milp(
                wanted / (float(np.max(wanted, initial=0.0)) or 1.0),
                integrality=np.r_[np.ones(len(picks)), np.zeros(len(self.terms))],
                bounds=Bounds(0.0, 1.0),
                constraints=LinearConstraint(matrix, lows, highs),
                options={"mip_rel_gap": GAP, "time_limit": SECONDS},
            )
        if found.x is None:
            return None
        return {
            site: max(choices, key=lambda choice: found.x[place[site, choice]])
            for site, choices in self.choices.items()
        }


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
