"""Compiles a few layers, and says what 8 bits, and the pass that is made for the layer, make of their time.

    python tools/bench_layers.py [PASS ...] [--seconds S]

Random weights and samples, no options but --no-timing. Float and compiled run one after the other in every round, one
thread; speed is the median of ratios within rounds, with and without the pass.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper, parser
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler import ir, runtime
from qcompiler.verify import timing

LSTM = """<ir_version: 9, opset_import: ["" : 20]> g (float[{steps},1,{inputs}] x) => (float y) {{
    y = LSTM <hidden_size = {units}, direction = "{direction}"> (x, w, r) }}"""
GRU = """<ir_version: 9, opset_import: ["" : 20]> g (float[{steps},1,{inputs}] x) => (float y) {{
    y = GRU <hidden_size = {units}, linear_before_reset = 1, direction = "{direction}"> (x, w, r) }}"""
DECODER = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,16,80,80] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) t = ConvTranspose <strides = [2,2]> (r, v, b) s = Relu(t)
    y = Conv <pads = [1,1,1,1]> (s, u) }"""

BRANCHES = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,64,40,40] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) h = Relu(i) a = Conv <pads = [1,1,1,1]> (h, u) c = Conv(h, v)
    n = BatchNormalization(h, scale, shift, mean, variance) s = Add(a, c) t = Add(s, n) r = Relu(t)
    y = Conv <pads = [1,1,1,1]> (r, z) }"""
MEAN = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,64,40,40] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) m = ReduceMean(r, axes) c = Conv(m, u) d = Relu(c) e = Conv(d, v)
    f = HardSigmoid(e) s = Mul(r, f) y = Conv <pads = [1,1,1,1]> (s, z) }"""

DENSE = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,28,28] x) => (float[1,32,28,28] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) n = BatchNormalization(i, s, t, m, variance) r = Relu(n)
    a = Conv <pads = [1,1,1,1]> (r, u) c = Concat <axis = 1> (i, a)
    k = BatchNormalization(c, ss, tt, mm, wide_variance) q = Relu(k) y = Conv(q, v) }"""

PRELU = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) p = PRelu(i, slope) y = Conv <pads = [1,1,1,1]> (p, u) }"""
PRELU_STEEP = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) k = Exp(slope) p = PRelu(i, k) y = Conv <pads = [1,1,1,1]> (p, u) }"""
PRELU_WRITTEN = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) r = Relu(i) n = Neg(i) b = Relu(n) t = Transpose <perm = [0,2,3,1]> (b)
    m = Mul(t, slope) c = Transpose <perm = [0,3,1,2]> (m) p = Sub(r, c) y = Conv <pads = [1,1,1,1]> (p, u) }"""

GENERATOR = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,16,80,80] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) t = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (r, v, b)
    s = Relu(t) y = Conv <pads = [1,1,1,1]> (s, u) }"""
POOLED = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,64,40,40] y) {
    i = Conv <pads = [1,1,1,1]> (x, w) r = Relu(i)
    p = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (r)
    y = Conv <pads = [1,1,1,1]> (p, u) }"""
GROUPED = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,64,40,40] y) {
    i = Conv(x, w) r = Relu(i) c = Conv <pads = [1,1,1,1], group = 16> (r, v) s = Relu(c) y = Conv(s, u) }"""

NORMALIZED = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,384] x) => (float[1,64,384] y) {
    p = MatMul(x, w) a = Add(p, x) n = LayerNormalization <axis = -1> (a, scale, shift) h = MatMul(n, u) g = Gelu(h)
    q = MatMul(g, v) c = Add(q, n) y = LayerNormalization <axis = -1> (c, scale, shift) }"""
SEGMENTED = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,32,64,64] x) => (float[1,19,128,128] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) c = Conv(r, u)
    l = Resize <mode = "linear"> (c, none, twice) y = Softmax <axis = 1> (l) }"""
LOCAL = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a) n = LRN <size = 5> (r) y = Conv <pads = [1,1,1,1]> (n, u) }"""
ELU = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) e = Elu(a) y = Conv <pads = [1,1,1,1]> (e, u) }"""
COLUMN = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,256,1] x) => (float[1,64,256,1] y) {
    i = Conv <pads = [1,0,1,0]> (x, w) e = Elu(i) y = Conv <pads = [1,0,1,0]> (e, u) }"""
SOFTPLUS = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,384] x) => (float[1,64,384] y) {
    a = MatMul(x, w) s = Softplus(a) y = MatMul(s, u) }"""
MISH = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,56,56] x) => (float[1,64,56,56] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) s = Softplus(a) t = Tanh(s) m = Mul(a, t)
    y = Conv <pads = [1,1,1,1]> (m, u) }"""
HEADS = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,384] x) => (float[1,64,384] y) {
    q = Einsum <equation = "abc,cde->abde"> (x, w) k = Einsum <equation = "abc,cde->abde"> (x, u)
    v = Einsum <equation = "abc,cde->abde"> (x, z) s = Einsum <equation = "aecd,abcd->acbe"> (k, q)
    p = Softmax <axis = -1> (s) o = Einsum <equation = "acbe,aecd->abcd"> (p, v)
    y = Einsum <equation = "abcd,cde->abe"> (o, r) }"""
TOKENS = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,197,384] x) => (float[1,1,100] y) {
    h = MatMul(x, w) m = ReduceMean(h, row) y = MatMul(m, u) }"""
NECK = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,40,40] x) => (float[1,64,80,80] y) {
    a = Conv <pads = [1,1,1,1]> (x, w) r = Relu(a)
    l = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (r, none, twice)
    y = Conv(l, u) }"""
TABULAR = """<ir_version: 9, opset_import: ["" : 20]> g (float[64,256] x) => (float[64,10] y) {
    a = Gemm(x, w, b) r = Relu(a) n = LayerNormalization <axis = -1> (r, scale, shift) c = Gemm(n, u, b) s = Relu(c)
    l = LayerNormalization <axis = -1> (s, scale, shift) y = Gemm(l, v) }"""
ROOTS = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,64,384] x) => (float[1,64,384] y) {
    p = MatMul(x, w) a = Add(p, x) q = Pow(a, square) m = ReduceMean(q, deepest) e = Add(m, small) s = Sqrt(e)
    r = Reciprocal(s) n = Mul(a, r) h = Mul(scale, n) y = MatMul(h, u) }"""
STEPS = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,20,128] x) => (float[1,20,64] y) {{
    {parts} = Split <axis = 1, num_outputs = 20> (x) {steps} y = Concat <axis = 1> ({ends}) }}"""
MASKED = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,128,384] x) => (float[1,128,384] y) {
    c = Gather <axis = 2> (x, first) o = Greater(c, nought) h = Unsqueeze(o, places) n = Where(h, nought, infinite)
    q = MatMul(x, w) k = MatMul(x, u) v = MatMul(x, z) qs = Reshape(q, heads) ks = Reshape(k, heads)
    vs = Reshape(v, heads) qt = Transpose <perm = [0,2,1,3]> (qs) kt = Transpose <perm = [0,2,3,1]> (ks)
    vt = Transpose <perm = [0,2,1,3]> (vs) p = MatMul(qt, kt) m = Add(p, n) s = Softmax(m) e = IsNaN(s)
    g = Where(e, nought, s) a = MatMul(g, vt) t = Transpose <perm = [0,2,1,3]> (a) f = Reshape(t, flat)
    y = MatMul(f, r) }"""
ATTENTION = """<ir_version: 9, opset_import: ["" : 20]> g (float[1,1024,256] x) => (float[1,1024,256] y) {
    q = MatMul(x, w) k = MatMul(x, u) v = MatMul(x, z) qs = Reshape(q, parted) ks = Reshape(k, parted)
    vs = Reshape(v, parted) qt = Transpose <perm = [0,2,1,3]> (qs) kt = Transpose <perm = [0,2,3,1]> (ks)
    vt = Transpose <perm = [0,2,1,3]> (vs) p = MatMul(qt, kt) m = Mul(p, eighth) s = Softmax(m) a = MatMul(s, vt)
    t = Transpose <perm = [0,2,1,3]> (a) f = Reshape(t, joined) y = MatMul(f, r) }"""
CONSTANTS = {
    "parted": np.array([0, 0, 4, 64]), "joined": np.array([0, 0, 256]), "eighth": np.float32(0.125),
    "first": np.array(0), "nought": np.float32(0), "infinite": np.float32(-np.inf), "places": np.array([1, 2]),
    "heads": np.array([0, 0, 12, 32]), "flat": np.array([0, 0, 384]),
    "row": np.array([1]), "axes": np.array([2, 3]), "none": np.zeros(0, np.float32),
    "square": np.float32(2), "deepest": np.array([-1]), "small": np.float32(1e-6),
    "twice": np.array([1, 1, 2, 2], np.float32),
}


NATIVE = ("fuse-gru",)
"""Passes that write operators of our own."""


def layers() -> list[tuple[str, str, str, dict[str, tuple[int, ...]]]]:
    """(name, program, the pass that is made for it, shapes of its weights)."""
    found = []
    for steps, inputs, units, both in ((80, 128, 128, True), (80, 256, 256, True), (40, 512, 512, False),
                                       (160, 96, 96, True)):  # fmt: skip
        ways = 1 + both
        text = LSTM.format(steps=steps, inputs=inputs, units=units, direction="bidirectional" if both else "forward")
        shapes = {"w": (ways, 4 * units, inputs), "r": (ways, 4 * units, units)}
        found.append((f"LSTM, {ways} x {units} units of {inputs}, {steps} steps", text, "fuse-lstm", shapes))
    for steps, inputs, units, both in ((80, 128, 128, True), (80, 256, 256, True), (40, 400, 400, False)):
        ways = 1 + both
        text = GRU.format(steps=steps, inputs=inputs, units=units, direction="bidirectional" if both else "forward")
        shapes = {"w": (ways, 3 * units, inputs), "r": (ways, 3 * units, units)}
        found.append((f"GRU, {ways} x {units} units of {inputs}, {steps} steps", text, "fuse-gru", shapes))
    shapes = {"w": (128, 64, 3, 3), "v": (128, 64, 2, 2), "b": (64,), "u": (16, 64, 3, 3)}
    found.append(("Conv, ConvTranspose, Conv, 64 x 80 x 80", DECODER, "subpixel-conv", shapes))
    square, tap = (64, 64, 3, 3), (64, 64, 1, 1)
    shapes = {"w": square, "u": square, "v": tap, "z": square}
    shapes |= dict.fromkeys(("scale", "shift", "mean", "variance"), (64,))
    found.append(("Conv of 9 taps, of one and BatchNormalization, 64 x 40 x 40", BRANCHES, "merge-branches", shapes))
    shapes = {"w": square, "u": (16, 64, 1, 1), "v": (64, 16, 1, 1), "z": square}
    found.append(("squeeze and excite, 64 x 40 x 40", MEAN, "recognize-pooling", shapes))
    shapes = {"w": square, "u": (32, 64, 3, 3), "v": (32, 96, 1, 1)}
    shapes |= dict.fromkeys(("s", "t", "m", "variance"), (64,))
    shapes |= dict.fromkeys(("ss", "tt", "mm", "wide_variance"), (96,))
    found.append(("a dense block's layer, 64 x 28 x 28", DENSE, "spell-batchnorm", shapes))
    shapes = {"w": square, "u": square, "slope": (64, 1, 1)}
    found.append(("Conv, PRelu, Conv, 64 x 56 x 56", PRELU, "spell-prelu", shapes))
    found.append(("Conv, PRelu of slopes around 1, Conv, 64 x 56 x 56", PRELU_STEEP, "prelu-as-maximum", shapes))
    shapes = {"w": square, "u": square, "slope": (56, 56, 64)}
    found.append(("Conv, PRelu by place as Keras writes it, Conv", PRELU_WRITTEN, "recognize-prelu", shapes))
    shapes = {"w": square, "v": (64, 64, 4, 4), "b": (64,), "u": (16, 64, 3, 3)}
    found.append(("Conv, ConvTranspose of 16 taps, Conv, 64 x 80 x 80", GENERATOR, "subpixel-conv", shapes))
    found.append(("Conv, AveragePool, Conv, 64 x 40 x 40", POOLED, "spell-average-pool", {"w": square, "u": square}))
    shapes = {"w": (384, 384), "u": (384, 1536), "v": (1536, 384), "scale": (384,), "shift": (384,)}
    found.append(("half a transformer's layer, normalized behind sums, 64 x 384", NORMALIZED, "spell-sum", shapes))
    shapes = {"w": (32, 32, 3, 3), "u": (19, 32, 1, 1)}
    found.append(("a head of 19 classes, 128 x 128", SEGMENTED, "flatten-softmax", shapes))
    found.append(("Conv, LRN, Conv, 64 x 56 x 56", LOCAL, "spell-lrn", {"w": square, "u": square}))
    found.append(("Conv, Mish, Conv, 64 x 56 x 56", MISH, "spell-mish", {"w": square, "u": square}))
    found.append(("Conv, Elu, Conv, 64 x 56 x 56", ELU, "spell-elu", {"w": square, "u": square}))
    shapes = {"w": (64, 64, 3, 1), "u": (64, 64, 3, 1)}
    found.append(("Conv, Elu, Conv, 64 x 256 x 1", COLUMN, "rank-constants", shapes))
    shapes = {"w": (384, 384), "u": (384, 384)}
    found.append(("a product, Softplus, a product, 64 x 384", SOFTPLUS, "spell-softplus", shapes))
    found.append(("Conv, twice as large, Conv, 64 x 80 x 80", NECK, "spell-resize", {"w": square, "u": tap}))
    shapes = {"w": (384, 384), "u": (384, 100)}
    found.append(("a product, the mean of 197 tokens, a product", TOKENS, "spell-reduction", shapes))
    shapes = {**dict.fromkeys("wuz", (384, 12, 32)), "r": (12, 32, 384)}
    found.append(("attention as Keras writes it, 64 x 384", HEADS, "canonical-einsum", shapes))
    shapes = dict.fromkeys("wuzr", (384, 384))
    found.append(("attention with a mask that may hide all, 128 x 384", MASKED, "move-nan-guard", shapes))
    found.append(("attention, 1024 x 256", ATTENTION, "fuse-attention", dict.fromkeys("wuzr", (256, 256))))
    shapes = {"w": (256, 256), "u": (256, 256), "v": (256, 10), **dict.fromkeys(("b", "scale", "shift"), (256,))}
    found.append(("Gemm, Relu, LayerNormalization twice, Gemm, 64 x 256", TABULAR, "spell-rectifier", shapes))
    shapes = {"w": (384, 384), "u": (384, 384), "scale": (384,)}
    found.append(("a product, RMSNorm, a product, 64 x 384", ROOTS, "canonical-rmsnorm", shapes))
    parts, ends = (", ".join(f"{name}{step}" for step in range(20)) for name in "pe")
    step = "q{0} = MatMul(p{0}, w) a{0} = Add(q{0}, b) r{0} = Relu(a{0}) e{0} = MatMul(r{0}, u)"
    text = STEPS.format(parts=parts, ends=ends, steps=" ".join(step.format(place) for place in range(20)))
    shapes = {"w": (128, 128), "b": (128,), "u": (128, 64)}
    found.append(("two products of each of 20 steps", text, "merge-slices", shapes))
    shapes = {"w": tap, "v": (64, 4, 3, 3), "u": tap}
    return [*found, ("Conv, Conv of 16 groups, Conv, 64 x 40 x 40", GROUPED, "merge-groups", shapes)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("passes", nargs="*", help="only the layers of these (default all)")
    arguments.add_argument("--seconds", type=float, default=3.0, help="for each (default 3)")
    options = arguments.parse_args()
    seconds = options.seconds
    table = Table("layer", "speed", "SQNR dB", "without the pass")
    for name, text, one, shapes in layers():
        if options.passes and one not in options.passes:
            continue
        random = np.random.default_rng(0)
        model = parser.parse_model(text)
        for key, shape in shapes.items():
            values = (0.05 * random.normal(size=shape)).astype(np.float32)
            values = np.abs(values) if key.endswith("variance") else values
            model.graph.initializer.append(numpy_helper.from_array(values, key))
        for key, value in CONSTANTS.items():
            if key in text:
                model.graph.initializer.append(numpy_helper.from_array(value, key))
        ops = "native" if one in NATIVE else "standard"
        (given,) = model.graph.input
        shape = [size.dim_value for size in given.type.tensor_type.shape.dim]
        feeds = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(6)]
        results = [
            qcompiler.compile(model, feeds, options=qcompiler.Options(timing=False, passes=passes, ops=ops))
            for passes in ((), (f"-{one}",))
        ]
        speeds = [speed(model, result.graph, feeds, seconds) for result in results]
        table.add_row(name, f"{speeds[0]:.2f}x", f"{results[0].report.sqnr:.1f}", f"{speeds[1]:.2f}x")
    Console().print(table)


def speed(source: object, compiled: ir.Graph, feeds: list[runtime.Feed], seconds: float) -> float:
    """Of the compiled graph, as a multiple of the source's."""
    with runtime.session(ir.load(source)) as plain, runtime.session(compiled) as own:
        sessions: dict[str, ort.InferenceSession] = {"source": plain, "own": own}
        return timing.interleaved(sessions, feeds, seconds=seconds)["own"].speedup


if __name__ == "__main__":
    main()
