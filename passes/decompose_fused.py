"""Products and activations that ONNX Runtime has fused are taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import rank
from qcompiler.passes._replacing import DOMAIN, Refusal, Replaced, Way, decomposed, float_type
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

_ACTIVATIONS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
"""Those that are fused with a product, with their parameters in order."""
_GELU_OPSET = 20


@dataclass(frozen=True)
class DecomposeFused(Pass):
    """Operators of the domain ``com.microsoft``, as ONNX Runtime saves a model that it has optimized, and as its
    optimizer of transformers and the exports that call it write them, become standard ones, at every depth:

    1. FusedConv: a Conv, the Add of a second input, the activation;
    2. FusedGemm: a Gemm and the activation;
    3. FusedMatMul: a MatMul, Transpose of an operand that is read transposed, the factor as a Mul;
    4. BiasGelu, FastGelu, Gelu: an Add of the bias, GELU by the error function or by tanh;
    5. QuickGelu: ``x · sigmoid(alpha · x)``.

    8 bits are made of standard operators, and other runtimes have no others. Where it stays in float, ONNX Runtime
    fuses it again as it loads.

    Left alone: where nothing is quantized for a target that has them itself. Refused: activations that are none of the
    above; operands of an unknown number of axes that are read transposed, batches that are; unknown types.
    """

    name: ClassVar[str] = "decompose-fused"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return decomposed(graph, ctx, _WAYS)


def _conv(old: Replaced) -> None:
    parameters = [float(one) for one in old.attrs.pop("activation_params", ())]
    old.needs(0, 1)
    activation = _text(old.attrs.pop("activation", ""))
    second, result = old.input(3), old.output(0)
    _check(activation, parameters)
    last = not activation and second is None
    x: ir.Tensor = old.write("Conv", *_trimmed(old.inputs[:3]), result=result if last else None, **old.attrs)
    if second is not None:
        x = old.write("Add", x, second, result=None if activation else result)
    if activation:
        _activate(old, activation, parameters, x)


def _gemm(old: Replaced) -> None:
    old.needs(0, 1)
    activation = _text(old.attrs.pop("activation", ""))
    given = {name: old.attrs.pop(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")}
    parameters = [float(given[name]) for name in _ACTIVATIONS.get(activation, ()) if given[name] is not None]
    _check(activation, parameters)
    x = old.write("Gemm", *_trimmed(old.inputs), result=None if activation else old.output(0), **old.attrs)
    if activation:
        _activate(old, activation, parameters, x)


def _check(activation: str, parameters: Sequence[float]) -> None:
    wanted = 2 if activation == "Clip" else len(_ACTIVATIONS.get(activation, ()))
    if activation and activation != "Clip" and activation not in _ACTIVATIONS:
        raise Refusal(f"its activation is '{activation}'")
    if len(parameters) > wanted or (activation == "Clip" and len(parameters) < wanted):
        raise Refusal(f"its activation {activation} has {len(parameters)} parameters, not {wanted}")


def _activate(old: Replaced, activation: str, parameters: Sequence[float], x: ir.Tensor) -> None:
    if activation == "Clip":
        kind = float_type(old.inputs[1], old.inputs[0])
        old.write("Clip", x, *(np.array(bound, kind) for bound in parameters), result=old.output(0))
        return
    attributes: dict[str, Any] = dict(zip(_ACTIVATIONS[activation], parameters))
    old.write(activation, x, result=old.output(0), **attributes)


def _matmul(old: Replaced) -> None:
    old.needs(0, 1)
    if old.attrs.get("transBatchA", 0) or old.attrs.get("transBatchB", 0):
        raise Refusal("it reads batches transposed")
    factor, kind = float(old.attrs.get("alpha", 1.0)), float_type(*old.inputs, old.output(0))
    orders = [_order(old, index, name) for index, name in enumerate(("transA", "transB"))]
    operands: list[ir.Tensor] = [
        tensor if order is None else old.write("Transpose", tensor, perm=order)
        for tensor, order in zip(old.inputs, orders)
    ]
    if factor == 1.0:
        old.write("MatMul", *operands, result=old.output(0))
    else:
        old.write("Mul", old.write("MatMul", *operands), np.array(factor, kind), result=old.output(0))


def _order(old: Replaced, index: int, attribute: str) -> list[int] | None:
    """The permutation that an operand is read in; None where it is read as it is."""
    count = rank(old.inputs[index])
    if not old.attrs.get(attribute, 0) or count == 1:
        return None
    if count is None:
        raise Refusal(f"'{old.inputs[index].name}' is read transposed, and has an unknown number of axes")
    return [*range(count - 2), count - 1, count - 2]


def _gelu(old: Replaced) -> None:
    old.needs(0)
    kind = float_type(*old.inputs, old.output(0))
    x = _with_bias(old)
    if old.opset >= _GELU_OPSET:
        old.write("Gelu", x, result=old.output(0))
        return
    curve = old.write("Erf", old.write("Div", x, np.array(math.sqrt(2.0), kind)))
    gate = old.write("Add", curve, np.array(1.0, kind))
    old.write("Mul", old.write("Mul", x, gate), np.array(0.5, kind), result=old.output(0))


def _fast_gelu(old: Replaced) -> None:
    old.needs(0)
    kind = float_type(*old.inputs, old.output(0))
    x = _with_bias(old)
    if old.opset >= _GELU_OPSET:
        old.write("Gelu", x, result=old.output(0), approximate="tanh")
        return
    cube = old.write("Mul", old.write("Mul", x, x), x)
    inner = old.write("Add", x, old.write("Mul", cube, np.array(0.044715, kind)))
    curve = old.write("Tanh", old.write("Mul", inner, np.array(math.sqrt(2.0 / math.pi), kind)))
    gate = old.write("Add", curve, np.array(1.0, kind))
    old.write("Mul", old.write("Mul", x, gate), np.array(0.5, kind), result=old.output(0))


def _with_bias(old: Replaced) -> ir.Tensor:
    bias = old.input(1)
    return old.inputs[0] if bias is None else old.write("Add", old.inputs[0], bias)


def _quick_gelu(old: Replaced) -> None:
    old.needs(0)
    x, kind = old.inputs[0], float_type(*old.inputs, old.output(0))
    factor = float(old.attrs.get("alpha", 1.702))
    scaled = x if factor == 1.0 else old.write("Mul", x, np.array(factor, kind))
    old.write("Mul", x, old.write("Sigmoid", scaled), result=old.output(0))


def _trimmed(inputs: Sequence[ir.Tensor]) -> list[ir.Tensor]:
    """Without those at the end that are left out."""
    count = max(index + 1 for index, tensor in enumerate(inputs) if tensor.name)
    return list(inputs[:count])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_WAYS: dict[tuple[str, str], Way] = {
    (DOMAIN, "FusedConv"): _conv,
    (DOMAIN, "FusedGemm"): _gemm,
    (DOMAIN, "FusedMatMul"): _matmul,
    (DOMAIN, "TransposeMatMul"): _matmul,
    (DOMAIN, "Gelu"): _gelu,
    (DOMAIN, "BiasGelu"): _gelu,
    (DOMAIN, "FastGelu"): _fast_gelu,
    (DOMAIN, "QuickGelu"): _quick_gelu,
}
