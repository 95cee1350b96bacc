"""Weights of four bits that are multiplied with large values are scaled up before they are rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.calibrate import Rows
from qcompiler.passes._edit import operand
from qcompiler.passes._smoothing import check_factors
from qcompiler.passes._weights import Weight
from qcompiler.passes.clip_weights import clipped
from qcompiler.pipeline import Diagnostic, PassContext, PassResult, RowsPass, Semantics
from qcompiler.plan import Plan, Site
from qcompiler.runtime import one_thread_each
from qcompiler.scheme import PerBlock

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
HELD_OUT = 4
"""One in so many rows, the last ones, decides whether scaling helps."""
TRIED = 512
"""Outputs at most of each product that are tried."""
LEAST_SIZE = 1e-3
"""Of the mean size of all channels: none counts as smaller."""


@dataclass(frozen=True)
class ScaleSalient(RowsPass):
    """AWQ (Lin et al. 2023, "AWQ: Activation-aware Weight Quantization", equations 4 and 5): ``MatMul(x, W)`` becomes
    ``MatMul(x / s, s · W)`` with a scale s for each input, mean|x|^a with the geometric mean 1. Weights that large
    values are multiplied with take more of the codes' range. The division costs nothing: it goes into what makes x.

    1. MatMul and Gemm with a constant weight of its own, placed in four bits; all readers of x must be such.
    2. x comes from a normalization's scale (LayerNormalization, RMSNormalization, a product with a constant), from a
       product with a constant weight of its own, or from a sum with a constant, a Relu, or a product of two tensors
       behind which one of these stands. What is on the way is read by nothing else. Anything else is refused.
    3. The strength a is searched for on rows of x, for each tensor; whether it helps is asked of rows held out, and
       where it does not lessen the noise by ``least_gain`` dB nothing is changed.
    4. A plan that has factors already is applied as it is.

    The factors, 1 / s, are ``plan.smoothing``.
    """

    name: ClassVar[str] = "scale-salient"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC
    least_gain: float = 0.5

    def wanted(self, graph: ir.Graph, plan: Plan) -> dict[str, int]:
        return {
            tensor.name: -1
            for tensor, readers in scalable(graph).items()
            if all(Site(node.inputs[1].name, node.name, 1) in plan.sites for node in readers)
        }

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        plan = ctx.plan or Plan()
        places = {tensor.name: (tensor, readers) for tensor, readers in scalable(graph).items()}
        factors = {name: factor for name, factor in plan.smoothing.items() if name in places}
        diagnostics = []
        for name, rows in (ctx.rows or {}).items():
            scale, gain = self.best(rows, [_weight(node, plan) for node in places[name][1]])
            if gain >= self.least_gain:
                factors[name] = (1.0 / scale).astype(np.float32)
                diagnostics.append(Diagnostic(name, f"scaled by the size of its channels, {gain:.1f} dB less noise"))
        namer = ir.Namer(graph)
        for name, factor in factors.items():
            tensor, readers = places[name]
            check_factors(factor, _matrix(readers[0]).shape[1], name)
            for node, index in _folds(tensor) or []:
                _multiply(node, index, factor, namer)
            for node in readers:
                turned = _turned(node)
                by = (1.0 / factor)[None, :] if turned else (1.0 / factor)[:, None]
                node.inputs[1] = ir.Constant(namer(f"{node.inputs[1].name}_scaled"), node.inputs[1].values * by)
        return PassResult(len(factors), tuple(diagnostics), replace(plan, smoothing={**plan.smoothing, **factors}))

    def best(self, x: Rows, weights: list[Weight]) -> tuple[np.ndarray, float]:
        """(s, float32 ``[K]``, gain in dB on rows held out)."""
        fitted, held_out = np.split(x.values, [len(x.values) - len(x.values) // HELD_OUT])
        size = np.abs(fitted).mean(axis=0)
        size = np.maximum(size, max(float(size.mean()) * LEAST_SIZE, 1e-30))
        plain = np.ones_like(size)
        scales = [plain]
        for strength in STRENGTHS:
            logarithm = strength * np.log(size)
            scales.append(np.exp(logarithm - logarithm.mean()).astype(np.float32))
        few = [replace(weight, values=weight.values[:: -(-len(weight.values) // TRIED)]) for weight in weights]
        errors = [[_errors(weight, scale) for weight in few] for scale in scales]

        def noise(rows: np.ndarray, of: list[np.ndarray]) -> float:
            return sum(float(np.sum((rows @ error.T) ** 2)) for error in of)

        with one_thread_each():
            chosen = int(np.argmin([noise(fitted, of) for of in errors]))
            before, after = (noise(held_out, errors[index]) for index in (0, chosen))
        return scales[chosen], 10.0 * np.log10(before / after) if after > 0.0 else 0.0


def _errors(weight: Weight, scale: np.ndarray) -> np.ndarray:
    """What rounding does to the scaled weight, in units of the weight itself, float32 ``[outputs, inputs]``."""
    values = np.asarray(weight.values, np.float32) * scale
    step, zero = clipped(replace(weight, values=values))
    low, high = weight.scheme.storage_range
    step, zero = (np.repeat(array, weight.block, axis=1) for array in (step, zero))
    codes = np.clip(np.rint(values / step) + zero, low, high)
    return ((codes - zero) * step - values) / scale


def _turned(node: ir.Node) -> bool:
    return node.op == "Gemm" and bool(node.attrs.get("transB", 0))


def _matrix(node: ir.Node) -> np.ndarray:
    """``[outputs, inputs]``."""
    values = node.inputs[1].values
    return values if _turned(node) else values.T


def _weight(node: ir.Node, plan: Plan) -> Weight:
    site = Site(node.inputs[1].name, node.name, 1)
    scheme, values = plan.sites[site].scheme, _matrix(node)
    block = scheme.granularity.size if isinstance(scheme.granularity, PerBlock) else values.shape[1]
    return Weight(values, block, scheme, [site])


def scalable(graph: ir.Graph) -> dict[ir.Variable, list[ir.Node]]:
    """Tensors of the outermost graph that can be divided for free, with the products that read them."""
    returned, outermost = ir.output_tensors(graph), set(graph.nodes)
    found: dict[ir.Variable, list[ir.Node]] = {}
    for node in graph.nodes:
        for tensor in node.outputs:
            readers = list(tensor.outputs)
            plain = bool(readers) and tensor not in returned and outermost.issuperset(readers)
            if plain and all(_product(reader, tensor) for reader in readers) and _folds(tensor) is not None:
                found[tensor] = readers
    return found


def _product(node: ir.Node, tensor: ir.Tensor) -> bool:
    """Whether the node multiplies the tensor with a constant matrix that nothing else reads."""
    if node.op not in ("Gemm", "MatMul") or node.domain or node.attrs.get("transA", 0) or node.inputs[0] is not tensor:
        return False
    weight = node.inputs[1]
    return ir.is_constant(weight) and len(weight.shape) == 2 and len(weight.outputs) == 1


def _folds(tensor: ir.Tensor) -> list[tuple[ir.Node, int]] | None:
    """The constants, as inputs of nodes, that a factor for each channel of the tensor multiplies; None where there is
    no such way."""
    node = ir.producer(tensor)
    if node is None or tensor.shape is None or not isinstance(tensor.shape[-1], int):
        return None
    channels = tensor.shape[-1]
    if node.op == "LayerNormalization" and not node.domain:
        rank = len(tensor.shape)
        last = node.attrs.get("axis", -1) in (-1, rank - 1)
        own = [(node, index) for index in (1, 2) if operand(node, index) is not None]
        return own if last and all(_row(node.inputs[index], channels) for _, index in own) else None
    if node.op in ("RMSNormalization", "SimplifiedLayerNormalization"):
        last = node.attrs.get("axis", -1) in (-1, len(tensor.shape) - 1)
        return [(node, 1)] if last and _row(node.inputs[1], channels) else None
    if node.domain:
        return None
    if node.op == "Mul":
        for index in (0, 1):
            if _row(node.inputs[index], channels):
                return [(node, index)]
        ways = (_behind(other, channels) for other in node.inputs)
        return next((way for way in ways if way is not None), None)
    if node.op == "Add":
        for index in (0, 1):
            if _row(node.inputs[index], channels):
                rest = _behind(node.inputs[1 - index], channels)
                return None if rest is None else [(node, index), *rest]
        return None
    if node.op == "Relu":
        return _behind(node.inputs[0], channels)
    if node.op in ("Gemm", "MatMul") and _product(node, node.inputs[0]):
        bias = operand(node, 2) if node.op == "Gemm" else None
        if bias is not None and not _row(bias, channels):
            return None
        return [(node, 1), *([(node, 2)] if bias is not None else [])]
    return None


def _behind(tensor: ir.Tensor, channels: int) -> list[tuple[ir.Node, int]] | None:
    """The same for one that only the node in front reads."""
    alone = len(tensor.outputs) == 1 and tensor.shape is not None and tensor.shape[-1:] == [channels]
    return _folds(tensor) if alone else None


def _row(tensor: ir.Tensor, channels: int) -> bool:
    """Whether it is a constant with an entry for each channel, or one for all."""
    if not ir.is_constant(tensor) or tensor.dtype != np.float32:
        return False
    return bool(tensor.values.size == 1 or (tensor.values.size == channels == tensor.shape[-1]))


def _multiply(node: ir.Node, index: int, factor: np.ndarray, namer: ir.Namer) -> None:
    constant = node.inputs[index]
    by = factor[:, None] if index == 1 and _turned(node) else factor
    node.inputs[index] = ir.Constant(namer(f"{constant.name}_divided"), (constant.values * by).astype(np.float32))
