"""Products and tables of a mixture with weights in four bits: what that makes of their error, time and bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qcompiler import ir, registry
from qcompiler.pipeline import PassContext
from qcompiler.plan import Plan
from qcompiler.search.improve import spaced
from qcompiler.search.mixture import FourBits
from qcompiler.search.points import together
from qcompiler.search.sensitivity import contributions
from qcompiler.target import OPS

if TYPE_CHECKING:
    from qcompiler.search.refine import Candidate, Refiner, Study


def four_bits(refiner: Refiner, study: Study) -> FourBits | None:
    """Of the study's candidate; None where no node of it can. All that can are built so once, and timed."""
    compilation, candidate = refiner.compilation, study.candidate
    few = compilation.target.in_four_bits
    if few is None or candidate.plan is None:
        return None
    place = registry.make("place", {"precision": compilation.target.four_bit_precision})
    able = compilation.run_pass(place, compilation.graph, PassContext(few, Plan())).plan
    assert able is not None
    names = able.intended & candidate.plan.intended
    if not names:
        return None
    trial = refiner.fused(with_four_bits(refiner, candidate, names))
    if trial.plan is None or not names & trial.plan.intended:
        return None
    quants = {site.tensor: quant for site, quant in trial.plan.sites.items() if quant.scheme.four_bits}
    improver = study.improver
    parts = contributions(
        compilation.graph,
        trial.plan,
        [{name: quant} for name, quant in quants.items()],
        list(improver.points),
        spaced(improver.feeds, improver.effort.samples),
        improver.runs,
    )
    tensors, a_step = ir.all_tensors(compilation.graph), 2 if compilation.target.ops == OPS[1] else 4
    taken = refiner.profile(trial.graph).by_node()
    steps = {name: 0 if quant.scale is None else quant.scale.size for name, quant in quants.items()}
    return FourBits(
        {name: taken.get(name, 0.0) for name in sorted(names & trial.plan.intended)},
        {name: together(part, improver.points) for name, part in zip(quants, parts)},
        {name: tensors[name].values.size / 2 + a_step * steps[name] for name in quants},
    )


def with_four_bits(refiner: Refiner, candidate: Candidate, names: frozenset[str]) -> Candidate:
    """The candidate with weights of four bits for these nodes and no others."""
    assert candidate.plan is not None
    plan = replace(candidate.plan, four_bits=names)
    return refiner.built(refiner.compilation.solved(refiner.compilation.placed(replace(refiner.ctx, plan=plan))))
