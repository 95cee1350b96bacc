"""How to compile: choices that hold for a whole compilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompiler import ir
from qcompiler.data import ImageOptions
from qcompiler.pipeline import Pass
from qcompiler.search.goal import Goal


@dataclass(frozen=True)
class Options:
    """How to compile, beyond what and for which target.

    ``cpu``: a CPU kind of the target, ``auto`` is this machine's. ``gpu``: the kind of GPU that engines are built for
    (``sm89``). ``interface``: whether inputs and outputs keep their types where all else is in 16 bits, or are
    ``converted`` too. ``observer``: how ranges are taken from statistics, empty for the target's own way.
    ``ops``: ``native`` where the model may use the operators of our library, ``standard`` where it must run without,
    empty for the precision's own way. ``block``, ``rounding``: of weights in four bits, one of ``target.BLOCKS`` and of
    ``rounding.WAYS``, empty for the target's own and the best.
    ``batch_size``, ``limit``, ``images``: how ``data`` is read. ``timing``: whether to measure, and give back to float
    what is slower. ``details``: whether to measure what only the whole report shows: error by depth, the worst tensors,
    memory. ``passes``: changes to the pipeline, see ``registry.edited``.
    ``improve``: how much is spent on fidelity, one of ``improve.EFFORTS``. ``goal``: what the model is to keep or may
    take. ``threads``: for measuring speed. ``samples``: how many samples speed and agreement are measured on, fewer
    where they are large. ``after``: called as ``after(pass, graph)``. ``progress``: called as ``progress(stage, done,
    total)``.
    """

    cpu: str = "auto"
    gpu: str = ""
    interface: str = "kept"
    observer: str = ""
    ops: str = ""
    block: str = ""
    rounding: str = ""
    batch_size: int | None = None
    limit: int | None = None
    images: ImageOptions | None = None
    timing: bool = True
    details: bool = False
    passes: tuple[str, ...] = ()
    improve: str = "fast"
    goal: Goal | None = None
    threads: int = 1
    samples: int = 64
    after: Callable[[Pass, ir.Graph], None] | None = None
    progress: Callable[[str, int, int | None], None] | None = None
