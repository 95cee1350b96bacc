"""Moves the reach of outlying activation channels into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.errors import PassError
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Semantics
from qcompiler.plan import Plan


@dataclass(frozen=True)
class SmoothMatMul(Pass):
    """``MatMul(x, W)`` becomes ``MatMul(x · f, W / f)`` with one factor f for each of the K channels, all readers of
    ``x`` alike (SmoothQuant, Xiao et al. 2022, equation 3, where s = 1/f). With few bits, these are easier than x and W.

    f_k = largest|W_k|^(1-a) / largest|x_k|^a. Where that is not enough, the few channels that reach farthest get the
    factor 0 and are multiplied in float beside the rest (LLM.int8(), Dettmers et al. 2022):
    ``MatMul(x · f, W / f) + MatMul(x[farthest], W[farthest])``.

    The strength ``a`` and the number of such channels are searched for each tensor: both sides are rounded on some rows
    of ``x``, and the product's error is judged row by row against the row's own size, since normalization behind it
    makes every row count alike.

    1. MatMul and Gemm (transB = 0) with a constant [K, N] weight, where the context has rows of ``x``.
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
        for name, rows in ({} if smoothing else (ctx.rows or {})).items():
            weight = np.concatenate([node.inputs[1].values for node in places[name][1]], axis=1)
            factor, gain = best_factor(rows, weight)
            if gain >= self.least_gain:
                smoothing[name] = factor
                apart = int(np.sum(factor == 0.0))
                beside = f" with {apart} channels in float beside it" if apart else ""
                diagnostics.append(Diagnostic(name, f"smoothed{beside}, {gain:.1f} dB less noise expected"))
        namer = ir.Namer(graph)
        for name, factor in smoothing.items():
            if name not in places or len(factor) != len(places[name][1][0].inputs[1].values):
                raise PassError(
                    "the plan or the statistics are of another model",
                    why=f"no product of {len(factor)} terms reads '{name}' here",
                    fix="make them anew for this model",
                )
            _smooth(graph, *places[name], factor, namer)
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


STRENGTHS = (0.0, 0.5, 0.7)
APART = (0, 1, 2, 4, 8, 16, 32)
"""How many channels may be multiplied in float."""
EXACT_ENOUGH = 10.0**-3.0
"""Noise-to-signal ratio of one product below which no channel is worth a product of its own."""
NEARLY = 10.0**0.15
"""Ratio of noise within which fewer channels apart are as good as more."""


def best_factor(x: Rows, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """(f, float32 ``[K]``, gain in dB) for the activation ``x`` and a weight ``[K, N]``.

    The nonzero factors have a geometric mean of one.
    """
    exact = x.values @ weight
    size = np.sum(exact * exact, axis=1) + np.float32(1e-30)
    farthest = np.argsort(-x.reach, kind="stable")
    found: list[tuple[float, np.ndarray]] = []
    plain = 0.0
    for apart in APART:
        if apart >= len(farthest) or (found and found[0][0] <= EXACT_ENOUGH):
            break
        kept = np.ones(len(farthest), bool)
        kept[farthest[:apart]] = False
        options = [_noise(x, weight, size, kept, strength) for strength in STRENGTHS]
        plain = plain or options[0][0]
        found.append(min(options, key=lambda option: option[0]))
    least = min(noise for noise, _ in found)
    noise, factor = next(option for option in found if option[0] <= least * NEARLY or option[0] <= EXACT_ENOUGH)
    return factor, float(10.0 * np.log10(plain / noise)) if noise > 0.0 else 0.0


def _noise(
    x: Rows, weight: np.ndarray, size: np.ndarray, kept: np.ndarray, strength: float
) -> tuple[float, np.ndarray]:
    """(mean noise-to-signal ratio of the product's rows, factor) when the channels not ``kept`` are exact."""
    factor = kept.astype(np.float32)
    if strength:
        near, far = (_positive(values, kept) for values in (np.abs(weight).max(axis=1), x.reach))
        factor = (near ** (1.0 - strength) / far**strength).astype(np.float32)
        factor = np.where(kept, factor / np.exp(np.mean(np.log(factor[kept]))), np.float32(0.0))
    rows, columns = x.values * factor, weight * _inverse(factor)[:, None]
    error = _rounded_rows(rows, float(np.max(x.reach * factor))) @ _rounded_columns(columns) - rows @ columns
    return float(np.mean(np.sum(error * error, axis=1) / size)), factor


def _positive(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.maximum(values, values[kept].max() * 1e-5 + 1e-30)


def _inverse(factor: np.ndarray) -> np.ndarray:
    return np.divide(np.float32(1.0), factor, out=np.zeros_like(factor), where=factor != 0.0)


_CLIPPED = (1.0, 0.85, 0.7, 0.55)


def _rounded_rows(values: np.ndarray, reach: float) -> np.ndarray:
    """Rounded to 8 bits with one scale, cut where the squared error is least."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    low, high = (low, max(high, reach)) if high >= -low else (min(low, -reach), high)
    best, least = values, np.inf
    for share in _CLIPPED:
        step = np.float32(max((high - low) * share / 255.0, 1e-30))
        zero = np.rint(-low * share / step)
        found = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        error = float(np.sum((found - values) ** 2))
        if error < least:
            best, least = found, error
    return best


def _rounded_columns(weight: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits with one scale a column."""
    step = np.maximum(np.abs(weight).max(axis=0), 1e-30) / np.float32(127.0)
    return np.rint(weight / step) * step


def _smooth(
    graph: ir.Graph, tensor: ir.Variable, readers: list[ir.Node], factor: np.ndarray, namer: ir.Namer
) -> None:
    def add(op: str, hint: str, inputs: list[ir.Tensor], output: ir.Variable | None = None, **attrs: int) -> ir.Variable:
        output = output or ir.Variable(namer(f"{tensor.name}_{hint}"), tensor.dtype)
        graph.nodes.append(ir.Node(op, namer(f"{tensor.name}_{hint}"), attrs, inputs=inputs, outputs=[output]))
        return output

    def constant(hint: str, values: np.ndarray) -> ir.Constant:
        return ir.Constant(namer(f"{tensor.name}_{hint}"), values)

    smoothed = add("Mul", "smoothed", [tensor, constant("smoothing", factor)])
    smoothed.shape = tensor.shape
    apart = np.flatnonzero(factor == 0.0)
    if len(apart):
        farthest = add("Gather", "farthest", [tensor, constant("farthest_channels", apart.astype(np.int64))], axis=-1)
    for node in readers:
        weight = node.inputs[1]
        node.inputs[0] = smoothed
        node.inputs[1] = constant(f"{weight.name}_smoothed", weight.values * _inverse(factor)[:, None])
        if len(apart):
            result = node.outputs[0]
            main = ir.Variable(namer(f"{result.name}_smoothed"), result.dtype, result.shape)
            node.outputs[0] = main
            beside = add("MatMul", "beside", [farthest, constant(f"{weight.name}_farthest", weight.values[apart])])
            add("Add", "joined", [main, beside], result)
