"""Observers against brute force, and against values that must not set a range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import numerics
from qcompiler.calibrate import OBSERVERS, TensorStatistics, without_sentinels
from qcompiler.calibrate.observers import Cost, Observer, divergences, histogram, percentile
from qcompiler.errors import StatisticsError
from qcompiler.scheme import Scheme

U8, S8 = Scheme("uint8", symmetric=False), Scheme("int8", symmetric=True)
ALL = pytest.mark.parametrize("observer", OBSERVERS.values(), ids=list(OBSERVERS))


def of(x: object) -> TensorStatistics:
    return TensorStatistics.of(np.asarray(x, np.float32))


def shapes(size: int = 200_000) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    normal = random.normal(size=size)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "shifted": normal + 9,
        "heavy tails": random.standard_t(3, size),
        "uniform": random.uniform(-1, 3, size),
        "probabilities": 1 / (1 + np.exp(-8 * normal)),
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
    }


each_shape = pytest.mark.parametrize("x", [pytest.param(x.astype(np.float32), id=name) for name, x in shapes().items()])


def error(x: np.ndarray, ends: tuple[float, float], scheme: Scheme) -> float:
    scale, zero_point = numerics.scale_and_zero_point(np.array(ends[0]), np.array(ends[1]), scheme)
    back = numerics.dequantize(numerics.quantize(x, scale, zero_point, scheme), scale, zero_point, scheme)
    return float(np.mean((back.astype(np.float64) - x) ** 2))


def brute_mse(x: np.ndarray) -> float:
    """The smallest real error over a grid of ranges."""
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    cuts = 1.15 ** -np.arange(25.0)
    return min(error(x, (low * a, high * b), U8) for a in (cuts if low else [1]) for b in (cuts if high else [1]))


@each_shape
def test_histogram_is_in_order_and_holds_all_values(x: np.ndarray) -> None:
    seen = histogram(of(x))
    assert (seen.lower <= seen.upper).all() and (np.diff(seen.center) > 0).all()
    assert seen.counts.sum() == x.size
    assert seen.lower[0] == x.min() and seen.upper[-1] == x.max()


@each_shape
@ALL
@pytest.mark.parametrize("scheme", [U8, S8], ids=str)
def test_ranges_are_sound(observer: Observer, x: np.ndarray, scheme: Scheme) -> None:
    low, high = observer(of(x), scheme)
    assert low <= 0 <= high and low < high and np.isfinite([low, high]).all()
    if not scheme.symmetric:
        assert low >= min(x.min(), 0) and high <= max(x.max(), 0)


@each_shape
def test_percentile_is_that_of_the_values(x: np.ndarray) -> None:
    for share in (0.99999, 0.999, 0.9):
        low, high = percentile(of(x), U8, share)
        expected = np.quantile(x.astype(np.float64), [(1 - share) / 2, (1 + share) / 2])
        assert low == pytest.approx(min(expected[0], 0), rel=0.01, abs=1e-3 * float(np.abs(x).max()))
        assert high == pytest.approx(max(expected[1], 0), rel=0.01, abs=1e-3 * float(np.abs(x).max()))


@pytest.mark.parametrize("name", ["normal", "relu", "shifted", "heavy tails", "uniform", "probabilities"])
def test_mse_finds_the_best_range(name: str) -> None:
    x = shapes(4_000)[name].astype(np.float32)
    assert error(x, OBSERVERS["mse"](of(x), U8), U8) <= 1.05 * brute_mse(x)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=60))
def test_mse_is_never_worse_than_min_max_by_its_own_measure(values: list[float]) -> None:
    stats, _ = without_sentinels(of(values))
    cost = Cost(histogram(stats), U8)
    best, extremes = (np.array(OBSERVERS[name](stats, U8)) for name in ("mse", "minmax"))
    if extremes[0] < extremes[1]:
        assert cost(best[:1], best[1:]) <= cost(extremes[:1], extremes[1:]) * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=80), st.floats(0, 1), st.floats(0.01, 1))
def test_cost_is_the_sum_over_values(values: list[float], a: float, b: float) -> None:
    seen = histogram(of(values))
    low, high = min(seen.lower[0], 0.0) * a, max(seen.upper[-1], 0.0) * b + 0.01
    cost = Cost(seen, U8)
    x, step = np.repeat(cost.x, seen.counts.astype(int)), (high - low) / 255
    each = np.where(np.abs(x) <= step / 2, x**2, step**2 / 12)
    each = np.where(x < low, (x - low) ** 2, np.where(x > high, (x - high) ** 2, each))
    assert cost(np.array([low]), np.array([high]))[0] == pytest.approx(each.sum(), rel=1e-6, abs=1e-6)


def brute_divergence(counts: np.ndarray, outside: float, size: int, levels: int) -> float:
    """TensorRT's definition, bin by bin."""
    p, q = counts[:size].copy(), np.zeros(size)
    p[-1] += counts[size:].sum() + outside
    for level in range(levels):
        cell = slice(level * size // levels, (level + 1) * size // levels)
        inside = counts[cell]
        q[cell] = np.where(inside > 0, inside.sum() / max(np.count_nonzero(inside), 1), 0)
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=40, max_size=80), st.integers(2, 16), st.integers(0, 5))
def test_divergences_equal_brute_force(counts: list[int], levels: int, outside: int) -> None:
    bins = np.array([*counts, 1], np.float64)
    sizes = np.array([size for size in range(levels, bins.size + 1) if bins[:size].any()])
    expected = [brute_divergence(bins, outside, size, levels) for size in sizes]
    assert divergences(bins, outside, sizes, levels) == pytest.approx(expected, abs=1e-9)


def test_entropy_clips_outliers_and_keeps_what_is_even() -> None:
    heavy, even = (of(shapes()[name]) for name in ("heavy tails", "uniform"))
    assert OBSERVERS["entropy"](heavy, U8)[1] < 0.5 * heavy.largest
    assert OBSERVERS["entropy"](even, U8) == pytest.approx((even.smallest, even.largest), rel=0.02)


@ALL
@pytest.mark.parametrize(("values", "expected"), [([0.0] * 5, (0, 0)), ([5.0] * 5, (0, 5)), ([-2.0], (-2, 0))])
def test_constants_get_a_usable_range(observer: Observer, values: list[float], expected: tuple[float, float]) -> None:
    assert observer(of(values), U8) == expected
    scale, _ = numerics.scale_and_zero_point(*map(np.array, observer(of(values), U8)), U8)
    assert scale > 0


@ALL
@pytest.mark.parametrize("scheme", [U8, S8], ids=str)
def test_values_too_small_to_tell_from_zero_have_a_range(observer: Observer, scheme: Scheme) -> None:
    low, high = observer(of([0.0, -0.0, 1e-42, -3e-42]), scheme)
    assert low <= 0 <= high and np.isfinite([low, high]).all()
    scale, _ = numerics.scale_and_zero_point(np.array(low), np.array(high), scheme)
    assert scale > 0


@ALL
def test_what_is_not_finite_sets_no_range(observer: Observer) -> None:
    x = shapes(5_000)["normal"]
    dirty = np.concatenate([x, [np.nan, np.inf, -np.inf]])
    assert observer(of(dirty), U8) == observer(of(x), U8)


@ALL
def test_tensors_without_values_are_refused(observer: Observer) -> None:
    with pytest.raises(StatisticsError, match=r"^the tensor has no range \(it was never computed\); give samples"):
        observer(TensorStatistics.empty(), U8)
    with pytest.raises(StatisticsError, match="all 2 values were NaN or infinite"):
        observer(of([np.nan, np.inf]), U8)


@ALL
@pytest.mark.parametrize("sentinel", [-3.4028235e38, -1e9, -1e4, 65504.0])
@pytest.mark.parametrize("share", [0.0001, 0.5])
def test_sentinels_set_no_range(observer: Observer, sentinel: float, share: float) -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=20_000) * 3
    masked = np.where(random.random(scores.size) < share, sentinel + scores, scores)
    bulk = np.abs(scores).max()
    low, high = observer(of(masked), U8)
    assert -bulk * 1.01 <= low and high <= bulk * 1.01


def test_sentinels_are_reported() -> None:
    stats, note = without_sentinels(of([*np.linspace(-3, 5, 90), *[-1e4] * 10]))
    assert note == "10 of 100 values, at -1e+04, are far from all others (at most 5 in magnitude) and set no range"
    assert stats.finite == 90 and stats.largest == 5 and -3.02 <= stats.smallest <= -3


def test_two_masks_at_once_are_both_sentinels() -> None:
    stats, note = without_sentinels(of([*np.linspace(-3, 5, 90), -1e4, -2e4]))
    assert note.startswith("2 of 92 values") and stats.finite == 90


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.0, -1e4, 0.0], id="a mask by itself, which is quantized exactly"),
        pytest.param([0.0, -3.4e38], id="also when huge"),
        pytest.param([*np.linspace(-3, 5, 90), 100.0], id="an outlier"),
        pytest.param([*np.linspace(-3, 5, 90), *np.geomspace(4500, 9000, 40)], id="large values that vary"),
        pytest.param(np.geomspace(1e-6, 1e6, 500), id="many octaves without a gap"),
        pytest.param([1e5, 1e5, 1e5], id="nothing but large values"),
    ],
)
def test_what_are_no_sentinels(values: list[float]) -> None:
    stats = of(values)
    assert without_sentinels(stats) == (stats, "")
