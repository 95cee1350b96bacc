"""Decoders of the Llama family, from arrays to ONNX: two forms of one model, without a cache and with one.

    logits                          [batch, sequence, vocabulary]   from  input_ids [batch, sequence]
    logits, present.0.key, …        from  input_ids, past_key_values.0.key, … [batch, kv_heads, past, size]

Written in plain operators, one node an operation, as exporters write them: RMSNorm as Pow, ReduceMean, Sqrt and Div;
the head as a product with the transposed embedding. Rows of a batch are equally long: there is no padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21  # the first with 4-bit types, which tools add
LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True)
class Llama:
    """The shape of a model.

    base          of the rotary position embedding: pair i of `size / 2` turns by base^(-2i / size) a position.
    interleaved   whether a pair is two neighbours of a head (Llama's own code) or a value of each half (Hugging Face).
    """

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    base: float = 10000.0
    epsilon: float = 1e-5
    interleaved: bool = False

    @property
    def size(self) -> int:
        """Of one head."""
        return self.width // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that `model` wants, by name."""
        kv_width = self.kv_heads * self.size
        sizes = {
            "query": (self.width, self.width),
            "key": (kv_width, self.width),
            "value": (kv_width, self.width),
            "output": (self.width, self.width),
            "gate": (self.hidden, self.width),
            "up": (self.hidden, self.width),
            "down": (self.width, self.hidden),
        }
        found: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.width), "norm": (self.width,)}
        for layer in range(self.layers):
            found |= {f"{layer}.{name}": size for name, size in sizes.items()}
            found |= {f"{layer}.{name}": (self.width,) for name in ("attention_norm", "hidden_norm")}
        return found


def caches(layers: int, prefix: str) -> list[str]:
    """The names of the inputs (`past_key_values`) or outputs (`present`) that hold keys and values."""
    return [f"{prefix}.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]


def model(shape: Llama, weights: Mapping[str, np.ndarray], cached: bool, name: str) -> onnx.ModelProto:
    """The model in one of its forms. `weights` are float32, `shape.shapes()` says which; the head is the embedding."""
    return _Writer(shape, weights).model(cached, name)


class _Writer:
    """Collects nodes and initializers; each method returns the name of what it computed."""

    def __init__(self, shape: Llama, weights: Mapping[str, np.ndarray]) -> None:
        self.shape = shape
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.outputs: list[str] = []

    def node(self, name: str, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return name if outputs == 1 else names

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str) -> str:
        """As published."""
        return self.constant(f"{name}.weight", self.weights[name], np.float32)

    def linear(self, name: str, x: str) -> str:
        matrix = self.constant(f"{name}.weight", np.ascontiguousarray(self.weights[name].T), np.float32)
        return self.node(name, "MatMul", x, matrix)

    def norm(self, name: str, x: str) -> str:
        """x / sqrt(mean(x²) + epsilon) · weight (Zhang and Sennrich, arXiv 1910.07467)."""
        square = self.node(f"{name}.square", "Pow", x, self.constant("two", 2, np.float32))
        mean = self.node(f"{name}.mean", "ReduceMean", square, self.constant("last axis", [-1]), keepdims=1)
        shifted = self.node(f"{name}.shifted", "Add", mean, self.constant("epsilon", self.shape.epsilon, np.float32))
        root = self.node(f"{name}.root", "Sqrt", shifted)
        normal = self.node(f"{name}.normal", "Div", x, root)
        return self.node(name, "Mul", normal, self.weight(name))

    def positions(self, cached: bool) -> None:
        """`cos` and `sin` [sequence, 1, size], and `mask` [sequence, total]: what lies ahead is hidden."""
        length = self.node("length", "Shape", "input_ids", start=1, end=2)
        origin, one = self.constant("origin", 0), self.constant("one", 1)
        start, end = origin, self.node("length.scalar", "Squeeze", length)
        if cached:
            past = self.node("past", "Shape", "past_key_values.0.key", start=2, end=3)
            start = self.node("past.scalar", "Squeeze", past)
            end = self.node("total", "Add", start, end)
        rows = self.node("rows", "Range", start, end, one)
        columns = self.node("columns", "Range", origin, end, one)
        rows = self.node("rows.column", "Unsqueeze", rows, self.constant("axis 1", [1]))
        ahead = self.node("ahead", "Greater", columns, rows)
        lowest, nothing = self.constant("lowest", LOWEST, np.float32), self.constant("nothing", 0, np.float32)
        self.node("mask", "Where", ahead, lowest, nothing)

        # Turning (a, b) by an angle is (a, b) · cos + (−b, a) · sin. The sign goes with the angle: cos(−t) = cos t.
        size = self.shape.size
        frequencies = self.shape.base ** (-np.arange(0, size, 2) / size)
        signed = np.stack([-frequencies, frequencies], axis=1 if self.shape.interleaved else 0).reshape(1, 1, size)
        steps = self.node("steps", "Cast", rows, to=TensorProto.FLOAT)
        steps = self.node("steps.last", "Unsqueeze", steps, self.constant("axis 2", [2]))
        angles = self.node("angles", "Mul", steps, self.constant("frequencies", signed, np.float32))
        self.node("cos", "Cos", angles)
        self.node("sin", "Sin", angles)

    def rotated(self, name: str, x: str) -> str:
        """Rotary position embedding (Su et al., arXiv 2104.09864) of x [batch, sequence, heads, size]."""
        size = self.shape.size
        if self.shape.interleaved:
            order = self.constant("partners", np.arange(size).reshape(-1, 2)[:, ::-1].reshape(-1))
            partner = self.node(f"{name}.partner", "Gather", x, order, axis=-1)
        else:
            low, high = self.node(f"{name}.halves", "Split", x, outputs=2, axis=-1, num_outputs=2)
            partner = self.node(f"{name}.partner", "Concat", high, low, axis=-1)
        kept = self.node(f"{name}.cos", "Mul", x, "cos")
        turned = self.node(f"{name}.sin", "Mul", partner, "sin")
        return self.node(f"{name}.rotated", "Add", kept, turned)

    def attention(self, layer: int, x: str, cached: bool) -> str:
        """Grouped-query attention (Ainslie et al., arXiv 2305.13245)."""
        shape = self.shape
        grouped = shape.heads != shape.kv_heads
        heads = {"query": shape.heads, "key": shape.kv_heads, "value": shape.kv_heads}
        parts = {}
        for kind, count in heads.items():
            name = f"{layer}.{kind}"
            part = self.linear(name, x)
            part = self.node(f"{name}.heads", "Reshape", part, self.constant(f"{count} heads", [0, 0, count, -1]))
            if kind != "value":
                part = self.rotated(name, part)
            parts[kind] = self.node(f"{name}.moved", "Transpose", part, perm=[0, 2, 1, 3])
        query = parts["query"]
        if cached:
            for kind in ("key", "value"):
                past, present = f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}"
                parts[kind] = self.node(present, "Concat", past, parts[kind], axis=2)
                self.outputs.append(present)
        key, value = parts["key"], parts["value"]
        if grouped:
            groups = self.constant("groups", [0, shape.kv_heads, shape.heads // shape.kv_heads, -1, shape.size])
            query = self.node(f"{layer}.query.groups", "Reshape", query, groups)
            axis = self.constant("axis 2", [2])
            key = self.node(f"{layer}.key.group", "Unsqueeze", key, axis)
            value = self.node(f"{layer}.value.group", "Unsqueeze", value, axis)
        order = [0, 1, 2, 4, 3] if grouped else [0, 1, 3, 2]
        key = self.node(f"{layer}.key.transposed", "Transpose", key, perm=order)
        scores = self.node(f"{layer}.products", "MatMul", query, key)
        factor = self.constant("scale", shape.size**-0.5, np.float32)
        scores = self.node(f"{layer}.scores", "Mul", scores, factor)
        scores = self.node(f"{layer}.masked", "Add", scores, "mask")
        weights = self.node(f"{layer}.weights", "Softmax", scores, axis=-1)
        mixed = self.node(f"{layer}.mixed", "MatMul", weights, value)
        order = [0, 3, 1, 2, 4] if grouped else [0, 2, 1, 3]
        mixed = self.node(f"{layer}.mixed.moved", "Transpose", mixed, perm=order)
        mixed = self.node(f"{layer}.joined", "Reshape", mixed, self.constant("joined", [0, 0, shape.width]))
        return self.linear(f"{layer}.output", mixed)

    def hidden(self, layer: int, x: str) -> str:
        """SwiGLU (Shazeer, arXiv 2002.05202)."""
        gate = self.linear(f"{layer}.gate", x)
        gate = self.node(f"{layer}.silu", "Mul", gate, self.node(f"{layer}.sigmoid", "Sigmoid", gate))
        up = self.linear(f"{layer}.up", x)
        return self.linear(f"{layer}.down", self.node(f"{layer}.gated", "Mul", gate, up))

    def model(self, cached: bool, name: str) -> onnx.ModelProto:
        shape = self.shape
        self.positions(cached)
        x = self.node("embedded", "Gather", self.weight("embedding"), "input_ids")
        for layer in range(shape.layers):
            mixed = self.attention(layer, self.norm(f"{layer}.attention_norm", x), cached)
            x = self.node(f"{layer}.attended", "Add", x, mixed)
            thought = self.hidden(layer, self.norm(f"{layer}.hidden_norm", x))
            x = self.node(f"{layer}.left", "Add", x, thought)
        head = self.node("head.weight", "Transpose", self.weight("embedding"), perm=[1, 0])
        self.node("logits", "MatMul", self.norm("norm", x), head)

        def value(kind: int, name: str, *axes: int | str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, axes)

        inputs = [value(TensorProto.INT64, "input_ids", "batch", "sequence")]
        outputs = [value(TensorProto.FLOAT, "logits", "batch", "sequence", shape.vocabulary)]
        if cached:
            sizes = [("batch", shape.kv_heads, length, shape.size) for length in ("past", "total")]
            inputs += [value(TensorProto.FLOAT, one, *sizes[0]) for one in caches(shape.layers, "past_key_values")]
            outputs += [value(TensorProto.FLOAT, one, *sizes[1]) for one in self.outputs]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
