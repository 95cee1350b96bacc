"""Ways to round weights of four bits: which pass does it, and that it is done once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import calibrate, registry
from qcompiler.data import spread
from qcompiler.errors import DataError, TargetError
from qcompiler.four_bits import Scratch
from qcompiler.pipeline import GradualPass, PassContext
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.target import VERIFIERS, Target

if TYPE_CHECKING:
    from qcompiler.compiler import Compilation

WAYS = {"rtn": "nearest-weights", "mse": "clip-weights", "hqq": "half-quadratic", "gptq": "compensate-weights"}
"""By name the pass that finds scales."""
TURNED = ("rtn", "mse", "gptq")
"""Those whose scales may be negative."""
SAMPLES, ROWS, TOGETHER = 128, 256, 1024
"""What four bits are rounded for: samples at most, rows of each, inputs that are looked at together. The coarser the
codes, the more there is to fit, and the easier it is to fit too much."""
FOR_SAMPLES, FOR_NONE = "gptq", "mse"
"""What is used where nobody says: with samples, and without."""


def way_of(wanted: str, *, samples: bool, where: str) -> str:
    """The way to round: the one that is wanted, or the best there is.

    Raises:
        TargetError: there is no such way.
        DataError: it rounds for samples, and there are none.
    """
    if wanted and wanted not in WAYS:
        raise TargetError(f"there is no way to round '{wanted}'", fix=f"use one of {', '.join(WAYS)}")
    if wanted == FOR_SAMPLES and not samples:
        fix = f"give data (--data), or use --rounding {FOR_NONE}"
        raise DataError(f"{wanted} rounds weights for what they are multiplied with", where=where, fix=fix)
    return wanted or usual(samples=samples)


def usual(*, samples: bool) -> str:
    """The best way there is."""
    return FOR_SAMPLES if samples else FOR_NONE


def moves_zero_points(way: str, target: Target) -> bool:
    """Whether weights get zero points: where the way is about them, or gains by them and the kernels have them."""
    return way == "hqq" or (way == FOR_SAMPLES and target.verifier == VERIFIERS[0])


class Rounding:
    """Rounds the weights of a placed plan, each of them once, however often placement changes."""

    def __init__(self, job: Compilation) -> None:
        self.job = job
        self.way = way_of(job.options.rounding, samples=job.data is not None, where=job.name)
        self.scratch = Scratch() if job.large else None
        self.sites: dict[Site, TensorQuant] = {}
        self.changes: dict[str, np.ndarray] = {}

    def done(self, ctx: PassContext) -> PassContext:
        """The context with the numbers of its weights in its plan."""
        while True:
            ctx = self.rounded(ctx)
            assert ctx.plan is not None
            solved = ctx.plan.sites.items()
            bad = {site for site, quant in solved if quant.scale is not None and not np.isfinite(quant.scale).all()}
            self.sites |= {site: quant for site, quant in solved if quant.origin == "weights" and site not in bad}
            self.changes |= ctx.plan.four_bit_rounding
            if not bad:
                return ctx
            kept = {site.node: f"weight '{site.tensor}' has values that are not finite" for site in bad}
            ctx = self.job.placed(replace(ctx, plan=ctx.plan.without_nodes(kept)))

    def rounded(self, ctx: PassContext) -> PassContext:
        """All weights in one go, but those that are known."""
        assert ctx.plan is not None
        ctx = replace(ctx, plan=self.remembered(ctx.plan), scratch=self.scratch)
        one = registry.make(WAYS[self.way], self.options())
        ctx = self.gradually(one, ctx) if isinstance(one, GradualPass) else self.job.run_pass(one, self.job.graph, ctx)
        return self.job.run_pass(registry.make("solve"), self.job.graph, ctx)

    def gradually(self, one: GradualPass, ctx: PassContext) -> PassContext:
        """The weights in the order in which samples come to them, each for what those before it make of them.

        A weight that is read in several places, as by an embedding and the output layer tied to it, has no place of its
        own in this order: it is rounded first, for what it is multiplied with in the model as it is.
        """
        assert ctx.plan is not None
        plan, graph = ctx.plan, self.job.graph
        readers = one.wanted(graph, plan)
        if not readers:
            return self.job.run_pass(one, graph, ctx)
        feeds = spread(self.job.samples.all(), SAMPLES)
        products = {node for nodes in readers.values() for node in nodes}
        walk = calibrate.Walk(graph, products, feeds, rows=ROWS, most=TOGETHER, lean=self.job.large)
        if not walk.possible:
            moments = calibrate.second_moments(graph, readers, feeds, rows=ROWS, most=TOGETHER)
            return replace(self.job.run_pass(one, graph, replace(ctx, moments=moments)), moments=None)
        first: list[Site] = []
        later: dict[int, list[Site]] = {}
        for sites in one.groups(graph, plan):
            depths = {walk.depths[site.node] if site.node in products else 0 for site in sites}
            alone = len(depths) == 1 and depths != {0}
            (later.setdefault(depths.pop(), []) if alone else first).extend(sites)

        def rounded(sites: list[Site], moments: dict[str, calibrate.Moments]) -> None:
            nonlocal ctx
            assert ctx.plan is not None
            whole = ctx.plan
            part = replace(whole, sites={site: whole.sites[site] for site in sites})
            found = self.job.run_pass(one, graph, replace(ctx, plan=part, moments=moments)).plan
            assert found is not None
            ctx = replace(ctx, plan=replace(found, sites={**whole.sites, **found.sites}))

        def read(sites: list[Site]) -> dict[str, list[str]]:
            names = {site.tensor for site in sites}
            return {name: nodes for name, nodes in readers.items() if name in names}

        if first:
            rounded(first, walk.plain(read(first)))
        assert ctx.plan is not None
        for stage in walk.stages(ctx.plan):
            sites = later.get(stage.depth, [])
            if sites:
                rounded(sites, stage.moments(read(sites)))
            assert ctx.plan is not None
            stage.end(ctx.plan)
        return ctx

    def options(self) -> dict[str, bool]:
        """Of the pass. Builders of engines want positive scales."""
        return {"turned": self.job.target.verifier == "onnxruntime"} if self.way in TURNED else {}

    def remembered(self, plan: Plan) -> Plan:
        sites = {
            site: self.sites[site] if quant.origin == "unsolved" and site in self.sites else quant
            for site, quant in plan.sites.items()
        }
        tensors = {site.tensor for site in sites}
        changes = {name: change for name, change in self.changes.items() if name in tensors}
        return replace(plan, sites=sites, four_bit_rounding={**plan.four_bit_rounding, **changes})
