"""Moves the reach of outlying activation channels into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Channels
from qcompiler.errors import PassError
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan


@dataclass(frozen=True)
class SmoothMatMul(Pass):
    """``MatMul(x, W)`` becomes ``MatMul(x / s, s · W)`` with one s for each of the K channels, all readers of ``x``
    alike (SmoothQuant, Xiao et al. 2022, equation 3). With few bits, x / s and s · W are easier than x and W.

    s_k = largest|x_k|^a / largest|W_k|^(1-a), with the strength ``a`` that makes the smallest expected error at the
    output: rounding x at step d adds d²/12 · Σ s_k²|W_k|², rounding column n of W at step e_n adds
    e_n²/12 · Σ E[x_k²]/s_k². A strength that saves less than ``least_gain`` dB is not worth the extra product.

    1. MatMul and Gemm (transB = 0) with a constant [K, N] weight, where the context has the channels of ``x``.
    2. A plan that has smoothing already is applied as it is.
    """

    name: ClassVar[str] = "smooth-matmul"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC
    least_gain: float = 1.0

    def wanted(self, graph: ir.Graph, plan: Plan) -> list[str]:
        """The tensors whose channels the pass wants to know: computed in float, read by products that are quantized."""
        return [
            tensor.name
            for tensor, readers in smoothable(graph).items()
            if all(node.name in plan.intended for node in readers) and not _in_codes(tensor, plan)
        ]

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan = ctx.plan or Plan()
        places = {tensor.name: (tensor, readers) for tensor, readers in smoothable(graph).items()}
        smoothing, diagnostics = dict(plan.smoothing), []
        for name, channels in {} if smoothing else (ctx.channels or {}).items():
            weights = [node.inputs[1].values.astype(np.float64) for node in places[name][1]]
            scale, gain = best_scale(channels, np.concatenate(weights, axis=1))
            if gain >= self.least_gain:
                smoothing[name] = scale.astype(np.float32)
                diagnostics.append(Diagnostic(name, f"smoothed, {gain:.1f} dB less noise expected"))
        namer = ir.Namer(graph)
        for name, scale in smoothing.items():
            if name not in places:
                raise PassError(f"no product reads '{name}'", where="smoothing", fix="make the plan anew")
            _smooth(graph, *places[name], scale, namer)
        return PassResult(len(smoothing), tuple(diagnostics), replace(plan, smoothing=smoothing))


def _in_codes(tensor: ir.Tensor, plan: Plan) -> bool:
    """Whether the tensor comes out of a quantized node, through a Relu or Clip perhaps."""
    node = ir.producer(tensor)
    while node is not None and node.op in ("Relu", "Clip"):
        node = ir.producer(node.inputs[0])
    return node is not None and node.name in plan.intended


def smoothable(graph: ir.Graph) -> dict[ir.Variable, list[ir.Node]]:
    """Tensors of the outermost graph with the products that read them and could be smoothed."""
    found: dict[ir.Variable, list[ir.Node]] = {}
    for node in graph.nodes:
        if node.op not in ("MatMul", "Gemm") or node.attrs.get("transB", 0) or node.attrs.get("transA", 0):
            continue
        tensor, weight = node.inputs[0], node.inputs[1]
        if ir.is_constant(tensor) or not ir.is_constant(weight) or weight.values.ndim != 2:
            continue
        if weight.values.dtype != np.float32 or tensor.shape is None or tensor.shape[-1] != weight.values.shape[0]:
            continue
        found.setdefault(tensor, []).append(node)
    return found


def best_scale(channels: Channels, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """(s ``[K]``, expected gain in dB) for a weight ``[K, N]``; s has a geometric mean of one."""
    reach = np.maximum(channels.largest, channels.largest.max() * 1e-5 + 1e-30)
    rows = np.abs(weight).max(axis=1)
    rows = np.maximum(rows, rows.max() * 1e-5 + 1e-30)
    energy = np.sum(weight * weight, axis=1)
    best, least, plain = np.ones_like(reach), np.inf, np.inf
    for strength in (0.0, *np.arange(0.3, 0.95, 0.05)):
        scale = reach**strength / rows ** (1.0 - strength) if strength else np.ones_like(reach)
        scale = scale / np.exp(np.mean(np.log(scale)))
        step = (reach / scale).max() / 127.0
        steps = np.abs(weight * scale[:, None]).max(axis=0) / 127.0
        noise = step**2 * np.sum(energy * scale**2) + np.sum(steps**2) * np.sum(channels.mean_square / scale**2)
        if not strength:
            plain = noise
        if noise < least:
            best, least = scale, noise
    return best, float(10.0 * np.log10(plain / least)) if least > 0.0 else 0.0


def _smooth(
    graph: ir.Graph, tensor: ir.Variable, readers: list[ir.Node], scale: np.ndarray, namer: ir.Namer
) -> None:
    smoothed = ir.Variable(namer(f"{tensor.name}_smoothed"), tensor.dtype, tensor.shape)
    factor = ir.Constant(namer(f"{tensor.name}_smoothing"), np.float32(1.0) / scale)
    graph.nodes.append(
        ir.Node("Mul", namer(f"{tensor.name}_smooth"), inputs=[tensor, factor], outputs=[smoothed])
    )
    for node in readers:
        weight = node.inputs[1]
        node.inputs[1] = ir.Constant(namer(f"{weight.name}_smoothed"), weight.values * scale[:, None])
        node.inputs[0] = smoothed
