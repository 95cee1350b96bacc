"""The worst tensors: in which order, with which clip points, and how many decibels are left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import program

from qcompiler import ir, numerics, worst
from qcompiler.calibrate import Statistics, TensorStatistics
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.scheme import PerTensor, Scheme

UINT8 = Scheme("uint8", False, PerTensor())
VALUES = np.random.default_rng(0).normal(size=50_000).astype(np.float32)


def quant(low: float, high: float, scheme: Scheme = UINT8) -> TensorQuant:
    return TensorQuant(scheme).solved(*numerics.scale_and_zero_point(np.array(low), np.array(high), scheme), "user")


def net(count: int) -> ir.Graph:
    steps = " ".join(f"t{i + 1} = Tanh(t{i})" for i in range(count))
    graph = program(f"(float[1,4] t0) => (float[1,4] t{count}) {{ {steps} }}", {})
    ir.infer_shapes(graph)
    return graph


def plan_of(quants: list[TensorQuant]) -> Plan:
    return Plan(sites={Site(f"t{i}", f"Tanh_{i}"): one for i, one in enumerate(quants)})


def statistics(count: int, values: np.ndarray = VALUES) -> Statistics:
    return Statistics({f"t{i}": TensorStatistics.of(values) for i in range(count)}, "key", 1)


def test_the_worst_comes_first_with_its_maker_and_its_clip_points() -> None:
    plan = plan_of([quant(-4.0, 4.0), quant(-0.5, 0.5), quant(-64.0, 64.0)])
    found = worst.worst_tensors(net(3), plan, statistics(3))
    assert [one.tensor for one in found] == ["t1", "t2", "t0"]
    assert [one.node for one in found] == ["Tanh_0", "Tanh_1", ""]  # an input of the model has no maker
    first = found[0]
    assert (first.clip_low, first.clip_high) == (pytest.approx(-0.5, abs=0.01), pytest.approx(0.5, abs=0.01))
    assert first.clipped == pytest.approx(np.mean(np.abs(VALUES) > 0.5), abs=0.01)
    assert sum(first.counts) == pytest.approx(VALUES.size, abs=len(first.counts))
    assert (first.low, first.high) == (VALUES.min(), VALUES.max())
    assert found[1].low == pytest.approx(-64.0, abs=0.5)  # the codes reach farther than the values


def test_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "MOST_TENSORS", 2)
    assert len(worst.worst_tensors(net(4), plan_of([quant(-4.0, 4.0)] * 4), statistics(4))) == 2


def test_what_has_no_statistics_or_no_single_scale_is_left_out() -> None:
    one = quant(-4.0, 4.0)
    channels = TensorQuant(UINT8).solved(np.ones(4, np.float32), np.zeros(4, np.int64), "weights")
    plan = plan_of([one, TensorQuant(UINT8), channels, one])
    found = worst.worst_tensors(net(4), plan, statistics(3))
    assert [record.tensor for record in found] == ["t0"]
    assert worst.worst_tensors(net(1), plan_of([one]), statistics(1, np.array([np.nan], np.float32))) == []
    assert worst.worst_tensors(net(1), plan_of([one]), statistics(1, np.zeros(8, np.float32))) == []


def test_sentinels_do_not_squeeze_the_picture() -> None:
    values = np.concatenate([VALUES, np.full(100, -1e9, np.float32)])
    (one,) = worst.worst_tensors(net(1), plan_of([quant(-4.0, 4.0)]), statistics(1, values))
    assert one.low > -10.0 and one.sqnr > 20.0


@given(st.floats(0.05, 8.0), st.floats(0.05, 8.0), st.booleans())
def test_decibels_are_about_those_of_quantizing(low: float, high: float, symmetric: bool) -> None:
    scheme = Scheme("int8", True, PerTensor()) if symmetric else UINT8
    one = quant(-low, high, scheme)
    assert one.scale is not None and one.zero_point is not None
    codes = numerics.quantize(VALUES, one.scale, one.zero_point, scheme)
    measured = numerics.sqnr(VALUES, numerics.dequantize(codes, one.scale, one.zero_point, scheme))
    assert worst.fidelity(TensorStatistics.of(VALUES), one) == pytest.approx(measured, abs=0.7)
