"""On real activations: both ways to count agree bit for bit, and ranges agree with a two-pass reference."""

from __future__ import annotations

import numpy as np
import pytest

from models import recipe
from qcompiler import ir, native, runtime
from qcompiler.calibrate import OBSERVERS, Calibration, collect, without_sentinels
from qcompiler.calibrate.functions import split
from qcompiler.calibrate.instrument import fetch_probe, instrument
from qcompiler.data import open_samples
from qcompiler.scheme import Scheme

U8 = Scheme("uint8", symmetric=False)
REFERENCE_BINS = 65536  # with 8,192, the reference's own bins are too wide for activations that span many octaves

pytestmark = [pytest.mark.fetched, pytest.mark.skipif(not native.available(), reason="no native library")]


@pytest.fixture(scope="module", params=["ppocr4-rec", "minilm-l3"])
def model(request: pytest.FixtureRequest) -> tuple[ir.Graph, list[str], list[dict[str, np.ndarray]]]:
    graph = ir.load(str(recipe(request.param).model()))
    ir.infer_shapes(graph)
    tensors = ir.all_tensors(graph).values()
    names = [t.name for t in tensors if not ir.is_constant(t) and t.dtype == np.float32]
    return graph, names, list(recipe(request.param).calibration(3))


def test_both_ways_count_the_same(model, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    graph, names, feeds = model
    inside = collect(graph, names, feeds, threads=1)
    monkeypatch.setattr(native, "available", lambda: False)
    assert collect(graph, names, feeds, threads=1) == inside


def test_ranges_are_those_of_a_two_pass_reference(model) -> None:  # type: ignore[no-untyped-def]
    graph, names, feeds = model
    names = names[:: len(names) // 16]
    seen = collect(graph, names, feeds, threads=1).tensors
    probed = instrument(graph, names, fetch_probe)
    with runtime.session(probed.graph, prompt=True) as session:
        runs = [runtime.run(session, feed) for feed in feeds]
    for index, name in enumerate(names):
        x = np.concatenate([run[index] for run in runs]).astype(np.float64)
        low, high = min(x.min(), 0.0), max(x.max(), 0.0)
        if low == high or without_sentinels(seen[name])[1]:
            continue
        expected = np.quantile(x, [5e-6, 1 - 5e-6])
        assert_close(OBSERVERS["percentile"](seen[name], U8), (min(expected[0], 0), max(expected[1], 0)), name)
        assert_close(OBSERVERS["mse"](seen[name], U8), best_range(x, low, high), name)


def test_what_is_not_counted_comes_out_as_if_it_were(model) -> None:  # type: ignore[no-untyped-def]
    graph, names, feeds = model
    functions = split(graph, names)[1]
    assert len(functions) > len(names) // 5
    found = Calibration(graph, names).run(open_samples(feeds, graph.inputs)).tensors
    exact = collect(graph, names, feeds, threads=1).tensors
    # ONNX Runtime fuses more around what is not counted, and rounds otherwise there.
    for name in names[:: len(names) // 32]:
        if exact[name].smallest < exact[name].largest and not without_sentinels(exact[name])[1]:
            for observer in ("minmax", "percentile"):
                assert_close(OBSERVERS[observer](found[name], U8), OBSERVERS[observer](exact[name], U8), name)


def assert_close(actual: tuple[float, float], expected: tuple[float, float], name: str) -> None:
    width = expected[1] - expected[0]
    assert np.abs(np.subtract(actual, expected)).max() <= 0.01 * width, (name, actual, expected)


def best_range(x: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """First pass: the extremes. Second: linear bins between them. Then a plain search."""
    counts, edges = np.histogram(x, REFERENCE_BINS, (low, high))
    centers = (edges[1:] + edges[:-1]) / 2
    exact_zeros = np.count_nonzero(x == 0)
    counts[min(np.searchsorted(edges, 0.0, "right") - 1, REFERENCE_BINS - 1)] -= exact_zeros  # they cost nothing
    centers, counts = centers[counts > 0], counts[counts > 0]

    def error(a: float, b: float) -> float:
        step = (b - a) / 255
        each = np.where(np.abs(centers) <= step / 2, centers**2, step**2 / 12)
        clipped = np.clip(centers, a, b)
        return float(counts @ np.where(clipped == centers, each, (centers - clipped) ** 2))

    lows, highs, step = 1.15 ** -np.arange(14.0), 1.15 ** -np.arange(14.0), 1.15
    for _ in range(4):
        lows, highs = (lows if low else np.ones(1)), (highs if high else np.ones(1))
        _, a, b = min((error(low * a, high * b), a, b) for a in lows for b in highs)
        lows, highs = (np.minimum(best * step ** (np.arange(-3, 4) / 3), 1) for best in (a, b))
        step **= 1 / 3
    return low * a, high * b
