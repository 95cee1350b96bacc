"""Ways to round weights of four bits: which pass does it, and that it is done once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qcompiler import calibrate, registry
from qcompiler.data import spread
from qcompiler.errors import DataError, TargetError
from qcompiler.four_bits import Scratch
from qcompiler.pipeline import MomentsPass, PassContext
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
        if isinstance(one, MomentsPass):
            assert ctx.plan is not None
            readers = one.wanted(self.job.graph, ctx.plan)
            if readers:
                feeds = spread(self.job.samples(), SAMPLES)
                moments = calibrate.second_moments(self.job.graph, readers, feeds, rows=ROWS, most=TOGETHER)
                ctx = replace(ctx, moments=moments)
        ctx = self.job._run([one], self.job.graph, ctx)
        return self.job._run([registry.make("solve")], self.job.graph, replace(ctx, moments=None))

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
