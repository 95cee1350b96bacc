"""Products with constant weights take one form: plain Gemm for matrices, MatMul and Add for more dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._algebra import Match, Refusal, is_float, rewrite
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics


@dataclass(frozen=True)
class CanonicalMatmul(Pass):
    """Gemm and MatMul with a constant weight become what quantization fuses: weights [K, N], bias [N], no factors.

    1. Gemm with ``transB=1``: the weight is transposed, once for all that read it. ONNX Runtime fuses a weight that is
       quantized alone only as [K, N]; with transB=1 it dequantizes it at every call.
    2. Gemm with ``alpha``: into the weight. With ``beta``: into the bias; ``beta=0`` drops it.
    3. Gemm with ``transA=1``: a Transpose of its own before it, which ONNX Runtime takes back in where it helps.
    4. Gemm's bias of one number or of shape [1, N]: [N].
    5. MatMul of a matrix and its constant bias: Gemm, whose bias can be quantized with it. Of MatMul and Add
       ONNX Runtime 1.32 makes a Gemm with a float bias, which it then cannot fuse unless its output is quantized too:
       2.2 ms instead of 0.22 on 64 × 384 × 1536, one thread.

    MatMul of more than two dimensions stays, and Reshape around a Gemm too. Left alone, with the reason: Gemm with
    factors on something computed; a MatMul whose result is used elsewhere; a bias that varies by row; a weight that
    other nodes read as it is (an embedding tied to the output layer), since it would be stored twice, unless
    ``duplicate_shared``.
    """

    name: ClassVar[str] = "canonical-matmul"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    duplicate_shared: bool = False
    """Transpose or scale a weight also when another node needs the original."""

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rewriter = _Rewriter(ir.Namer(graph), self.duplicate_shared)
        home = {node: inner for inner, node in ir.all_nodes(graph)}

        def attempt(node: ir.Node) -> Iterator[Match | Refusal]:
            if node.op == "Gemm" and not node.domain:
                yield from rewriter.gemm(node)
            elif node.op == "MatMul" and not node.domain:
                # Only beside its Add: moved into a body, the product would be computed in every iteration.
                users = [user for user in node.outputs[0].outputs if home.get(user) is home[node]]
                yield from rewriter.matmul(node, users)

        return rewrite(graph, attempt)


class _Rewriter:
    def __init__(self, namer: ir.Namer, duplicate_shared: bool) -> None:
        self.namer = namer
        self.duplicate_shared = duplicate_shared
        self.made: dict[tuple[ir.Tensor, bool, float], ir.Constant] = {}

    def gemm(self, node: ir.Node) -> Iterator[Match | Refusal]:
        form = _form(node)
        weight, bias = node.inputs[1], _bias(node)
        row = None if bias is None or not ir.is_constant(bias) else _row(bias.values, _columns(weight, form.turned))
        vector = bias is None or row is None or row.shape == bias.values.shape
        if form == _PLAIN and vector:
            return
        if not ir.is_constant(weight):
            if form != _PLAIN:
                yield Refusal(node.name, "its weight is computed, so transposing or scaling it would be work added")
            return
        if not is_float(weight.values.dtype):
            return  # integer products have no factors worth moving
        if form.beta not in (0.0, 1.0) and bias is not None and not ir.is_constant(bias):
            yield Refusal(node.name, f"beta is {form.beta:g} and the bias is computed")
            return
        rewritten = form.turned or form.alpha != 1.0
        if (
            rewritten
            and not self.duplicate_shared
            and any(
                user.op != "Gemm"
                or user.inputs[1] is not weight
                or user.inputs[0] is weight
                or not _form(user).alike(form)
                for user in weight.outputs
                if user is not node
            )
        ):
            yield Refusal(node.name, f"the weight '{weight.name}' is used elsewhere as it is and would be stored twice")
            return

        def build() -> list[ir.Node]:
            source, before = node.inputs[0], []
            if form.transposed:
                output = ir.Variable(self.namer(f"{source.name}_transposed"), source.dtype)
                output.shape = None if source.shape is None else list(reversed(source.shape))
                name, order = self.namer(f"{node.name}_transpose"), {"perm": [1, 0]}
                before.append(ir.Node("Transpose", name, order, inputs=[source], outputs=[output]))
                source = output
            inputs = [source, self.weight(weight, form.turned, form.alpha) if rewritten else weight]
            if bias is not None and form.beta != 0.0:
                unchanged = vector and form.beta == 1.0
                inputs.append(bias if unchanged else self.bias(bias, row, form.beta))
            return [*before, ir.Node("Gemm", node.name, inputs=inputs)]

        yield Match(node.outputs[0], {node}, build)

    def matmul(self, node: ir.Node, users: list[ir.Node]) -> Iterator[Match | Refusal]:
        source, weight = node.inputs
        if source.shape is None or len(source.shape) != 2 or ir.is_constant(source):
            return
        if not ir.is_constant(weight) or weight.values.ndim != 2 or not is_float(weight.values.dtype):
            return
        product = node.outputs[0]
        for user in users:
            if user.op != "Add" or user.domain:
                continue
            bias = user.inputs[1] if user.inputs[0] is product else user.inputs[0]
            if not ir.is_constant(bias):
                continue
            row = _row(bias.values, weight.values.shape[1])
            if row is None:
                yield Refusal(user.name, f"a bias of shape {list(bias.values.shape)} is not one number a column")
                continue

            def build(bias: ir.Tensor = bias, row: np.ndarray = row) -> list[ir.Node]:
                vector = bias if bias.values.shape == row.shape else self.bias(bias, row, 1.0)
                return [ir.Node("Gemm", inputs=[source, weight, vector])]

            yield Match(user.outputs[0], {node, user}, build)

    def weight(self, weight: ir.Tensor, turned: bool, alpha: float) -> ir.Constant:
        key = (weight, turned, alpha)
        if key not in self.made:
            values = weight.values.T if turned else weight.values  # a view: a memory-mapped weight stays on disk
            if alpha != 1.0:
                values = (values.astype(np.float64) * alpha).astype(values.dtype)
            self.made[key] = ir.Constant(self.namer(f"{weight.name}_columns"), values)
        return self.made[key]

    def bias(self, bias: ir.Tensor, row: np.ndarray | None, beta: float) -> ir.Constant:
        values = bias.values if row is None else row
        if beta != 1.0:
            values = (values.astype(np.float64) * beta).astype(values.dtype)
        return ir.Constant(self.namer(f"{bias.name}_row"), values)


@dataclass(frozen=True)
class _Form:
    transposed: bool
    turned: bool
    alpha: float
    beta: float

    def alike(self, other: _Form) -> bool:
        """Whether both want the same done to a weight that they share."""
        return (self.turned, self.alpha) == (other.turned, other.alpha)


_PLAIN = _Form(False, False, 1.0, 1.0)


def _form(gemm: ir.Node) -> _Form:
    attributes = gemm.attrs
    beta = attributes.get("beta", 1.0) if _bias(gemm) is not None else 1.0
    return _Form(
        bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0)), attributes.get("alpha", 1.0), beta
    )


def _bias(gemm: ir.Node) -> ir.Tensor | None:
    return gemm.inputs[2] if len(gemm.inputs) > 2 and gemm.inputs[2].name else None


def _columns(weight: ir.Tensor, turned: bool) -> int | None:
    size = weight.shape[0 if turned else 1] if weight.shape is not None and len(weight.shape) == 2 else None
    return size if isinstance(size, int) else None


def _row(bias: np.ndarray, columns: int | None) -> np.ndarray | None:
    """The bias as one number a column; None when it varies by row or would widen the result."""
    if columns is None or bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
        return None
    if bias.size not in (1, columns):
        return None
    flat = bias.reshape(-1)
    return flat if flat.size == columns else np.full(columns, flat[0], bias.dtype)
