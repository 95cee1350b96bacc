"""Convolutions in codes with one filter a channel are computed by an operator of our own."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, native
from qcompiler.passes._channels_last import turn
from qcompiler.passes._edit import constant, operand
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.saturation import clip_bounds

OPERATOR = "DepthwiseConvInt8"
FEWEST = 16
"""Channels that the kernel takes at a time, at least."""
LARGEST = 2.0**30
"""What the kernel rounds to 32 bits."""


@dataclass(frozen=True)
class FuseDepthwise(Pass):
    """``Q(Conv(DQ(x), DQ(W), DQ(b)))`` with one filter a channel becomes ``qcompiler::DepthwiseConvInt8`` with its
    channels last (docs/kernels.md), and a Transpose on either side. Run it after ``tables-channels-last``, which looks
    for convolutions.

    The operator gives the codes that ONNX Runtime's QLinearConv gives, bit for bit; that takes longer than a
    convolution of floats.

    1. Two axes with any taps, strides, dilations and padding; int8 weights whose zero point is 0.
    2. A Relu or Clip before the Q that changes no code, which is dropped.

    Left alone: fewer than 16 channels; results that somebody reads in float; a bias of another scale than that of the
    sums; sums that leave 32 bits when they are scaled.
    """

    name: ClassVar[str] = "fuse-depthwise"
    semantics: ClassVar[Semantics] = Semantics.QUANTIZING

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        returned, namer, rewrites = ir.output_tensors(graph), ir.Namer(graph), 0
        for inner in ir.all_graphs(graph):
            for convolution in list(inner.nodes):
                found = _found(convolution, returned)
                if found is None:
                    continue
                _write(inner, convolution, *found, namer)
                rewrites += 1
        if rewrites:
            graph.domains.setdefault(native.DOMAIN, 1)
            ir.remove_dead(graph)
        return PassResult(rewrites)


def _found(convolution: ir.Node, returned: set[ir.Tensor]) -> tuple[list[ir.Tensor], ir.Node] | None:
    """(the operator's inputs, the QuantizeLinear that it stands for)."""
    if convolution.op != "Conv" or convolution.domain or convolution.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    sources = [ir.producer(tensor) for tensor in convolution.inputs if tensor.name]
    if any(source is None or source.op != "DequantizeLinear" or source.domain for source in sources):
        return None
    x, weights, *bias = (source for source in sources if source is not None)
    codes, zero_point = constant(weights.inputs[0]), operand(weights, 2)
    if not per_tensor(x) or codes is None or codes.dtype != np.int8 or codes.ndim != 4:
        return None
    channels = codes.shape[0]
    if channels < FEWEST or codes.shape[1] != 1 or convolution.attrs.get("group", 1) != channels:
        return None
    if zero_point is not None and (constant(zero_point) is None or np.any(constant(zero_point))):
        return None
    quantize = _quantized(convolution, returned)
    if quantize is None or x.inputs[2].values.dtype != quantize.inputs[2].values.dtype:
        return None
    scales = constant(weights.inputs[1])
    if scales is None or scales.size not in (1, channels) or (scales.size > 1 and weights.attrs.get("axis", 1) != 0):
        return None
    step = x.inputs[1].values * scales.reshape(-1)
    if bias and not _has_scale(bias[0], step):
        return None
    biases = np.zeros(1) if not bias else constant(bias[0].inputs[0])
    sums = 255.0 * np.abs(codes.astype(np.float64)).sum((1, 2, 3)) + np.abs(np.asarray(biases, np.float64))
    if not np.all(sums * step / quantize.inputs[1].values <= LARGEST):
        return None
    inputs = [x.inputs[0], *x.inputs[1:], *weights.inputs[:2], *quantize.inputs[1:]]
    return inputs + ([bias[0].inputs[0]] if bias else []), quantize


def _has_scale(bias: ir.Node, step: np.ndarray) -> bool:
    """Whether a DequantizeLinear makes a bias of constant int32 codes whose scale is ``step``."""
    codes, scale, zero_point = constant(bias.inputs[0]), constant(bias.inputs[1]), operand(bias, 2)
    if codes is None or codes.dtype != np.int32 or scale is None:
        return False
    if zero_point is not None and (constant(zero_point) is None or np.any(constant(zero_point))):
        return False
    return scale.size in (1, step.size, codes.size) and bool(np.allclose(scale.reshape(-1), step, rtol=1e-5, atol=0))


def _quantized(convolution: ir.Node, returned: set[ir.Tensor]) -> ir.Node | None:
    """The QuantizeLinear that alone reads what the convolution computes, past what changes no code of it."""
    clips: list[ir.Node] = []
    reader = convolution
    for _ in range(3):
        result = reader.outputs[0]
        if result in returned or len(result.outputs) != 1:
            return None
        (reader,) = result.outputs
        if reader.op == "QuantizeLinear" and not reader.domain:
            fits = reader.inputs[0] is result and per_tensor(reader) and all(_idle(one, reader) for one in clips)
            return reader if fits else None
        if reader.op not in ("Relu", "Clip") or reader.domain or reader.inputs[0] is not result:
            return None
        clips.append(reader)
    return None


def _idle(clip: ir.Node, quantize: ir.Node) -> bool:
    """Whether the limits of a Relu or Clip are the codes' own."""
    limits = np.iinfo(quantize.inputs[2].values.dtype)
    step, zero_point = (float(tensor.values.reshape(-1)[0]) for tensor in quantize.inputs[1:])
    bounds = (0.0, math.inf) if clip.op == "Relu" else clip_bounds(clip)
    if bounds is None:
        return False
    codes = np.clip(np.rint(np.array(bounds) / step) + zero_point, limits.min, limits.max)
    return codes.tolist() == [limits.min, limits.max]


def _write(
    graph: ir.Graph, convolution: ir.Node, inputs: list[ir.Tensor], quantize: ir.Node, namer: ir.Namer
) -> None:
    (result,) = quantize.outputs
    quantize.outputs.clear()
    convolution.outputs.clear()
    scale = inputs[4]
    if scale.values.ndim > 1:
        inputs[4] = ir.Constant(namer(f"{scale.name}_row"), scale.values.reshape(-1))
    attributes = OrderedDict((name, convolution.attrs[name]) for name in _ATTRIBUTES if name in convolution.attrs)
    made = ir.Node(OPERATOR, convolution.name, attributes, inputs=inputs, outputs=[result], domain=native.DOMAIN)
    graph.nodes.append(made)
    turn(graph, made, 1, namer)


_ATTRIBUTES = ("strides", "pads", "dilations")
