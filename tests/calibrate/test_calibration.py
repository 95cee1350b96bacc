"""A calibration ends with the same statistics however it was cut up, interrupted and spread over processes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrate import graphs

from qcompiler.calibrate import (
    Calibration,
    Checkpoint,
    Shard,
    Statistics,
    Threads,
    calibration,
    merge_shards,
    sample_rows,
    scheduler,
)
from qcompiler.data import Samples, open_samples
from qcompiler.errors import DataError, ModelError, StatisticsError, WorkerError

Feed = dict[str, np.ndarray]

GRAPH = graphs.graph(
    "g (float[N] x) => (float[M] z) { a = Log(x) y = Add(a, w) z = Mul(y, y) }", w=np.ones(3, np.float32)
)
TENSORS = ("x", "a", "z")


def feeds() -> list[Feed]:
    random = np.random.default_rng(0)
    return [{"x": np.abs(random.normal(size=3)).astype(np.float32)} for _ in range(23)]


def samples(given: list[Feed] | None = None) -> Samples:
    return open_samples(feeds() if given is None else given, GRAPH.inputs)


def of(**options: object) -> Calibration:
    return replace(Calibration(GRAPH, TENSORS), **options)  # type: ignore[arg-type]


def content(statistics: Statistics) -> bytes:
    file = io.BytesIO()
    statistics.write(file)
    return file.getvalue()


def test_shards_make_one_run_in_any_order(path: str) -> None:
    given = feeds()
    given[5]["x"][0] = 0.0  # log: −inf
    given[11]["x"][:] = -1.0  # log: NaN
    whole = of(observer="entropy").run(samples(given))
    assert whole.tensors["a"].first_bad_sample == 5 and whole.tensors["a"].bad == 4
    parts = [(f"s{i}", of(observer="entropy", shard=Shard(i, 7)).run(samples(given))) for i in range(1, 8)]
    assert sorted({part.samples for _, part in parts}) == [3, 4]
    for order in (parts, parts[::-1], parts[3:] + parts[:3]):
        assert content(merge_shards(order)) == content(whole)


def test_more_shards_than_samples() -> None:
    given = feeds()[:2]
    parts = [(f"s{i}", of(shard=Shard(i, 3)).run(samples(given))) for i in range(1, 4)]
    assert content(merge_shards(parts)) == content(of().run(samples(given)))


def edited(change: Callable[[list[tuple[str, Statistics]]], object]) -> str:
    parts = [(f"s{i}.npz", of(shard=Shard(i, 3)).run(samples())) for i in range(1, 4)]
    change(parts)
    with pytest.raises(StatisticsError) as caught:
        merge_shards(parts)
    return str(caught.value)


def test_what_cannot_be_merged_is_refused_with_the_reason() -> None:
    def put(**change: object) -> Callable[[list[tuple[str, Statistics]]], object]:
        return lambda parts: parts.__setitem__(1, ("s2.npz", replace(parts[1][1], **change)))  # type: ignore[arg-type]

    assert edited(lambda parts: parts.pop(1)) == (
        "shard 2 is missing (a run of 3 was given 2); add the rest"
    )
    assert edited(lambda parts: parts.append(parts[0])).startswith("s1.npz: is shard 1 of 3 (s1.npz is that too)")
    assert edited(lambda parts: parts.clear()).startswith("there is nothing to merge")
    assert edited(put(shard=(2, 4))).startswith("s2.npz: is one of 4 shards (s1.npz is one of 3)")
    assert edited(put(shard=(1, 1))).startswith("s2.npz: is no shard")
    assert "one is for observer any, the other for mse" in edited(put(observer="mse"))
    assert "one is of a data set of 23 samples, the other of 22" in edited(put(total=22))
    assert "tensor 'x' was smoothed differently" in edited(put(smoothing={"x": np.ones(3)}))
    assert "tensor 'w' was rounded differently" in edited(put(rounding={"w": np.ones(3, np.int8)}))
    assert "the models differ in their weights" in edited(
        lambda parts: put(model_key=parts[1][1].model_key[:-1] + "?")(parts)
    )
    assert "only one of them has tensor 'z'" in edited(
        lambda parts: put(tensors={k: v for k, v in parts[1][1].tensors.items() if k != "z"})(parts)
    )
    assert "the shards do not add up" in edited(put(samples=1))


def test_a_failing_sample_ends_the_run(path: str) -> None:
    given = feeds()
    given[4]["x"] = np.ones(2, np.float32)
    with pytest.raises(DataError, match=r"^sample 4 fails \(.*\); repair it or leave it out with --skip-bad$"):
        of().run(samples(given))


def test_skipped_samples_leave_no_trace_but_their_name(path: str) -> None:
    """Of a sample that fails in its second node, the first has been observed already."""
    given = feeds()
    given[4]["x"] = np.array([1e-30, 1e30], np.float32)
    given[9]["x"] = np.array([0.0, -1.0], np.float32)
    given[12]["x"] = np.full(3, np.nan, np.float32)
    found = of(skip_bad=True).run(samples(given))
    without = of().run(samples([feed for index, feed in enumerate(given) if index not in (4, 9, 12)]))
    assert list(found.skipped) == [4, 9, 12]
    assert "Add" in found.skipped[4] and found.skipped[12] == "holds 3 NaN"
    assert found.tensors == without.tensors
    assert (found.samples, found.data_key, found.total) == (20, without.data_key, 23)


def test_only_bad_samples() -> None:
    with pytest.raises(DataError, match="there are no samples that can be used"):
        of(skip_bad=True).run(samples([{"x": np.ones(2, np.float32)}] * 3))


class Killed(BaseException):
    pass


def killed_at(sample: int, checkpoint: Path, **options: object) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == sample:
            raise Killed

    with pytest.raises(Killed):
        of(checkpoint=checkpoint, on_sample=stop, **options).run(samples())


def test_a_killed_run_goes_on(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CHECKPOINT_SECONDS", 0)
    whole = content(of(observer="mse", shard=Shard(2, 2)).run(samples()))
    checkpoint = tmp_path / "s.npz.checkpoint"
    ran: list[int] = []
    killed_at(4, checkpoint, observer="mse", shard=Shard(2, 2))
    killed_at(9, checkpoint, observer="mse", shard=Shard(2, 2), resume=True)
    last = of(
        observer="mse", shard=Shard(2, 2), checkpoint=checkpoint, resume=True,
        on_sample=lambda done, total: ran.append(done),
    )  # fmt: skip
    assert content(last.run(samples())) == whole
    assert ran == [9, 10, 11], "the last one was counted, but killed before that was written down"


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    found = of(checkpoint=tmp_path / "none", resume=True).run(samples())
    assert content(found) == content(of().run(samples()))


def test_an_error_leaves_a_checkpoint(tmp_path: Path) -> None:
    given = feeds()
    given[4]["x"] = np.ones(2, np.float32)
    checkpoint = tmp_path / "c"
    with pytest.raises(DataError):
        of(checkpoint=checkpoint).run(samples(given))
    found = of(checkpoint=checkpoint, resume=True, skip_bad=True).run(samples(given))
    assert content(found) == content(of(skip_bad=True).run(samples(given)))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibration, "CHECKPOINT_SECONDS", 0)
    killed_at(5, tmp_path / "c")
    return tmp_path / "c"


def resumed(checkpoint: Path, given: list[Feed] | None = None, **options: object) -> str:
    with pytest.raises(StatisticsError) as caught:
        of(checkpoint=checkpoint, resume=True, **options).run(samples(given))
    assert str(caught.value).startswith(f"{checkpoint}: ")
    return str(caught.value).removeprefix(f"{checkpoint}: ")


def test_a_checkpoint_of_something_else_is_refused_with_the_difference(checkpoint: Path) -> None:
    other = graphs.graph(
        "g (float[N] x) => (float[M] z) { a = Log(x) y = Add(a, w) z = Mul(y, y) }", w=np.zeros(3, np.float32)
    )
    assert resumed(checkpoint, graph=other).startswith("is of another model (the models differ in their weights)")
    assert "one is for observer any, the other for mse" in resumed(checkpoint, observer="mse")
    assert "it is of shard 1 of 1, not 1 of 2" in resumed(checkpoint, shard=Shard(1, 2))
    assert "only one of the two observes tensor 'z'" in resumed(checkpoint, tensors=("x", "a"))
    changed = feeds()
    changed[2]["x"][0] = 7
    assert resumed(checkpoint, changed).startswith("is of other samples (what the data holds before sample 4 is not")
    assert resumed(checkpoint, feeds()[:3]).startswith("is of other samples")


def test_a_damaged_checkpoint_is_refused(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for damage in (whole[:-1], whole[:100], whole[:-200] + b"\0" + whole[-199:], whole[:60] + whole[61:]):
        checkpoint.write_bytes(damage)
        assert resumed(checkpoint).startswith("is damaged (its checksum does not hold); remove it")
    for other in (b"", b"something else", b"PK\3\4" + whole):
        checkpoint.write_bytes(other)
        assert resumed(checkpoint).startswith("is no checkpoint")
    checkpoint.write_bytes(whole)
    assert Checkpoint.load(checkpoint).next_sample == 4


def test_sources_that_break_off_cannot_be_skipped() -> None:
    def broken() -> Iterator[Feed]:
        yield feeds()[0]
        raise OSError("the disk is gone")

    with pytest.raises(DataError, match="raised an error at sample 1"):
        of(skip_bad=True).run(open_samples(broken, GRAPH.inputs))


def test_threads_count_the_same(path: str, tmp_path: Path) -> None:
    given = feeds() * 3
    given[5]["x"][0] = 0.0  # log: −inf
    given[40] = {"x": np.ones(2, np.float32)}
    whole = content(of(skip_bad=True).run(samples(given)))
    assert content(of(scheduler=Threads(3), skip_bad=True).run(samples(given))) == whole
    checkpoint = tmp_path / "c"
    with pytest.raises(DataError, match="sample 40 fails"):
        of(scheduler=Threads(3), checkpoint=checkpoint).run(samples(given))
    resumed = of(scheduler=Threads(3), skip_bad=True, checkpoint=checkpoint, resume=True).run(samples(given))
    assert content(resumed) == whole


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_rows_run_along_any_axis_and_hold_nothing_that_is_not_finite(axis: int) -> None:
    graph = graphs.graph("g (float[3,4,5] x) => (float[3,4,5] y) { a = Log(x) y = Abs(a) }")
    values = np.random.default_rng(0).uniform(0.1, 2, (3, 4, 5)).astype(np.float32)
    values[1, 2, 3] = -1.0  # log: NaN
    with np.errstate(invalid="ignore"):
        logs = np.log(values)
    rows = np.moveaxis(logs, axis, -1).reshape(-1, values.shape[axis])
    rows = rows[np.isfinite(rows).all(axis=1)]
    found = sample_rows(graph, {"a": axis}, [{"x": values}], samples=1)["a"]
    np.testing.assert_allclose(found.values, rows, rtol=1e-6)
    np.testing.assert_allclose(found.reach, np.abs(rows).max(axis=0), rtol=1e-6)


@pytest.mark.slow
def test_processes_count_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = feeds() * 9
    given[40] = {"x": np.ones(2, np.float32)}
    pool = scheduler("local", 2)
    whole = content(of(skip_bad=True).run(samples(given)))
    checkpoint = tmp_path / "c"
    with pytest.raises(DataError, match="sample 40 fails"):
        of(scheduler=pool, checkpoint=checkpoint).run(samples(given))
    assert Checkpoint.load(checkpoint).next_sample >= 64
    assert content(of(scheduler=pool, skip_bad=True, checkpoint=checkpoint, resume=True).run(samples(given))) == whole


@pytest.mark.slow
def test_a_worker_process_that_dies_is_named(tmp_path: Path) -> None:
    """The system takes a process away by SIGKILL when memory runs out."""
    import multiprocessing
    import os
    import signal

    def kill(done: int, total: int | None) -> None:
        if done == 130:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(WorkerError, match="a worker process ended early"):
        of(scheduler=scheduler("local", 2), on_sample=kill).run(samples(feeds() * 20))


def test_rows_are_taken_from_samples_that_work() -> None:
    given = feeds()
    given[1]["x"] = np.ones(2, np.float32)
    given[3]["x"] = np.full(3, np.nan, np.float32)
    good = [feed for index, feed in enumerate(given) if index not in (1, 3)]
    found = sample_rows(GRAPH, {"a": 0}, samples(given).good(), skip_bad=True)["a"]
    expected = sample_rows(GRAPH, {"a": 0}, good)["a"]
    assert np.array_equal(found.values, expected.values) and len(found.values) > 0
    with pytest.raises(ModelError):
        sample_rows(GRAPH, {"a": 0}, samples(given).good())
