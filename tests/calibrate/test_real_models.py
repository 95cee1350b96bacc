"""On real activations: both ways to count agree bit for bit, and ranges agree with a two-pass reference."""

from __future__ import annotations

import numpy as np
import pytest
import two_pass

from models import recipe
from qcompiler import ir, native, runtime
from qcompiler.calibrate import OBSERVERS, Calibration, collect, without_sentinels
from qcompiler.calibrate.functions import split
from qcompiler.calibrate.instrument import fetch_probe, instrument
from qcompiler.data import open_samples
from qcompiler.scheme import Scheme

U8 = Scheme("uint8", symmetric=False)
REFERENCE_BINS = 8192

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
        x = np.concatenate([run[index] for run in runs], axis=None).astype(np.float64)
        if min(x.min(), 0) == max(x.max(), 0) or without_sentinels(seen[name])[1]:
            continue
        expected = np.quantile(x, [5e-6, 1 - 5e-6])
        assert_close(OBSERVERS["percentile"](seen[name], U8), (min(expected[0], 0), max(expected[1], 0)), name)
        assert_close(OBSERVERS["mse"](seen[name], U8), two_pass.mse(x, REFERENCE_BINS), name)


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

