"""Steps chosen so that an addition of a constant only moves the zero point; see ``fold-shift-into-dequantize``."""

from __future__ import annotations

import math

import numpy as np

from qcompiler import ir
from qcompiler.passes.fold_scale_into_dequantize import scaled
from qcompiler.passes.fold_shift_into_dequantize import shifted
from qcompiler.plan import Plan, Site, TensorQuant


def align(graph: ir.Graph, plan: Plan, sites: dict[Site, TensorQuant]) -> None:
    """Where the plan adds a constant to a tensor in codes, gives tensor and sum parameters with the same codes.

    The step grows until the constant is a whole number of steps, and the range until it holds the zeros of both. That
    is worth it while rounding once at this step makes no more noise than rounding tensor and sum, each at its own.
    """
    by_tensor: dict[str, list[Site]] = {}
    for site in sites:
        by_tensor.setdefault(site.tensor, []).append(site)

    def own(tensor: ir.Tensor) -> TensorQuant | None:
        """What all sites of a tensor agree on, where statistics have given it and nothing else hangs on it."""
        found = {sites[site] for site in by_tensor.get(tensor.name, ())}
        quant = next(iter(found)) if len(found) == 1 else None
        free = quant is not None and quant.origin == "calibration" and not quant.scheme.symmetric
        return quant if free and len(plan.group(tensor.name)) == 1 else None

    done: set[str] = set()
    for _, node in ir.all_nodes(graph):
        found = shifted(node) if node.name in plan.intended else None
        if found is None or not found[1]:
            continue
        (source, shift), factor = found, 1.0
        reader, total, scaling = node, node.outputs[0], ir.producer(source)
        product = None if scaling is None or source.name in by_tensor else scaled(scaling)
        if scaling is not None and product is not None:
            reader, (source, factor) = scaling, product
        before, after = own(source), own(total)
        # A Relu or Clip vanishes only where the smallest code stands for zero.
        maker = ir.producer(source)
        if before is None or after is None or {source.name, total.name} & done:
            continue
        if before.scheme != after.scheme or (maker is not None and maker.op in ("Relu", "Clip")):
            continue
        shared = any(site.node != reader.name for site in by_tensor[source.name])
        aligned = _aligned(before, after, factor, shift, shared)
        if aligned is None:
            continue
        for tensor, quant in zip((source, total), aligned):
            sites.update(dict.fromkeys(by_tensor[tensor.name], quant))
            done.add(tensor.name)


def _aligned(
    before: TensorQuant, after: TensorQuant, factor: float, shift: float, shared: bool
) -> tuple[TensorQuant, TensorQuant] | None:
    """Parameters of ``x`` and ``factor · x + shift`` with the same codes; None where they would cost too much.

    ``shared``: ``x`` has other readers, so all of its range is needed.
    """
    first, last = before.scheme.code_range
    plain, summed = _range(before), _range(after)
    low, high = min(summed[0] - shift, 0.0), max(summed[1] - shift, 0.0)
    if shared:
        low, high = min(low, plain[0] * factor), max(high, plain[1] * factor)
    count = math.floor(abs(shift) * (last - first) / (high - low))
    if count == 0:
        return None
    own, other = _step(before) * factor, _step(after)
    if (abs(shift) / count) ** 2 > own**2 + other**2:
        return None
    step = np.float32(abs(shift) / count / factor)
    moved = count if shift > 0 else -count
    zero = first - low / (float(step) * factor)
    zero_point = int(np.clip(np.rint(zero), first + max(moved, 0), last + min(moved, 0)))
    return (
        before.solved(step, np.int64(zero_point), "calibration"),
        after.solved(step * np.float32(factor), np.int64(zero_point - moved), "calibration"),
    )


def _step(quant: TensorQuant) -> float:
    assert quant.scale is not None
    return float(quant.scale)


def _range(quant: TensorQuant) -> tuple[float, float]:
    assert quant.zero_point is not None
    first, last = quant.scheme.code_range
    zero_point, step = int(quant.zero_point), _step(quant)
    return (first - zero_point) * step, (last - zero_point) * step
