"""qcompiler::Observe counts in an ONNX Runtime session exactly what numpy counts."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from native_models import observing_model
from onnx import TensorProto

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    native.register_custom_ops(options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def observe(*tensors: np.ndarray, element: int = TensorProto.FLOAT) -> native.Observed:
    with native.ObservationTable(1) as table:
        runner = session(observing_model(table.id, element=element))
        for x in tensors:
            assert runner.run(None, {"X": x})[0].tolist() == [x.size]
        return table.read(0)


def expected_counts(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32).ravel()
    x = x[np.isfinite(x)]
    bits = np.where(x == 0, np.float32(0), x).view(np.uint32)
    return np.bincount(bits >> 16, minlength=native.BINS).astype(np.uint64)


def assert_exact(seen: native.Observed, x: np.ndarray) -> None:
    finite = x[np.isfinite(x)].astype(np.float32)
    assert np.array_equal(seen.counts, expected_counts(x))
    assert seen.counts.dtype == np.uint64
    assert seen.finite == finite.size == seen.counts.sum()
    assert seen.nan == np.isnan(x).sum()
    assert seen.positive_infinity == np.isposinf(x).sum()
    assert seen.negative_infinity == np.isneginf(x).sum()
    assert seen.smallest == (finite.min() if finite.size else np.inf)
    assert seen.largest == (finite.max() if finite.size else -np.inf)


EVERY_KIND = np.array(
    [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.1754944e-38, -1e-39, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan],
    np.float32,
)


def test_counts_every_kind_of_float() -> None:
    odd_nans = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    x = np.concatenate([EVERY_KIND, odd_nans, np.tile(EVERY_KIND, 200)])
    assert_exact(observe(x), x)


def test_negative_zero_counts_as_zero() -> None:
    seen = observe(np.array([-0.0, 0.0, -0.0], np.float32))
    assert seen.counts[0] == 3 and seen.counts[0x8000] == 0
    assert not np.signbit(seen.smallest) and not np.signbit(seen.largest)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint32, hnp.array_shapes(max_dims=4, max_side=9), elements=st.integers(0, 2**32 - 1)))
def test_counts_any_bits_in_any_shape(bits: np.ndarray) -> None:
    x = bits.view(np.float32)
    assert_exact(observe(x), x)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1023, 1024, 1025, 100_003])
def test_counts_tensors_of_every_length(size: int) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert_exact(observe(x), x)


def test_counts_every_float16() -> None:
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    assert_exact(observe(x, element=TensorProto.FLOAT16), x)


def test_runs_add_up() -> None:
    parts = np.split(np.random.default_rng(1).normal(size=4000).astype(np.float32), [7, 1999])
    assert_exact(observe(*parts), np.concatenate(parts))


def test_flushing_denormals_changes_nothing() -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    native.register_custom_ops(options)
    with native.ObservationTable(1) as table:
        runner = ort.InferenceSession(observing_model(table.id), options, providers=["CPUExecutionProvider"])
        runner.run(None, {"X": EVERY_KIND})
        assert_exact(table.read(0), EVERY_KIND)


def test_slots_are_separate_and_reset_empties_them() -> None:
    with native.ObservationTable(2) as table:
        for slot, value in enumerate([1.0, 2.0]):
            session(observing_model(table.id, slot)).run(None, {"X": np.full(3 + slot, value, np.float32)})
        assert [table.read(slot).finite for slot in (0, 1)] == [3, 4]
        assert [table.read(slot).largest for slot in (0, 1)] == [1.0, 2.0]
        table.reset()
        assert_exact(table.read(1), np.empty(0, np.float32))


def test_sessions_in_threads_share_a_slot() -> None:
    x = np.random.default_rng(2).normal(size=50_000).astype(np.float32)
    with native.ObservationTable(1) as table:
        runners = [session(observing_model(table.id)) for _ in range(4)]
        threads = [threading.Thread(target=lambda r=r: [r.run(None, {"X": x}) for _ in range(5)]) for r in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = table.read(0)
    assert np.array_equal(seen.counts, expected_counts(x) * np.uint64(20))


def test_a_session_outlives_its_table() -> None:
    table = native.ObservationTable(1)
    runner = session(observing_model(table.id))
    table.close()
    assert runner.run(None, {"X": np.ones(5, np.float32)})[0].tolist() == [5]
    with pytest.raises(ValueError, match="closed"):
        table.read(0)


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_bad_slot_is_refused_when_the_session_is_made(slot: int) -> None:
    with native.ObservationTable(2) as table:
        with pytest.raises(Exception, match=f"slot {slot} is outside of table {table.id}, which has 2 slots"):
            session(observing_model(table.id, slot))
        with pytest.raises(IndexError, match=f"slot {slot} is outside"):
            table.read(slot)


def test_an_unknown_table_is_refused_when_the_session_is_made() -> None:
    with pytest.raises(Exception, match="there is no table 987654321; create it before the session"):
        session(observing_model(987654321))


def test_a_missing_attribute_is_refused() -> None:
    with native.ObservationTable(1) as table:
        model = onnx.load_from_string(observing_model(table.id))
        del model.graph.node[0].attribute[:]
        with pytest.raises(Exception, match="table"):
            session(model.SerializeToString())


def test_other_types_are_refused() -> None:
    with pytest.raises(Exception, match="X is neither float32 nor float16"):
        observe(np.ones(3, np.int32), element=TensorProto.INT32)


def test_a_table_must_have_a_sensible_size() -> None:
    with pytest.raises(ValueError, match="cannot have -1 slots"):
        native.ObservationTable(-1)
    with pytest.raises(MemoryError):
        native.ObservationTable(2**60)


def test_the_first_sample_that_is_not_finite_and_what_was_known_before_the_latest() -> None:
    with native.ObservationTable(1) as table:
        runner = session(observing_model(table.id))
        for sample, value in ((3, 1.0), (5, np.nan), (8, np.inf), (9, 7.0)):
            table.begin(sample)
            runner.run(None, {"X": np.array([value, 2.0], np.float32)})
        seen = table.read(0)
        assert (seen.first_bad, seen.first_bad_before) == (5, 5)
        assert (seen.largest, seen.largest_before, seen.smallest_before) == (7.0, 2.0, 1.0)
        table.reset()
        table.begin(10)
        assert (table.read(0).first_bad, table.read(0).smallest_before) == (-1, np.inf)
