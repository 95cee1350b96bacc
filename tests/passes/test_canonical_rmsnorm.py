from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_helpers import assert_same, ops, program, refusals, run_pass

from qcompiler import ir
from qcompiler.passes.canonical_rmsnorm import CANONICAL, CanonicalRmsNorm
from qcompiler.verify import fused

RANDOM = np.random.default_rng(0)
NUMBERS = {
    "eps": np.float32(1e-5), "two": np.float32(2), "three": np.float32(3), "whole": np.array(2), "one": np.float32([1]),
    "half": np.float32(0.5), "minus_half": np.float32(-0.5), "G": RANDOM.normal(size=6).astype(np.float32),
    "short": np.ones((3, 1), np.float32), "last": np.array([-1]), "both": np.array([1, 2]),
}  # fmt: skip
SQUARES = ["p = Pow(x, two)", "p = Pow(x, whole)", "p = Mul(x, x)"]
MEANS = ["v = ReduceMean(p, last) a = Add(v, eps)", "v = ReduceMean(p, last) a = Add(eps, v)"]
QUOTIENTS = [
    "s = Sqrt(a) n = Div(x, s)",
    "s = Sqrt(a) r = Reciprocal(s) n = Mul(x, r)",
    "s = Sqrt(a) r = Div(one, s) n = Mul(r, x)",
    "s = Pow(a, half) n = Div(x, s)",
    "r = Pow(a, minus_half) n = Mul(r, x)",
]
ENDINGS = ["y = Mul(n, G)", "y = Mul(G, n)", "g = Mul(n, G) y = Mul(g, two)", "y = Mul(n, three)"]


def normalization(body: str, opset: int = 18, also: str = "") -> ir.Graph:
    used = {name: value for name, value in NUMBERS.items() if name in body}
    graph = program(f"(float[N,3,6] x) => (float[N,3,6] y{also}) {{ {body} }}", used, opset=opset)
    ir.infer_shapes(graph)
    return graph


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SQUARES), st.sampled_from(MEANS), st.sampled_from(QUOTIENTS), st.sampled_from(ENDINGS))
def test_every_way_of_writing_it(square: str, mean: str, quotient: str, ending: str) -> None:
    before = normalization(" ".join((square, mean, quotient, ending)))
    after, _, _ = run_pass(CanonicalRmsNorm(), before)
    assert sorted(ops(after)) == sorted(CANONICAL.elements())
    assert fused.optimize(after).histogram() == {"SimplifiedLayerNormalization": 1}
    assert_same(before, after, rtol=1e-4)


def test_axes_are_an_attribute_before_they_are_an_input() -> None:
    body = "p = Mul(x, x) v = ReduceMean <axes = [-1]> (p) a = Add(v, eps) s = Sqrt(a) n = Div(x, s) y = Mul(n, G)"
    before = normalization(body, opset=17)
    after, rewrites, _ = run_pass(CanonicalRmsNorm(), before)
    assert rewrites == 1 and fused.optimize(after).histogram() == {"SimplifiedLayerNormalization": 1}
    assert_same(before, after, rtol=1e-4)


BEGINNING = "p = Mul(x, x) v = ReduceMean(p, last) a = Add(v, eps) s = Sqrt(a) n = Div(x, s)"


@pytest.mark.parametrize(
    "body, also, why",
    [
        ("p = Pow(x, two) v = ReduceMean(p, last) a = Add(v, eps) s = Sqrt(a) n = Div(x, s) y = Mul(n, G)", "", ""),
        (f"{BEGINNING} y = Identity(n)", "", ""),  # no gamma
        (f"{BEGINNING} c = Tanh(x) y = Mul(n, c)", "", "gamma is computed"),
        (f"{BEGINNING} y = Mul(n, short)", "", "gamma is computed, or no constant of the size of the last axis"),
        (f"{BEGINNING} y = Mul(n, G)", ", float[N,3,1] v", "is used elsewhere too"),
        (f"{BEGINNING.replace('last', 'both')} y = Mul(n, G)", "", "over several axes"),
        (f"{BEGINNING.replace('Add(v, eps)', 'Mul(v, three)')} y = Mul(n, G)", "", ""),  # another function
        (f"{BEGINNING.replace('Mul(x, x)', 'Pow(x, three)')} y = Mul(n, G)", "", ""),
        ("p = Mul(x, x) a = ReduceMean(p, last) s = Sqrt(a) n = Div(x, s) y = Mul(n, G)", "", ""),
        ("t = Sqrt(x) y = Mul(t, G)", "", ""),
    ],
)
def test_what_is_left_alone(body: str, also: str, why: str) -> None:
    before = normalization(body, also=also)
    after, rewrites, diagnostics = run_pass(CanonicalRmsNorm(), before)
    assert rewrites == 0 and ops(after) == ops(before)
    assert any(why in text for text in refusals(diagnostics)) if why else True
