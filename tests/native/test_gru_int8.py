"""qcompiler::GRUInt8 in ONNX Runtime sessions, against numpy, for every instruction set there is."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import Gru
from native_sessions import isas_here, session

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


def random_gru(inputs: int, units: int, direction: str = "forward", reset_behind: bool = False, seed: int = 0) -> Gru:
    random = np.random.default_rng(seed)
    ways = 2 if direction == "bidirectional" else 1
    w, r = (random.integers(-128, 128, (ways, depth, 3 * units)).astype(np.int8) for depth in (inputs, units))
    scales = [random.uniform(0.001, 0.01, (ways, 3 * units)).astype(np.float32) for _ in range(2)]
    bias = random.normal(size=(ways, 6 * units)).astype(np.float32)
    return Gru(w, r, *scales, bias, direction, reset_behind)


def rounded_rows(a: np.ndarray) -> np.ndarray:
    """The values, in float64, that rows have once they are quantized to 8 bits."""
    low, high = a.min(-1, keepdims=True), a.max(-1, keepdims=True)
    steps = np.where(high == low, 1, (high - low) / 255)
    return np.round((a - low) / steps) * steps + low


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def expected(gru: Gru, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Y and Y_h by ONNX's equations, of rows that are quantized, in float64."""
    x = feeds["X"].astype(np.float64)
    steps, batch, _ = x.shape
    ways, units = len(gru.w), gru.r.shape[1]
    bias = np.zeros((ways, 6 * units)) if gru.bias is None else gru.bias.astype(np.float64)
    lengths = feeds.get("sequence_lens", np.full(batch, steps))
    first = feeds.get("initial_h", np.zeros((ways, batch, units)))
    y, last = np.zeros((steps, ways, batch, units)), np.zeros((ways, batch, units))
    for way in range(ways):
        w, r = gru.w[way] * gru.w_scales[way].astype(np.float64), gru.r[way] * gru.r_scales[way].astype(np.float64)
        of_w, of_r = bias[way, : 3 * units], bias[way, 3 * units :]
        gates, hidden = slice(0, 2 * units), slice(2 * units, None)
        for row in range(batch):
            state = first[way, row].astype(np.float64)
            order = range(lengths[row])
            for step in reversed(order) if gru.direction == "reverse" or way == 1 else order:
                given = rounded_rows(x[step, row]) @ w + of_w
                seen = rounded_rows(state)
                z, reset = np.split(sigmoid(given[gates] + seen @ r[:, gates] + of_r[gates]), 2)
                if gru.reset_behind:
                    fresh = np.tanh(given[hidden] + reset * (seen @ r[:, hidden] + of_r[hidden]))
                else:
                    fresh = np.tanh(given[hidden] + rounded_rows(reset * state) @ r[:, hidden] + of_r[hidden])
                state = (1 - z) * fresh + z * state
                y[step, way, row] = state
            last[way, row] = state
    return y, last


def agrees(gru: Gru, feeds: dict[str, np.ndarray], threads: int = 1) -> None:
    found = session(gru.model(), threads).run(None, feeds)
    for one, wanted in zip(found, expected(gru, feeds)):
        assert one.shape == wanted.shape
        # A code that falls between two may be rounded otherwise in float32, and the state remembers it.
        assert np.abs(one - wanted).max() < 0.02 and np.sqrt(np.mean((one - wanted) ** 2)) < 2e-3


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("reset_behind", [False, True])
@pytest.mark.parametrize(("inputs", "units"), [(1, 1), (7, 33), (64, 64), (97, 20), (13, 130)])
def test_every_form(isa: str, direction: str, reset_behind: bool, inputs: int, units: int) -> None:
    gru = random_gru(inputs, units, direction, reset_behind)
    before = native.int8_runs()[isa]
    agrees(gru, {"X": np.random.default_rng(1).normal(size=(5, 3, inputs)).astype(np.float32)})
    assert native.int8_runs()[isa] == before + 1


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 9), batch=st.integers(1, 5), inputs=st.integers(1, 80), units=st.integers(1, 80),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]), reset_behind=st.booleans(),
    with_bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_lengths_and_states_that_are_given(
    steps: int, batch: int, inputs: int, units: int, direction: str, reset_behind: bool, with_bias: bool, seed: int
) -> None:
    gru = random_gru(inputs, units, direction, reset_behind, seed)
    gru = replace(gru, bias=gru.bias if with_bias else None, extra=("sequence_lens", "initial_h"))
    random = np.random.default_rng(seed)
    feeds = {
        "X": random.normal(size=(steps, batch, inputs)).astype(np.float32),
        "sequence_lens": random.integers(0, steps + 1, batch).astype(np.int32),
        "initial_h": random.uniform(-1, 1, (len(gru.w), batch, units)).astype(np.float32),
    }
    agrees(gru, feeds)


def test_threads_change_nothing() -> None:
    gru = random_gru(300, 700, "bidirectional")
    feeds = {"X": np.random.default_rng(2).normal(size=(4, 6, 300)).astype(np.float32)}
    one, two = (session(gru.model(), threads).run(None, feeds) for threads in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two))


@pytest.mark.parametrize("shape", [(0, 3, 8), (4, 0, 8)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    y, last = session(random_gru(8, 5).model()).run(None, {"X": np.zeros(shape, np.float32)})
    assert y.shape == (shape[0], 1, shape[1], 5) and last.shape == (1, shape[1], 5) and not last.any()


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e4, 1e30])
def test_gates_that_are_wide_open(isa: str, magnitude: float) -> None:
    gru = random_gru(16, 24, reset_behind=True)
    agrees(gru, {"X": np.float32(magnitude) * np.random.default_rng(3).normal(size=(6, 2, 16)).astype(np.float32)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_sample(isa: str, bad: float) -> None:
    gru = random_gru(16, 24)
    x = np.random.default_rng(4).normal(size=(6, 3, 16)).astype(np.float32)
    wanted = session(gru.model()).run(None, {"X": x})[0]
    x[2, 1, 5] = bad
    found = session(gru.model()).run(None, {"X": x})[0]
    assert np.isnan(found[2:, 0, 1]).all() and np.array_equal(found[:2], wanted[:2])
    assert np.array_equal(found[:, :, [0, 2]], wanted[:, :, [0, 2]])


GRU = random_gru(8, 5)


@pytest.mark.parametrize(
    ("gru", "why"),
    [
        (replace(GRU, direction="sideways"), "direction is 'sideways'; it must be forward, reverse or bidirectional"),
        (replace(GRU, direction="bidirectional"), "W and R have 1 and 1 directions where direction is 'bidirectional'"),
        (replace(GRU, r=GRU.r[:, :, :14]), "R has the shape [1, 5, 14]; it must be [D, H, 3H], none 0"),
        (replace(GRU, w=GRU.w[:, :, :14]), "W has the shape [1, 8, 14] where R makes it [D, I, 15]"),
        (replace(GRU, w_scales=GRU.w_scales[:, 1:]), "w_scales has the shape [1, 14] where R makes it [1, 15]"),
        (replace(GRU, r_scales=GRU.r_scales * np.float32(np.inf)), "a number of r_scales is not finite"),
        (replace(GRU, bias=GRU.w_scales), "B has the shape [1, 15] where R makes it [1, 30]"),
    ],
)
def test_nodes_that_no_kernel_could_use(gru: Gru, why: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"qcompiler::GRUInt8, node 'gru': {why}")):
        session(gru.model())


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("X", np.zeros((4, 3, 9), np.float32), "X has the shape [4, 3, 9]; it must be [steps, batch, 8]"),
        ("X", np.zeros((4, 8), np.float32), "X has the shape [4, 8]"),
        ("sequence_lens", np.array([1, 2], np.int32), "sequence_lens has the shape [2] where X makes it [3]"),
        ("sequence_lens", np.array([1, 5, 2], np.int32), "sequence_lens has 5 where X has 4 steps"),
        ("sequence_lens", np.array([1, -1, 2], np.int32), "sequence_lens has -1 where X has 4 steps"),
        ("initial_h", np.zeros((1, 5, 3), np.float32), "initial_h has the shape [1, 5, 3] where X and R make it"),
    ],
)  # fmt: skip
def test_feeds_that_do_not_fit(name: str, value: np.ndarray, why: str) -> None:
    model = replace(GRU, extra=("sequence_lens", "initial_h")).model()
    feeds = {
        "X": np.zeros((4, 3, 8), np.float32),
        "sequence_lens": np.array([4, 4, 4], np.int32),
        "initial_h": np.zeros((1, 3, 5), np.float32),
    }
    with pytest.raises(Exception, match=re.escape(why)):
        session(model).run(None, feeds | {name: value})
