"""Tensors that are elementwise functions of a counted one are not counted, and come out as if they had been."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from calibrate import graphs

from qcompiler import ir
from qcompiler.calibrate import OBSERVERS, Calibration, Shard, Statistics, TensorStatistics, collect, merge_shards
from qcompiler.calibrate.functions import completed, split
from qcompiler.data import open_samples
from qcompiler.scheme import Scheme

U8 = Scheme("uint8", symmetric=False)


def graph(text: str, **weights: np.ndarray) -> ir.Graph:
    made = graphs.graph(text, **weights)
    ir.infer_shapes(made)
    return made


HARDSWISH = graph(
    """g (float[N, 64] x, float[64, 64] w) => (float[M, 64] y) {
        c = MatMul(x, w)
        shifted = Add(c, three)
        clipped = Clip(shifted, zero, six)
        product = Mul(c, clipped)
        y = Div(product, six)
        s = Sigmoid(c)
        silu = Mul(c, s)
        flat = Reshape(silu, shape)
    }""",
    three=np.float32(3), zero=np.float32(0), six=np.array([6], np.float32), shape=np.array([-1]),
)  # fmt: skip


def counted(text: str, *tensors: str, **weights: np.ndarray) -> tuple[list[str], dict[str, str]]:
    names, functions = split(graph(text, **weights), tensors)
    return names, {name: " ".join(function.sources) for name, function in functions.items()}


def test_what_is_a_function_of_what() -> None:
    names, functions = split(HARDSWISH, ["x", "c", "clipped", "product", "y", "s", "silu", "flat"])
    assert names == ["x", "c"]
    assert {function.sources for function in functions.values()} == {("c",)}


def test_what_is_counted() -> None:
    assert counted("g (float[N] x) => (float[N] y) { a = Mul(x, w) y = Tanh(a) }", "x", "a", "y",
                   w=np.ones(3, np.float32)) == (["x", "a"], {"y": "a"}), "a factor for each channel"  # fmt: skip
    assert counted("g (float[N] x) => (float[N] y) { a = Mul(x, x) y = Log(x) }", "x", "a", "y") == (
        ["x", "y"], {"a": "x"}
    ), "finite values can become infinite ones: which sample does it, only counting tells"  # fmt: skip
    assert counted("g (float[N, N] x) => (float[N, N] y) { t = Transpose(x) s = Sigmoid(t) y = Mul(x, s) }",
                   "x", "t", "s", "y") == (["x", "y"], {"t": "x", "s": "x"}), "other values meet in y"  # fmt: skip
    assert counted("g (float[N] x, float[N] z) => (float[N] y) { a = Relu(x) y = Add(a, z) }", "x", "y") == (
        ["x", "y"], {}
    )  # fmt: skip
    assert counted("g (float[N] x) => (float[N] y) { h = Add(x, x) a = Relu(h) y = Sigmoid(a) }", "a", "y") == (
        ["a"], {"y": "a"}
    ), "what comes before is not looked at"  # fmt: skip
    assert counted("g (float16[N] x) => (float16[N] y) { y = Relu(x) }", "x", "y")[1] == {}


def test_what_is_joined_holds_what_its_parts_hold() -> None:
    text = "g (float[N] x, float[N] z) => (float[M] y) { a = Relu(x) j = Concat <axis = 0> (a, z) y = Sigmoid(j) }"
    joined = graph(text)
    assert counted(text, "x", "a", "z", "j", "y") == (["x", "z"], {"a": "x", "j": "a z", "y": "j"})
    assert counted(text, "x", "a", "j", "y") == (["x", "j"], {"a": "x", "y": "j"})
    feeds = [{"x": np.array([1, -2, np.inf], np.float32), "z": np.array([5, 6, 0], np.float32)}]
    names = ["x", "a", "z", "j", "y"]
    found = Calibration(joined, names).run(open_samples(feeds, joined.inputs)).tensors
    exact = collect(joined, names, feeds).tensors
    assert found["j"] == exact["j"] and found["a"] == exact["a"] and list(found) == ["x", "z", "a", "j", "y"]


def test_inside_bodies() -> None:
    body = graph(
        """g (float[N] x, bool b) => (float[M] z) {
            z = If (b) <
                then_branch = t () => (float[N] r) { d = Add(x, x) e = MatMul(d, x) r = Relu(e) },
                else_branch = e () => (float[N] i) { i = Neg(x) }
            >
        }"""
    )
    names, functions = split(body, ["x", "d", "e", "r"])
    assert (names, functions["r"].sources) == (["x", "d", "e"], ("e",)), "nobody knows how often a body runs"


@pytest.fixture(scope="module")
def both() -> tuple[Statistics, Statistics]:
    """Statistics with functions, and of counting everything."""
    random = np.random.default_rng(0)
    w = (random.normal(size=(64, 64)) / 4).astype(np.float32)
    feeds = [{"x": random.normal(size=(rows, 64)).astype(np.float32), "w": w} for rows in (50, 1, 80, 200)]
    names = ["x", "c", "clipped", "product", "y", "s", "silu", "flat"]
    found = Calibration(HARDSWISH, names).run(open_samples(feeds, HARDSWISH.inputs))
    return found, collect(HARDSWISH, names, feeds, threads=1)


def test_extremes_are_exact_and_nothing_is_lost(both: tuple[Statistics, Statistics]) -> None:
    found, exact = both
    assert found.tensors.keys() == exact.tensors.keys()
    for name, expected in exact.tensors.items():
        assert found.tensors[name].finite == expected.finite
        assert found.tensors[name].largest == pytest.approx(expected.largest, rel=1e-6)
        assert found.tensors[name].smallest == pytest.approx(expected.smallest, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_ranges_are_within_one_percent(both: tuple[Statistics, Statistics], observer: str) -> None:
    found, exact = both
    for name, expected in exact.tensors.items():
        low, high = OBSERVERS[observer](expected, U8)
        ours = OBSERVERS[observer](found.tensors[name], U8)
        assert np.abs(np.subtract(ours, (low, high))).max() <= 0.01 * (high - low), name


def test_what_is_not_finite_goes_through_the_function() -> None:
    seen = replace(
        TensorStatistics.of(np.array([1, -2, np.nan, np.inf, -np.inf, -np.inf], np.float32)), first_bad_sample=7
    )
    _, functions = split(HARDSWISH, ["c", "s", "silu"])
    made = completed(Statistics({"c": seen}, "", 1, functions=functions)).tensors
    assert (made["s"].nan, made["s"].bad, made["s"].finite) == (1, 1, 5), "the sigmoid of infinity is 1, of minus it 0"
    assert (made["s"].smallest, made["s"].largest, made["s"].first_bad_sample) == (0, 1, 7)
    assert made["silu"].positive_infinity == 1 and made["silu"].nan == 3
    assert completed(Statistics({"c": TensorStatistics.empty()}, "", 1, functions=functions)).tensors["s"].finite == 0


def test_shards_make_one_run() -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(4, 64)).astype(np.float32), "w": np.eye(64, dtype=np.float32)} for _ in range(9)]
    calibration = Calibration(HARDSWISH, ["c", "silu", "clipped"])

    def content(statistics: Statistics) -> bytes:
        file = io.BytesIO()
        statistics.write(file)
        return file.getvalue()

    parts = [replace(calibration, shard=Shard(i, 4)).run(open_samples(feeds, HARDSWISH.inputs)) for i in range(1, 5)]
    assert list(parts[0].tensors) == ["c"], "made of others once all are there"
    whole = calibration.run(open_samples(feeds, HARDSWISH.inputs))
    assert content(merge_shards([(str(i), part) for i, part in enumerate(parts)])) == content(whole)
