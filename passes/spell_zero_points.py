"""Writes zero points of activations as arithmetic, for a target that has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import ir, numerics
from qcompiler.passes._linear import product_over_inputs
from qcompiler.pipeline import Pass, PassContext, PassResult, Semantics
from qcompiler.saturation import clip_bounds
from qcompiler.scheme import PerAxis, PerTensor, Scheme

_MOVING = ("Concat", "MaxPool")
"""What moves values: it makes of shifted ones what it makes of others, shifted."""
_ULP = 1e-6


@dataclass(frozen=True)
class SpellZeroPoints(Pass):
    """``DQ(Q(x, s, z), s, z)`` with a zero point z becomes ``DQ(Q(x - c, s, 0), s, 0)`` with c = -z·s: the same codes,
    less z. Who reads it takes c back (Jacob et al. 2018, equation 7, with Z₁ = 0 and the sums done beforehand):

    1. A product with a constant weight W in its bias, which gets c·ΣW. What a Conv pads with is then -c, so it is
       padded before Q.
    2. An addition beside a product, in that product's bias.
    3. Concat and MaxPool need not, where all that they read and make is shifted alike.
    4. Anything else is given x itself, by an addition.

    c is subtracted in a bias as well, where a product makes x, through additions perhaps; a Relu or Clip on the way is
    done by Q, whose lowest code stands for zero.
    """

    name: ClassVar[str] = "spell-zero-points"
    semantics: ClassVar[Semantics] = Semantics.ALGEBRAIC

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        rounded = [found for node in graph.nodes if (found := _Rounded.of(node)) is not None]
        speller = _Speller(graph, rounded)
        for one in rounded:
            speller.spell(one)
        ir.remove_dead(graph)
        ir.sort(graph)
        return PassResult(len(rounded))


def takes_zero_point(node: ir.Node, index: int) -> bool:
    """Whether the node can read this input shifted, at no cost: cases 1 to 3."""
    if node.domain:
        return False
    if node.op == "Add":
        return _has_bias(ir.producer(node.inputs[1 - index]))
    if node.op in _MOVING:
        return True
    return index == 0 and ir.is_constant(node.inputs[1]) and (node.op == "MatMul" or _has_bias(node))


def _has_bias(node: ir.Node | None) -> bool:
    """Whether the node adds a constant to each channel, or can be made to."""
    if node is None or node.op not in ("Conv", "Gemm") or node.domain:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if node.op == "Gemm" and (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)) != (1.0, 1.0):
        return False
    alone = bias is None or (ir.is_constant(bias) and bias.values.ndim == 1)
    return alone and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


@dataclass(eq=False)
class _Rounded:
    """A Q of an activation with a zero point, and what it subtracts."""

    node: ir.Node
    scale: np.ndarray
    zero_point: int

    @staticmethod
    def of(node: ir.Node) -> _Rounded | None:
        if node.op != "QuantizeLinear" or len(node.inputs) < 3 or ir.is_constant(node.inputs[0]):
            return None
        scale, zero_point = node.inputs[1:3]
        if not (ir.is_constant(scale) and ir.is_constant(zero_point)) or zero_point.values.dtype != np.int8:
            return None
        if zero_point.values.size != 1 or not zero_point.values.any():
            return None
        return _Rounded(node, scale.values, int(zero_point.values))

    @property
    def offset(self) -> np.float32:
        return np.float32(-self.zero_point * float(self.scale))

    @property
    def readers(self) -> list[ir.Node]:
        return list(self.node.outputs[0].outputs)

    def like(self, other: _Rounded | None) -> bool:
        return other is not None and (self.zero_point, float(self.scale)) == (other.zero_point, float(other.scale))


class _Speller:
    def __init__(self, graph: ir.Graph, rounded: list[_Rounded]) -> None:
        self.graph, self.namer = graph, ir.Namer(graph)
        self.by_codes = {one.node.outputs[0]: one for one in rounded}
        self.by_node = {one.node: one for one in rounded}
        self.returned = ir.output_tensors(graph)
        self.moving = {node for node in graph.nodes if node.op in _MOVING and self.moves(node)}

    def moves(self, node: ir.Node) -> bool:
        """Whether the node reads and makes values that are all shifted alike (case 3)."""
        read = [self.of_value(tensor) for tensor in node.inputs]
        made = [self.by_node.get(reader) for reader in node.outputs[0].outputs]
        first = read[0]
        if first is None or not made or node.outputs[0] in self.returned:
            return False
        return all(first.like(other) for other in (*read, *made))

    def of_value(self, tensor: ir.Tensor) -> _Rounded | None:
        """The Q whose codes a tensor is dequantized from."""
        node = ir.producer(tensor)
        return self.by_codes.get(node.inputs[0]) if node is not None and node.op == "DequantizeLinear" else None

    def spell(self, one: _Rounded) -> None:
        source, codes = one.node.inputs[0], one.node.outputs[0]
        zero = ir.Constant(self.namer(f"{source.name}_zero_point"), np.zeros((), np.int8))
        padded: dict[tuple[int, ...], list[ir.Node]] = {}
        for dequantize in one.readers:
            dequantize.inputs = [*dequantize.inputs[:2], zero]
            padded.setdefault(self.given_back(dequantize, one.offset), []).append(dequantize)
        shifted = self.shifted(source, one)
        for index, (pads, readers) in enumerate(padded.items()):
            value = self.pad(shifted, pads, one.offset) if any(pads) else shifted
            if index == 0:
                one.node.inputs = [value, one.node.inputs[1], zero]
                continue
            copy = ir.Variable(self.namer(f"{codes.name}_padded"), codes.dtype)
            name = self.namer(f"{one.node.name}_padded")
            inputs = [value, one.node.inputs[1], zero]
            self.graph.nodes.append(ir.Node("QuantizeLinear", name, inputs=inputs, outputs=[copy]))
            for dequantize in readers:
                dequantize.inputs[0] = copy

    def given_back(self, dequantize: ir.Node, offset: np.float32) -> tuple[int, ...]:
        """Lets who reads the values take the offset back; returns what they are to be padded with."""
        value = dequantize.outputs[0]
        readers = list(dict.fromkeys(value.outputs))
        node = readers[0] if len(readers) == 1 and value not in self.returned else None
        if node is not None and node in self.moving:
            return ()
        index = next((place for place, tensor in enumerate(node.inputs) if tensor is value), 0) if node else 0
        if node is not None and node.op == "Add" and self.add_to_bias(node.inputs[1 - index], offset):
            return ()
        weight = self.weight(node) if node is not None and index == 0 else None
        if node is None or weight is None:
            restored = ir.Variable(self.namer(f"{value.name}_restored"), value.dtype, value.shape)
            ir.replace_uses(value, restored, self.graph)
            if value in self.returned:
                value.name, restored.name = restored.name, value.name
            self.add("Add", [value, self.constant("offset", offset)], restored)
            return ()
        share = product_over_inputs(node, weight) * offset
        if node.op == "MatMul":
            self.add_behind(node, share)
            return ()
        self.add_bias(node, share)
        pads = tuple(node.attrs.get("pads", ()))
        if any(pads):
            node.attrs["pads"] = [0] * len(pads)
        return pads

    def weight(self, node: ir.Node) -> np.ndarray | None:
        """The weight of a product, as it is after rounding; None where it is not constant."""
        if node.domain or not (node.op == "MatMul" or _has_bias(node)):
            return None
        tensor = node.inputs[1]
        if ir.is_constant(tensor):
            return tensor.values
        maker = ir.producer(tensor)
        if maker is None or maker.op != "DequantizeLinear" or not all(ir.is_constant(t) for t in maker.inputs):
            return None
        codes, scale, zero_point = (tensor.values for tensor in maker.inputs[:3])
        granularity = PerAxis(int(maker.attrs["axis"])) if scale.ndim else PerTensor()
        return numerics.dequantize(codes, scale, zero_point, Scheme("int8", True, granularity))

    def shifted(self, tensor: ir.Tensor, one: _Rounded) -> ir.Tensor:
        """What is to be rounded in place of the tensor: the tensor less its offset."""
        maker = ir.producer(tensor)
        if maker is not None and maker in self.moving:
            return tensor
        source = self.before_relu(tensor, one)
        if self.alone(source) and self.add_to_bias(source, -one.offset):
            return source
        shifted = ir.Variable(self.namer(f"{tensor.name}_shifted"), tensor.dtype, tensor.shape)
        self.add("Sub", [tensor, self.constant("offset", one.offset)], shifted)
        return shifted

    def before_relu(self, tensor: ir.Tensor, one: _Rounded) -> ir.Tensor:
        """What a Relu or Clip reads that Q makes needless: it cuts off what has no code."""
        node = ir.producer(tensor)
        if node is None or node.op not in ("Relu", "Clip") or not self.alone(tensor) or one.zero_point != -128:
            return tensor
        low, high = (clip_bounds(node) or (-1.0, 0.0)) if node.op == "Clip" else (0.0, np.inf)
        return node.inputs[0] if low == 0.0 and high >= 255.0 * float(one.scale) * (1.0 - _ULP) else tensor

    def alone(self, tensor: ir.Tensor) -> bool:
        return len(tensor.outputs) == 1 and tensor not in self.returned

    def add_to_bias(self, tensor: ir.Tensor, offset: np.float32) -> bool:
        """Adds a number to a tensor that nothing else reads, in the bias of what makes it; False where there is none.
        """
        node = ir.producer(tensor)
        if node is None or not self.alone(tensor):
            return False
        if node.op == "Add":
            for index, term in enumerate(node.inputs):
                if ir.is_constant(term):
                    node.inputs[index] = self.constant("bias", term.values + offset)
                    return True
            return any(self.add_to_bias(term, offset) for term in node.inputs)
        if not _has_bias(node):
            return False
        channels = self.channels(node)
        if channels is None:
            return False
        self.add_bias(node, np.full(channels, offset, np.float32))
        return True

    def channels(self, node: ir.Node) -> int | None:
        weight = self.weight(node)
        return None if weight is None else len(product_over_inputs(node, weight))

    def add_bias(self, node: ir.Node, share: np.ndarray) -> None:
        bias = node.inputs[2].values if len(node.inputs) > 2 and node.inputs[2].name else np.float32(0.0)
        node.inputs = [*node.inputs[:2], self.constant("bias", bias + share)]

    def add_behind(self, node: ir.Node, share: np.ndarray) -> None:
        """To a product without a bias of its own: in the addition behind it, or in a new one."""
        result = node.outputs[0]
        after = result.outputs[0] if self.alone(result) else None
        if after is not None and after.op == "Add" and not after.domain:
            index = 1 - next(place for place, tensor in enumerate(after.inputs) if tensor is result)
            if ir.is_constant(after.inputs[index]):
                after.inputs[index] = self.constant("bias", after.inputs[index].values + share)
                return
        plain = ir.Variable(self.namer(f"{result.name}_product"), result.dtype, result.shape)
        node.outputs[0] = plain
        self.add("Add", [plain, self.constant("bias", share)], result)

    def pad(self, tensor: ir.Tensor, pads: tuple[int, ...], offset: np.float32) -> ir.Variable:
        half = len(pads) // 2
        widths = ir.Constant(self.namer("pads"), np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
        padded = ir.Variable(self.namer(f"{tensor.name}_padded"), tensor.dtype)
        self.add("Pad", [tensor, widths, self.constant("padding", -offset)], padded)
        return padded

    def constant(self, hint: str, values: np.ndarray | np.float32) -> ir.Constant:
        return ir.Constant(self.namer(hint), np.asarray(values, np.float32))

    def add(self, op: str, inputs: list[ir.Tensor], result: ir.Variable) -> None:
        name = self.namer(f"{result.name}_{op}")
        home = ir.home_of(inputs[0], self.graph) if isinstance(inputs[0], ir.Variable) else self.graph
        home.nodes.append(ir.Node(op, name, inputs=inputs, outputs=[result]))
