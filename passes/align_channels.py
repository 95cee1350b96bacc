"""Convolutions in codes get channels in fours, which the runtime's products want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir
from qcompiler.passes.fuse_tables import per_tensor
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics

FOUR = 4
"""Codes that one instruction multiplies and sums; ONNX Runtime gathers the windows of a convolution in such runs."""
FEW = 48
"""Weights of one output up to which zeros among them cost nothing that was measured."""
MOST_STRIDE = 4
"""Windows further apart are too few for what rearranging the input costs."""
CONTIGUOUS = 1.15
"""As many times the weights may a folded stride cost against zeros: its windows are gathered in longer runs."""


@dataclass(frozen=True)
class AlignChannels(Pass):
    """``Conv(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(w))``, where x has a number of channels that is no
    multiple of four, as pictures have, reads more channels; its result is the same to the bit. Run it after ``lower``.

    1. A stride of s is folded into s² times the channels: SpaceToDepth before QuantizeLinear, and a kernel of about
       k/s with zeros where the window was shorter.
    2. Where that makes more weights, or x has no such shape: channels of zeros up to the next multiple of four, padded
       to the codes.

    ``tools/bench_stem.py`` measures what the convolution, together with what is put before it, then takes.

    Left alone: grouped or dilated convolutions; codes that were not just made of floats; strides beyond four, and
    kernels where zeros would be more than half of the weights and many.
    """

    name: ClassVar[str] = "align-channels"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        namer, rewrites = ir.Namer(graph), 0
        for inner in ir.all_graphs(graph):
            for node in list(inner.nodes):
                stem = _stem(node)
                if stem is None:
                    continue
                folded, padded = stem.folded_weights(), stem.padded_weights()
                if folded is not None and folded.size <= CONTIGUOUS * padded.size:
                    stem.fold(folded, inner, namer)
                elif padded[0].size <= max(2 * stem.weights[0].size, FEW):
                    stem.pad(padded, inner, namer)
                else:
                    continue
                rewrites += 1
        if rewrites:
            ir.remove_dead(graph)
            ir.sort(graph)
        return PassResult(rewrites)


@dataclass(frozen=True)
class _Stem:
    """A convolution of codes that ``quantize`` has just made. ``stride``, ``kernel``: (height, width); ``pads``: top,
    left, bottom, right."""

    conv: ir.Node
    quantize: ir.Node
    dequantize: ir.Node
    weights: np.ndarray
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weights.shape[2], self.weights.shape[3]

    def padded_weights(self) -> np.ndarray:
        more = -self.weights.shape[1] % FOUR
        return np.pad(self.weights, ((0, 0), (0, more), (0, 0), (0, 0)))

    def pad(self, weights: np.ndarray, graph: ir.Graph, namer: ir.Namer) -> None:
        codes, zero_point = self.quantize.outputs[0], self.quantize.inputs[2]
        more = weights.shape[1] - self.weights.shape[1]
        amounts = ir.Constant(namer("channels_of_zeros"), np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
        shape = None if codes.shape is None else [codes.shape[0], weights.shape[1], *codes.shape[2:]]
        padded = ir.Variable(namer(f"{codes.name}_aligned"), codes.dtype, shape)
        pad = ir.Node("Pad", namer(f"{self.conv.name}_align"), inputs=[codes, amounts, zero_point], outputs=[padded])
        graph.nodes.append(pad)
        self._rewired(weights, padded, graph, namer)

    def folded_weights(self) -> np.ndarray | None:
        """int8 ``[outputs, s² · channels, kernel height, kernel width]``; None where the stride does not fold.

        Row i of the window, p rows of padding above, is row (i - p) mod s of the block of s rows (i - p) div s.
        """
        (stride, width), channels = self.stride, self.weights.shape[1]
        if not 1 < stride == width or channels * stride**2 % FOUR or self._ends() is None:
            return None
        rows, columns = (self._blocks(axis) for axis in (0, 1))
        shape = (self.weights.shape[0], stride, stride, channels, len(rows), len(columns))
        folded = np.zeros(shape, self.weights.dtype)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                (down, row), (right, column) = (divmod(at - pad, stride) for at, pad in zip((i, j), self.pads))
                folded[:, row, column, :, down - rows.start, right - columns.start] = self.weights[:, :, i, j]
        return folded.reshape(shape[0], -1, len(rows), len(columns))

    def _blocks(self, axis: int) -> range:
        """Blocks of s rows (or columns) that the first window reaches, from those above the picture on."""
        stride = self.stride[axis]
        return range(-self.pads[axis] // stride, (self.kernel[axis] - 1 - self.pads[axis]) // stride + 1)

    def _ends(self) -> tuple[int, int] | None:
        """(bottom, right): blocks of padding there; None where the picture has no such shape."""
        found = []
        for axis, size in enumerate((self.quantize.inputs[0].shape or ())[2:]):
            stride, before, after = self.stride[axis], self.pads[axis], self.pads[axis + 2]
            if not isinstance(size, int) or size % stride:
                return None
            windows = (size + before + after - self.kernel[axis]) // stride + 1
            blocks = self._blocks(axis)
            found.append(windows - 1 + len(blocks) - size // stride + blocks.start)
        return (found[0], found[1]) if len(found) == 2 and min(found) >= 0 else None

    def fold(self, weights: np.ndarray, graph: ir.Graph, namer: ir.Namer) -> None:
        picture, stride = self.quantize.inputs[0], self.stride[0]
        ends = self._ends()
        assert ends is not None and picture.shape is not None
        height, width = (size // stride for size in picture.shape[2:])
        shape = [picture.shape[0], weights.shape[1], height, width]
        deep = ir.Variable(namer(f"{picture.name}_aligned"), picture.dtype, shape)
        codes = ir.Variable(namer(f"{picture.name}_aligned_codes"), self.quantize.outputs[0].dtype, shape)
        graph.nodes += [
            ir.Node("SpaceToDepth", namer(f"{self.conv.name}_align"), {"blocksize": stride}, [picture], [deep]),
            ir.Node(
                "QuantizeLinear", namer("round"), dict(self.quantize.attrs), [deep, *self.quantize.inputs[1:]], [codes]
            ),
        ]
        starts = [self._blocks(axis).start for axis in (0, 1)]
        self.conv.attrs.update(strides=[1, 1], pads=[-starts[0], -starts[1], *ends])
        self._rewired(weights, codes, graph, namer)

    def _rewired(self, weights: np.ndarray, codes: ir.Variable, graph: ir.Graph, namer: ir.Namer) -> None:
        """Lets the convolution read these codes with these weights."""
        old = ir.producer(self.conv.inputs[1])
        assert old is not None
        self.conv.attrs["kernel_shape"] = list(weights.shape[2:])
        constant = ir.Constant(namer(f"{old.inputs[0].name}_aligned"), weights)
        for index, before, read in ((0, self.dequantize, codes), (1, old, constant)):
            value = ir.Variable(namer(f"{read.name}_value"), before.outputs[0].dtype, read.shape)
            node = ir.Node(before.op, namer(before.name), dict(before.attrs), [read, *before.inputs[1:]], [value])
            graph.nodes.append(node)
            self.conv.inputs[index] = value


def _stem(node: ir.Node) -> _Stem | None:
    if node.op != "Conv" or node.domain or node.attrs.get("group", 1) != 1:
        return None
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or set(node.attrs.get("dilations", [1])) != {1}:
        return None
    dequantize, weights = (ir.producer(tensor) for tensor in node.inputs[:2])
    if dequantize is None or weights is None or {dequantize.op, weights.op} != {"DequantizeLinear"}:
        return None
    quantize = ir.producer(dequantize.inputs[0])
    if quantize is None or quantize.op != "QuantizeLinear" or not per_tensor(quantize):
        return None
    maker = ir.producer(quantize.inputs[0])
    if maker is not None and any(_in_codes(tensor) for tensor in maker.inputs):
        return None  # fused with its maker: the codes are not made for the convolution alone
    values = weights.inputs[0]
    if not ir.is_constant(values) or values.values.ndim != 4 or values.values.shape[1] % FOUR == 0:
        return None
    if not _symmetric(weights):
        return None
    height, width = node.attrs.get("strides", [1, 1])
    if max(height, width) > MOST_STRIDE:
        return None
    top, left, bottom, right = node.attrs.get("pads", [0] * 4)
    return _Stem(node, quantize, dequantize, values.values, (height, width), (top, left, bottom, right))


def _symmetric(weights: ir.Node) -> bool:
    """Whether a code of zero stands for zero."""
    return len(weights.inputs) < 3 or (ir.is_constant(weights.inputs[2]) and not weights.inputs[2].values.any())


def _in_codes(tensor: ir.Tensor) -> bool:
    source = ir.producer(tensor)
    return source is not None and source.op == "DequantizeLinear"
