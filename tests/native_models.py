"""Models of one operator of the native library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from qcompiler import native


def observing_model(table: int, slot: int = 0, element: int = TensorProto.FLOAT) -> bytes:
    """X, of any shape, into slot ``slot`` of table ``table``; Y is the number of elements."""
    node = helper.make_node("Observe", ["X"], ["Y"], domain=native.DOMAIN, table=table, slot=slot)
    graph = helper.make_graph(
        [node],
        "observe",
        [helper.make_tensor_value_info("X", element, None)],
        [helper.make_tensor_value_info("Y", TensorProto.INT64, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@dataclass(frozen=True)
class Int4Weights:
    """Weights [K, N] in 4 bits as MatMulInt4 and GatherInt4 take them, and the numbers they stand for."""

    depth: int
    columns: int
    block: int  # 0: one scale a column
    packed: np.ndarray  # uint8 [N, blocks, bytes]
    scales: np.ndarray  # float32 or float16 [N, blocks]
    zero_points: np.ndarray | None  # uint8 [N, ceil(blocks / 2)]
    values: np.ndarray  # float64 [K, N]

    @property
    def attributes(self) -> dict[str, int]:
        return {"K": self.depth, "N": self.columns, "block_size": self.block}

    @property
    def initializers(self) -> dict[str, np.ndarray]:
        named = {"B": self.packed, "scales": self.scales}
        return named if self.zero_points is None else {**named, "zero_points": self.zero_points}


def random_int4_weights(
    depth: int, columns: int, block: int, zero_points: bool = False, scales: type = np.float32, seed: int = 0
) -> Int4Weights:
    rng = np.random.default_rng(seed)
    width = block or depth
    blocks = depth // width
    four_bits = rng.integers(0, 16, (columns, blocks, width), dtype=np.uint8)
    scale = (rng.uniform(0.5, 2, (columns, blocks)) * rng.choice([-0.01, 0.01], (columns, blocks))).astype(scales)
    zero_point = rng.integers(0, 16, (columns, blocks), dtype=np.uint8) if zero_points else np.full_like(scale, 8)
    values = (four_bits - zero_point.astype(np.float64)[..., None]) * scale.astype(np.float64)[..., None]
    return Int4Weights(
        depth, columns, block, pack_pairs(four_bits), scale, pack_pairs(zero_point) if zero_points else None,
        values.reshape(columns, depth).T,
    )


def pack_pairs(four_bits: np.ndarray) -> np.ndarray:
    """Two neighbours along the last axis to a byte, the even one in its low half."""
    padded = np.concatenate([four_bits, np.zeros((*four_bits.shape[:-1], four_bits.shape[-1] % 2), np.uint8)], axis=-1)
    return padded[..., ::2] | padded[..., 1::2] << 4


def matmul_int4_model(
    weights: Int4Weights, bias: np.ndarray | None = None, element: int = TensorProto.FLOAT,
    constants: bool = True, **attributes: object,
) -> bytes:
    """A [..., K] in, Y [..., N] out, through one MatMulInt4 named "product"."""
    initializers = dict(weights.initializers)
    if bias is not None:
        initializers["bias"] = bias
    names = [name if name in initializers else "" for name in ("B", "scales", "zero_points", "bias")]
    node = helper.make_node(
        "MatMulInt4", ["A", *names], ["Y"], name="product", domain=native.DOMAIN, **{**weights.attributes, **attributes}
    )
    return _int4_model(node, helper.make_tensor_value_info("A", element, None), element, initializers, constants)


def gather_int4_model(weights: Int4Weights, indices: int = TensorProto.INT64, **attributes: object) -> bytes:
    """A, indices, in; Y, their rows of the transposed weights, out, through one GatherInt4 named "embedding"."""
    names = [name if name in weights.initializers else "" for name in ("B", "scales", "zero_points")]
    node = helper.make_node(
        "GatherInt4", ["A", *names], ["Y"], name="embedding", domain=native.DOMAIN,
        **{**weights.attributes, **attributes},
    )
    element = helper.np_dtype_to_tensor_dtype(weights.scales.dtype)
    return _int4_model(node, helper.make_tensor_value_info("A", indices, None), element, weights.initializers, True)


def _int4_model(node, a, element: int, initializers: dict[str, np.ndarray], constants: bool) -> bytes:
    computed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in initializers.items()
    ]
    graph = helper.make_graph(
        [node],
        "int4",
        [a] if constants else [a, *computed],
        [helper.make_tensor_value_info("Y", element, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()] if constants else [],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def table_lookup_model(table: np.ndarray, codes: type = np.uint8, constant: bool = True, **attributes: object) -> bytes:
    """X of any shape in, Y out, through one TableLookup named "lookup"; ``table`` may be an input too."""
    entries = helper.np_dtype_to_tensor_dtype(table.dtype)
    x = helper.make_tensor_value_info("X", helper.np_dtype_to_tensor_dtype(np.dtype(codes)), None)
    graph = helper.make_graph(
        [helper.make_node("TableLookup", ["X", "table"], ["Y"], name="lookup", domain=native.DOMAIN, **attributes)],
        "lookup",
        [x] if constant else [x, helper.make_tensor_value_info("table", entries, None)],
        [helper.make_tensor_value_info("Y", entries, None)],
        [numpy_helper.from_array(table, "table")] if constant else [],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def lookups_model(
    lookups: dict[str, tuple[str, np.ndarray]], outputs: list[str], shape: list[int | str | None] | None
) -> bytes:
    """X, uint8, in; each entry of ``lookups`` is a tensor's name, what it is looked up from, and the table."""
    graph = helper.make_graph(
        [
            helper.make_node("TableLookup", [x, f"{y}_table"], [y], domain=native.DOMAIN)
            for y, (x, _) in lookups.items()
        ],
        "lookups",
        [helper.make_tensor_value_info("X", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info(y, helper.np_dtype_to_tensor_dtype(lookups[y][1].dtype), None)
            for y in outputs
        ],
        [numpy_helper.from_array(table, f"{y}_table") for y, (_, table) in lookups.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@dataclass(frozen=True)
class QuantizedProduct:
    """Y = X · S in 8 bits, as TableLookup2 or as ONNX Runtime's QLinearMul."""

    x: tuple[float, int]  # scale, zero point
    s: tuple[float, int]
    y: tuple[float, int]
    codes: type = np.uint8

    def model(self, operator: str, constants: bool = True, **replaced: np.ndarray) -> bytes:
        """X and S, of any shape, in, Y out, through one node named "product"; ``replaced`` are other parameters."""
        scales = {name: np.array(value[0], np.float32) for name, value in (("x", self.x), ("s", self.s), ("y", self.y))}
        parameters = {
            "x_scale": scales["x"], "x_zero_point": np.array(self.x[1], self.codes),
            "s_scale": scales["s"], "s_zero_point": np.array(self.s[1], self.codes),
            "y_scale": scales["y"], "y_zero_point": np.array(self.y[1], self.codes),
        } | replaced
        names = list(parameters)
        ours = operator == "TableLookup2"
        inputs = ["X", "S", *names] if ours else ["X", *names[:2], "S", *names[2:]]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(self.codes))
        graph = helper.make_graph(
            [helper.make_node(operator, inputs, ["Y"], "product", domain=native.DOMAIN if ours else "com.microsoft")],
            "product",
            [
                *[helper.make_tensor_value_info(name, element, None) for name in ("X", "S")],
                *[
                    helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                    for name, value in parameters.items()
                    if not constants
                ],
            ],
            [helper.make_tensor_value_info("Y", element, None)],
            [numpy_helper.from_array(value, name) for name, value in parameters.items()] if constants else [],
        )
        opsets = [helper.make_opsetid(*opset) for opset in (("", 17), ("com.microsoft", 1), (native.DOMAIN, 1))]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()

    def values(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The operator's result, in numpy."""
        product = ((x.astype(np.int32) - self.x[1]) * (s.astype(np.int32) - self.s[1])).astype(np.float32)
        ratio = np.float32(self.x[0]) * np.float32(self.s[0]) / np.float32(self.y[0])
        limits = np.iinfo(self.codes)
        return np.clip(np.rint(product * ratio) + self.y[1], limits.min, limits.max).astype(self.codes)


def matmul_int8_model(codes: np.ndarray, scales: np.ndarray, bias: np.ndarray | None = None) -> bytes:
    """A [..., K] times W [K, N], a constant bias behind it."""
    constants = {"B": codes, "scales": scales, **({} if bias is None else {"bias": bias})}
    node = helper.make_node("MatMulInt8", ["A", *constants], ["Y"], name="product", domain=native.DOMAIN)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@dataclass(frozen=True)
class DepthwiseConvolution:
    """A convolution in 8 bits with one filter a channel, as DepthwiseConvInt8 or as ONNX Runtime's QLinearConv."""

    weights: np.ndarray  # int8 [C, 1, kH, kW]
    w_scale: np.ndarray  # float32 [C]
    bias: np.ndarray | None = None  # int32 [C]
    x: tuple[float, int] = (0.02, 100)  # scale, zero point
    y: tuple[float, int] = (0.2, 90)
    codes: type = np.uint8
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def model(self, operator: str = "DepthwiseConvInt8", constants: bool = True, **replaced: object) -> bytes:
        """X [N, C, H, W] in, Y out; the operator of ours, named "filter", stands between Transposes. ``replaced`` are
        other parameters or attributes."""
        parameters = {
            "x_scale": np.array(self.x[0], np.float32), "x_zero_point": np.array(self.x[1], self.codes),
            "W": self.weights, "w_scale": self.w_scale,
            "y_scale": np.array(self.y[0], np.float32), "y_zero_point": np.array(self.y[1], self.codes),
            **({} if self.bias is None else {"B": self.bias}),
        }  # fmt: skip
        attributes = {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}
        for name, value in replaced.items():
            (attributes if name in attributes else parameters)[name] = value  # type: ignore[index]
        names = list(parameters)
        if operator == "QLinearConv":
            parameters["w_zero_point"] = np.zeros((), np.int8)
            inputs = ["X", *names[:4], "w_zero_point", *names[4:]]
            nodes = [helper.make_node(operator, inputs, ["Y"], "filter", group=len(self.weights), **attributes)]
        else:
            nodes = [
                helper.make_node("Transpose", ["X"], ["x"], perm=[0, 2, 3, 1]),
                helper.make_node(operator, ["x", *names], ["y"], "filter", domain=native.DOMAIN, **attributes),
                helper.make_node("Transpose", ["y"], ["Y"], perm=[0, 3, 1, 2]),
            ]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(self.codes))
        computed = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in parameters.items()
            if not constants
        ]
        graph = helper.make_graph(
            nodes,
            "filter",
            [helper.make_tensor_value_info("X", element, [None] * 4), *computed],
            [helper.make_tensor_value_info("Y", element, None)],
            [numpy_helper.from_array(value, name) for name, value in parameters.items()] if constants else [],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def random_depthwise(channels: int, taps: tuple[int, int], seed: int = 0, **options: object) -> DepthwiseConvolution:
    """Weights and biases of all sizes, and a step of Y that the sums about fill."""
    rng = np.random.default_rng(seed)
    return DepthwiseConvolution(
        rng.integers(-128, 128, (channels, 1, *taps)).astype(np.int8),
        rng.uniform(0.005, 0.02, channels).astype(np.float32),
        rng.integers(-3000, 3000, channels).astype(np.int32),
        y=(0.02 * 0.01 * 80 * float(np.sqrt(np.prod(taps))), int(rng.integers(0, 100))),
        **options,  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Gru:
    """A GRU with 8-bit weights, as GRUInt8 and as what it stands for; D directions of H units."""

    w: np.ndarray  # int8 [D, I, 3H]
    r: np.ndarray  # int8 [D, H, 3H]
    w_scales: np.ndarray  # float32 [D, 3H]
    r_scales: np.ndarray  # float32 [D, 3H]
    bias: np.ndarray | None = None  # float32 [D, 6H]
    direction: str = "forward"
    reset_behind: bool = False
    extra: tuple[str, ...] = ()  # of sequence_lens and initial_h, those that are given in a run

    def model(self) -> bytes:
        constants = {"W": self.w, "w_scales": self.w_scales, "R": self.r, "r_scales": self.r_scales}
        constants |= {} if self.bias is None else {"B": self.bias}
        names = ["X", *constants, *([""] if self.bias is None else [])]
        names += [name if name in self.extra else "" for name in ("sequence_lens", "initial_h")]
        node = helper.make_node(
            "GRUInt8", names, ["Y", "Y_h"], name="gru", domain=native.DOMAIN, direction=self.direction,
            linear_before_reset=int(self.reset_behind),
        )  # fmt: skip
        kinds = {"X": TensorProto.FLOAT, "sequence_lens": TensorProto.INT32, "initial_h": TensorProto.FLOAT}
        graph = helper.make_graph(
            [node],
            "gru",
            [helper.make_tensor_value_info(name, kinds[name], None) for name in ("X", *self.extra)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_h")],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(native.DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
