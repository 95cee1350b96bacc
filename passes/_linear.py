"""Conv, ConvTranspose, Gemm and MatMul with constant weights, and how a scale and a shift per channel go into them.

All arithmetic is done in float64 and rounded once to the type of the weight.
"""

from __future__ import annotations

import numpy as np

from qcompiler import ir
from qcompiler.passes._edit import constant, operand

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_BLOCK = 1 << 20
"""Elements of a weight that are computed with at a time."""


class Refusal(Exception):
    """A scale or shift that cannot be folded; the text says why."""


def weight(node: ir.Node) -> np.ndarray | None:
    """The weight of a linear node, None if the node is none or its weight is computed."""
    if node.op not in LINEAR or node.domain or len(node.inputs) < 2:
        return None
    values = constant(node.inputs[1])
    if values is None or not _is_float(values) or values.ndim < 2:
        return None
    return values


def _is_float(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" or values.dtype.name == "bfloat16"


def output_channels(node: ir.Node, values: np.ndarray) -> int:
    if node.op == "Conv":
        return int(values.shape[0])
    if node.op == "ConvTranspose":
        return int(values.shape[1]) * _groups(node)
    return int(values.shape[_output_axis(node)])


def input_channels(node: ir.Node, values: np.ndarray) -> int:
    if node.op == "Conv":
        return int(values.shape[1]) * _groups(node)
    if node.op == "ConvTranspose":
        return int(values.shape[0])
    return int(values.shape[-1 if _output_axis(node) == 0 else -2])


def product_over_inputs(node: ir.Node, values: np.ndarray) -> np.ndarray:
    """Of a Conv, Gemm or MatMul with a weight of these values: what it makes of ones, for each output channel."""
    summed = tuple(range(1, values.ndim)) if node.op == "Conv" else (1 - _output_axis(node) % values.ndim,)
    return np.asarray(np.sum(values, axis=summed, dtype=np.float64), np.float32)


def output_rank(node: ir.Node, values: np.ndarray, known: int | None) -> int | None:
    """The rank of the output: by the weight where that decides it, else the one that is known."""
    return known if node.op == "MatMul" else 2 if node.op == "Gemm" else values.ndim


def channel_axis(node: ir.Node) -> int:
    """The axis of the output that holds the channels."""
    return -1 if node.op == "MatMul" else 1


def per_channel(values: np.ndarray, rank: int | None, axis: int, channels: int) -> np.ndarray | None:
    """A constant as one number a channel, None if it broadcasts against a tensor of this rank as something else."""
    if rank is None:
        rank, axis = (1, 0) if axis == -1 else (0, 0)
    if values.ndim > rank or not _is_float(values):
        return None
    shape = [1] * (rank - values.ndim) + list(values.shape)
    size = shape[axis] if shape else 1
    if values.size != size or size not in (1, channels):
        return None
    return np.broadcast_to(values.astype(np.float64).reshape(-1), (channels,))


def normalization(node: ir.Node, opset: int) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the shift of each channel, float64, that a BatchNormalization is. Raises Refusal for one that
    trains or whose parameters are computed."""
    # Before opset 14 more than one output is what training mode is asked for with.
    if node.attrs.get("training_mode", 0) or (any(tensor.name for tensor in node.outputs[1:]) and opset < 14):
        raise Refusal("it trains")
    if node.attrs.get("spatial", 1) == 0:
        raise Refusal("it normalizes each position by itself")
    parameters = [constant(tensor) for tensor in node.inputs[1:5]]
    if any(values is None for values in parameters):
        raise Refusal("its parameters are not constant")
    if len(parameters) != 4 or len({values.shape for values in parameters if values is not None}) != 1:
        raise Refusal("its parameters are not one of each kind for each channel")
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - mean * scale


class WeightEditor:
    """Puts new weights into nodes: in place of the old ones where nobody else reads those, else as copies.

    ``in_blocks``: weights will have blocks of inputs that share a scale. So a product's inputs are not scaled apart:
    those that come to reach farthest would take the others' precision. And weights that a Gather reads as well, be it
    the transpose of what it reads, keep their numbers: the two are stored once."""

    def __init__(self, graph: ir.Graph, *, in_blocks: bool = False) -> None:
        self.graph = graph
        self._in_blocks = in_blocks
        self.namer = ir.Namer(graph)
        self._returned = ir.output_tensors(graph)
        gathers = (node for _, node in ir.all_nodes(graph) if in_blocks and node.op == "Gather" and not node.domain)
        self._tables = {_place(node.inputs[0]) for node in gathers if ir.is_constant(node.inputs[0])}

    def after(self, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
        """Makes the node compute ``scale * y + shift``, one number an output channel. MatMul takes no shift.

        Raises:
            Refusal: the node's bias is computed, or the result does not fit the weight's type; nothing has changed.
        """
        values = weight(node)
        assert values is not None
        scaled, shifted = bool(np.any(scale != 1)), bool(np.any(shift != 0))
        fresh = values
        if scaled:
            self._check(node)
            fresh = _scaled(values, _output_factor(node, values, scale))
        if node.op == "MatMul":
            assert not shifted
        else:
            self._set_bias(node, scale, shift, scaled or shifted, values.dtype)
        if scaled:
            self.put(node, 1, fresh)

    def before(self, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
        """Makes the node compute of ``x`` what it did of ``scale * x + shift``, one number an input channel.

        Raises:
            Refusal: as ``after``, or the node pads its input or is one that takes no shift.
        """
        values = weight(node)
        assert values is not None
        scaled = bool(np.any(scale != 1))
        fresh = values
        if scaled:
            self._check(node)
            if self._in_blocks and node.op in ("Gemm", "MatMul") and np.ptp(scale) > 0.0:
                raise Refusal("inputs that share a scale would reach unevenly")
            fresh = _scaled(values, _input_factor(node, values, scale))
        if np.any(shift != 0):
            self._shift_input(node, values.astype(np.float64), values.dtype, shift)
        if scaled:
            self.put(node, 1, fresh)

    def _check(self, node: ir.Node) -> None:
        if _place(node.inputs[1]) in self._tables:
            raise Refusal(f"the weight '{node.inputs[1].name}' is an embedding too, and would be stored twice")

    def _shift_input(self, node: ir.Node, values: np.ndarray, dtype: np.dtype, shift: np.ndarray) -> None:
        if node.op == "Conv":
            # The padding is 0 and stays 0: at the border the shift reaches fewer of the weights.
            if any(node.attrs.get("pads", [0])) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
                raise Refusal("a shift before a padded Conv does not reach the padding")
            by_input = values.sum(axis=tuple(range(2, values.ndim)))  # [outputs, inputs of one group]
            groups = _groups(node)
            grouped = by_input.reshape(groups, -1, by_input.shape[1])
            added = np.einsum("gmi,gi->gm", grouped, shift.reshape(groups, -1)).reshape(-1)
        elif node.op == "Gemm":
            matrix = values.T if node.attrs.get("transB", 0) else values
            added = shift @ matrix * node.attrs.get("alpha", 1.0)
        else:
            # MatMul has no bias to put it into; ConvTranspose overlaps its outputs differently at the border.
            raise Refusal(f"a shift before {node.op} has nowhere to go")
        self._set_bias(node, np.ones_like(added), added, True, dtype)

    def _set_bias(self, node: ir.Node, scale: np.ndarray, shift: np.ndarray, changed: bool, dtype: np.dtype) -> None:
        """Makes the bias ``scale * bias + shift``."""
        tensor = operand(node, 2)
        if tensor is None:
            if np.any(shift != 0):
                self.put(node, 2, rounded(shift, dtype))
                node.attrs.pop("beta", None)
            return
        values = constant(tensor)
        # A bias that is computed would have to be scaled while the model runs.
        if values is None:
            raise Refusal("its bias is not constant")
        if not changed:
            return
        old = per_channel(values, 1 if node.op != "Gemm" else 2, -1, len(scale))
        if old is None:
            raise Refusal(f"its bias of shape {list(values.shape)} is not one number per output channel")
        beta = node.attrs.get("beta", 1.0) if node.op == "Gemm" else 1.0
        fresh = rounded(old * beta * scale + shift, values.dtype)
        node.attrs.pop("beta", None)
        self.put(node, 2, fresh)

    def put(self, node: ir.Node, index: int, values: np.ndarray) -> None:
        """Gives a node another constant."""
        values.flags.writeable = False
        old = operand(node, index)
        if isinstance(old, ir.Constant) and len(old.outputs) == 1 and old not in self._returned:
            old.values = values
            return
        hint = old.name if old is not None else f"{node.name}_bias"
        fresh = ir.Constant(self.namer(hint), values)
        if index < len(node.inputs):
            node.inputs[index] = fresh
        else:
            node.inputs.append(fresh)


def fold_chain(
    editor: WeightEditor, inner: ir.Graph, node: ir.Node, chain: list[ir.Node], scale: np.ndarray, shift: np.ndarray
) -> None:
    """Lets a linear node compute what the chain of nodes after it did, and removes the chain.

    Raises:
        Refusal: nothing has changed.
    """
    result = chain[-1].outputs[0]
    separate = node.op == "MatMul" and bool(np.any(shift != 0))
    if separate:
        dtype = node.inputs[1].dtype
        bias = ir.Constant(editor.namer(f"{node.name}_bias"), rounded(shift, dtype))
        editor.after(node, scale, np.zeros_like(shift))
    else:
        editor.after(node, scale, shift)
    for old in chain:
        ir.detach(old)
    gone = set(chain)
    inner.nodes[:] = [other for other in inner.nodes if other not in gone]
    if not separate:
        node.outputs[0] = result
        return
    bias.values.flags.writeable = False
    add = ir.Node("Add", editor.namer(f"{node.name}_add"), inputs=[node.outputs[0], bias], outputs=[result])
    position = next(index for index, other in enumerate(inner.nodes) if other is node)
    inner.nodes.insert(position + 1, add)


def laid_out(tensor: ir.Tensor) -> ir.Node | None:
    """The node that computes what Reshape and Transpose only lay out anew; None where it is an input or a constant."""
    node = ir.producer(tensor)
    while node is not None and node.op in ("Reshape", "Transpose"):
        node = ir.producer(node.inputs[0])
    return node


def _place(tensor: ir.Constant) -> int:
    """Where the values are in memory: the same for a weight and the view of it that is its transpose."""
    return int(tensor.values.__array_interface__["data"][0])


def _groups(node: ir.Node) -> int:
    return int(node.attrs.get("group", 1))


def _output_axis(node: ir.Node) -> int:
    return 0 if node.op == "Gemm" and node.attrs.get("transB", 0) else -1


def _output_factor(node: ir.Node, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scale of each output channel, shaped to multiply the weight."""
    spatial = [1] * (values.ndim - 2)
    if node.op == "Conv":
        return scale.reshape(-1, 1, *spatial)
    if node.op == "ConvTranspose":  # weight [inputs, outputs of one group, ...]: a group of inputs has its own outputs
        groups = _groups(node)
        by_group = np.repeat(scale.reshape(groups, -1), values.shape[0] // groups, axis=0)
        return by_group.reshape(values.shape[0], values.shape[1], *spatial)
    return scale.reshape(-1, 1) if _output_axis(node) == 0 else scale


def _input_factor(node: ir.Node, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scale of each input channel, shaped to multiply the weight."""
    spatial = [1] * (values.ndim - 2)
    if node.op == "Conv":  # weight [outputs, inputs of one group, ...]: a group of outputs has its own inputs
        groups = _groups(node)
        by_group = np.repeat(scale.reshape(groups, -1), values.shape[0] // groups, axis=0)
        return by_group.reshape(values.shape[0], values.shape[1], *spatial)
    if node.op == "ConvTranspose":
        return scale.reshape(-1, 1, *spatial)
    return scale if _output_axis(node) == 0 else scale.reshape(-1, 1)


def _scaled(values: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The product, a block of rows at a time: in float64 a large weight would take two or four times its size."""
    factor = np.broadcast_to(factor, values.shape)
    result = np.empty(values.shape, values.dtype)
    rows = max(1, _BLOCK // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        result[part] = rounded(values[part].astype(np.float64) * factor[part], values.dtype)
    return result


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Float64 values in the type of a weight. Raises Refusal if one of them has no finite place there."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype)
    if not np.all(np.isfinite(result)):
        raise Refusal(f"the folded values do not fit {np.dtype(dtype).name}")
    return result
