"""How true an output is that a model selects by computed numbers: what it is selected from says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from qcompiler import ir
from qcompiler.report import OutputRecord
from qcompiler.runtime import Feed, run, session, side_by_side
from qcompiler.search.points import selections
from qcompiler.search.sensitivity import with_outputs
from qcompiler.verify import numbers


def with_selections(
    plain: ir.Graph, coded: ir.Graph, outputs: Sequence[OutputRecord], feeds: Iterable[Feed], *, optimize: str = "all"
) -> list[OutputRecord]:
    """The outputs, those that are a selection with the decibels of the least faithful tensor that they are selected
    from; only where both graphs compute all of these under the same names. Shapes of the ``plain`` one are inferred;
    ``optimize`` is for the coded one, see ``runtime.session``."""
    made = {tensor.name for node in coded.nodes for tensor in node.outputs}
    selected = {name: points for name, points in selections(plain).items() if made.issuperset(points)}
    if not selected:
        return list(outputs)
    names = list(dict.fromkeys(name for points in selected.values() for name in points))
    found = numbers.Comparison(names)
    with (
        session(with_outputs(plain, names)) as one,
        session(with_outputs(coded, names), optimize=optimize) as other,
    ):
        for wanted, actual in side_by_side(lambda feed: (run(one, feed, names), run(other, feed, names)), feeds):
            found.add(wanted, actual)
    decibels = {error.name: error.sqnr for error in found.errors()}
    return [
        replace(one, selected_from=min(decibels[name] for name in selected[one.name])) if one.name in selected else one
        for one in outputs
    ]
