"""Operators with fewer inputs than they must have are the runtime's to refuse, which names them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program

from qcompiler import ir
from qcompiler.passes.fold_scale_through_attention import FoldScaleThroughAttention
from qcompiler.passes.fuse_attention import FuseAttention
from qcompiler.passes.merge_sizes import MergeSizes
from qcompiler.passes.move_nan_guard import MoveNanGuard
from qcompiler.passes.prelu_as_maximum import PReluAsMaximum
from qcompiler.passes.recognize_prelu import RecognizePRelu
from qcompiler.passes.remove_expand import RemoveExpand
from qcompiler.passes.remove_nan_guard import RemoveNanGuard
from qcompiler.passes.spell_elu import SpellElu
from qcompiler.passes.spell_softplus import SpellSoftplus
from qcompiler.passes.whole_transpose import WholeTranspose
from qcompiler.pipeline import Pass, PassContext, Pipeline
from qcompiler.plan import Plan

CONSTANTS = {
    "w": np.ones((12, 12), np.float32),
    "f": np.full(12, 2.0, np.float32),
    "heads": np.array([0, 0, 3, 4]),
    "flat": np.array([0, 0, 12]),
    "rows": np.array([-1, 4, 5]),
    "parted": np.array([2, 3, 4, 5]),
    "half": np.float32(0.5),
    "zero": np.float32(0.0),
    "infinite": np.float32(-np.inf),
}
ATTENTION = """(float[2,5,12] x, bool[2,1,5,5] see) => (float z) {
    q = MatMul(x, w) qr = Reshape(q, heads) qt = Transpose<perm = [0, 2, 1, 3]>(qr)
    kr = Reshape(x, heads) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
    v = MatMul(x, w) vr = Reshape(v, heads) vt = Transpose<perm = [0, 2, 1, 3]>(vr)
    p = MatMul(qt, kt) c = Mul(p, half) h = Where(see, zero, infinite) m = Add(c, h) s = Softmax(m) n = IsNaN(s)
    g = Where(n, zero, s) a = MatMul(g, vt) t = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(t, flat)
    z = Mul(y, f) }"""
OTHERS = """(float[2,3,5,4] x, float[2,3,5,1] n) => (float y, float z, float u) {
    r = Reshape(x, rows) t = Transpose<perm = [0, 2, 1]>(r) y = Reshape(t, parted)
    s = Shape(x) e = Expand(n, s) d = Div(x, e) l = Elu(d) z = Softplus(l)
    o = Shape(d) i = ConstantOfShape(o) a = Add(i, d) p = PRelu(a, half) k = Relu(p) j = Neg(p) b = Relu(j)
    h = Mul(b, half) m = Sub(k, h) c = Greater(m, zero) g = Mul(m, half) u = Where(c, m, g) }"""
PASSES: list[Pass] = [
    FoldScaleThroughAttention(), FuseAttention(), MergeSizes(), MoveNanGuard(), PReluAsMaximum(), RecognizePRelu(),
    RemoveExpand(), RemoveNanGuard(), SpellElu(), SpellSoftplus(), WholeTranspose(),
]  # fmt: skip


@pytest.mark.parametrize("text", [ATTENTION, OTHERS])
@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_no_pass_trips_over_it(one: Pass, text: str) -> None:
    whole = program(text, CONSTANTS, opset=18)
    ir.infer_shapes(whole)
    for index, node in enumerate(whole.nodes):
        for left in range(len(node.inputs)):
            graph = ir.clone(whole)
            cut = graph.nodes[index]
            while len(cut.inputs) > left:
                del cut.inputs[-1]
            Pipeline([one]).run(graph, PassContext(None, replace(Plan(), intended=frozenset(("some",)))))
            assert len(graph.outputs) == len(whole.outputs)
