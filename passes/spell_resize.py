"""Enlarging a picture of codes to its nearest pixels, spelled as copies of rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes._channels_last import FIRST, LAST
from qcompiler.passes._edit import constant, operand
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

OLDEST_OPSET = 13
_MOST = 16
"""Times, beyond which there would be too many inputs of one Concat."""
_WAYS = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Coordinates and roundings by which each pixel of an image that is a whole number of times as large comes from the one
that it lies on."""


@dataclass(frozen=True)
class SpellResize(Pass):
    """``Q(Resize(DQ(x)))`` to a whole number of times the height and the width, of nearest pixels and with one step in
    and out, becomes Concat of as many copies of the codes: first of each pixel's channels, then of each row.

    ONNX Runtime 1.32 lays codes out with the channels last beside convolutions, and enlarges pixel by pixel there: 357
    us for 64 channels of 40 × 40, where copies of them take 36. Necks of YOLO and of text detectors enlarge so. A
    Transpose on either side meets the convolutions' own.

    1. Scales, or sizes of a picture whose own are known.
    2. Heights and widths that are not known are asked for when the model runs.

    Left alone: more than 16 times; other coordinates and roundings; a result that somebody reads in float; operator
    sets before 13.
    """

    name: ClassVar[str] = "spell-resize"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        if graph.opset < OLDEST_OPSET:
            return PassResult()
        returned, namer, rewrites = ir.output_tensors(graph), ir.Namer(graph), 0
        for inner in ir.all_graphs(graph):
            for node in list(inner.nodes):
                times = _times(node)
                codes = _between_codes(node, returned) if times is not None else None
                if times is None or codes is None:
                    continue
                _write(inner, node, *codes, times, namer)
                rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
        return PassResult(rewrites)


def _times(node: ir.Node) -> tuple[int, int] | None:
    """How many times as high and as wide a Resize makes its input; None where it does anything else."""
    if node.op != "Resize" or node.domain or node.attrs.get("mode", "nearest") != "nearest" or "axes" in node.attrs:
        return None
    way = [node.attrs.get(*usual) for usual in _USUAL]
    if tuple(way) not in _WAYS or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    shape, scales, sizes = node.inputs[0].shape, operand(node, 2), operand(node, 3)
    if shape is None or len(shape) != 4:
        return None
    if scales is not None and scales.shape != (0,) and scales.shape != [0]:
        found = constant(scales)
    else:
        wanted = None if sizes is None else constant(sizes)
        known = all(isinstance(size, int) and size > 0 for size in shape[2:])
        if wanted is None or not known or wanted.size != 4 or list(wanted[:2]) != list(shape[:2]):
            return None
        found = np.array([1.0, 1.0, wanted[2] / shape[2], wanted[3] / shape[3]])
    if found is None or found.shape != (4,) or not np.isfinite(found).all() or (found != np.rint(found)).any():
        return None
    each, channels, down, across = (int(times) for times in found)
    fits = (each, channels) == (1, 1) and 1 <= min(down, across) and 1 < max(down, across) <= _MOST
    return (down, across) if fits else None


_USUAL = (("coordinate_transformation_mode", "half_pixel"), ("nearest_mode", "round_prefer_floor"))


def _between_codes(node: ir.Node, returned: set[ir.Tensor]) -> tuple[ir.Tensor, ir.Node] | None:
    """(the codes that it reads, the QuantizeLinear behind it), where both have the same step."""
    before, result = ir.producer(node.inputs[0]), node.outputs[0]
    if before is None or before.op != "DequantizeLinear" or result in returned or len(result.outputs) != 1:
        return None
    (behind,) = result.outputs
    if behind.op != "QuantizeLinear" or not per_tensor(before) or not per_tensor(behind):
        return None
    same = all(np.array_equal(one.values, other.values) for one, other in zip(before.inputs[1:], behind.inputs[1:]))
    alike = before.inputs[2].values.dtype == behind.inputs[2].values.dtype
    return (before.inputs[0], behind) if same and alike else None


def _write(
    graph: ir.Graph, node: ir.Node, codes: ir.Tensor, quantize: ir.Node, times: tuple[int, int], namer: ir.Namer
) -> None:
    (result,) = quantize.outputs
    shape, kind = node.inputs[0].shape, codes.dtype
    assert shape is not None
    quantize.outputs.clear()
    node.outputs.clear()

    def write(op: str, inputs: list[ir.Tensor], output: ir.Variable | None = None, **attributes: object) -> ir.Variable:
        made = ir.Variable(namer(f"{node.name}_{op}"), kind) if output is None else output
        name = node.name if output is result else namer(f"{node.name}_{op}")
        graph.nodes.append(ir.Node(op, name, dict(attributes), inputs=inputs, outputs=[made]))
        return made

    def sizes(hint: str, values: list[int]) -> ir.Constant:
        return ir.Constant(namer(f"{node.name}_{hint}"), np.array(values, np.int64))

    down, across = times
    pixels = write("Transpose", [codes], perm=list(LAST))
    known = [size if isinstance(size, int) else None for size in shape[1:]]
    flat = sizes("rows", [0, 0, -1])
    if None in known:
        now = write("Shape", [pixels])
        now.dtype = np.dtype(np.int64)
        target: ir.Tensor = write("Mul", [now, sizes("times", [1, down, across, 1])])
        target.dtype = np.dtype(np.int64)
    else:
        channels, height, width = (int(size or 0) for size in known)
        target = sizes("larger", [0, height * down, width * across, channels])
        flat = sizes("flat", [0, height, width * across * channels])  # an empty batch has nothing that -1 could be
    wide = write("Concat", [pixels] * across, axis=3) if across > 1 else pixels
    rows = write("Reshape", [wide, flat])
    high = write("Concat", [rows] * down, axis=2) if down > 1 else rows
    larger = write("Reshape", [high, target])
    write("Transpose", [larger], result, perm=list(FIRST))
