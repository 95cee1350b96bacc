"""Statistics merge exactly, survive a file, and know what they are of."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from calibrate import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcompiler import ir
from qcompiler.calibrate import Statistics, TensorStatistics, collect, model_key
from qcompiler.calibrate.keys import add_keys, feed_key
from qcompiler.errors import OutputError, StatisticsError

any_floats = hnp.arrays(np.uint32, st.integers(0, 30), elements=st.integers(0, 2**32 - 1)).map(
    lambda bits: bits.view(np.float32)
)


@settings(deadline=None)
@given(any_floats)
def test_statistics_of_any_floats(x: np.ndarray) -> None:
    seen = TensorStatistics.of(x)
    finite = x[np.isfinite(x)]
    assert seen.finite == finite.size and seen.finite + seen.bad == x.size
    assert (seen.smallest, seen.largest) == ((finite.min(), finite.max()) if finite.size else (np.inf, -np.inf))
    expected = np.bincount(np.where(finite == 0, np.float32(0), finite).view(np.uint32) >> 16, minlength=65536)
    dense = np.zeros(65536, np.int64)
    dense[seen.bins] = seen.counts
    assert np.array_equal(dense, expected)


@settings(deadline=None)
@given(st.lists(any_floats, min_size=1, max_size=6), st.randoms())
def test_merging_parts_in_any_order_equals_the_whole(parts: list[np.ndarray], random: Random) -> None:
    whole = TensorStatistics.of(np.concatenate(parts))
    random.shuffle(parts)
    merged = TensorStatistics.empty()
    for part in parts:
        merged = merged.merge(TensorStatistics.of(part))
    assert merged == whole


def test_the_earliest_bad_sample_survives_a_merge() -> None:
    bad = [TensorStatistics.of(np.array([np.nan], np.float32), sample=index) for index in (7, 3)]
    good = TensorStatistics.of(np.ones(2, np.float32), sample=1)
    assert bad[0].merge(good).merge(bad[1]).first_bad_sample == 3
    assert good.first_bad_sample is None


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(rows, 3)).astype(np.float32)} for rows in (1, 2, 5, 3)]


def test_shards_merge_to_one_run(feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    graph = graphs.chain()
    shards = [collect(graph, ["square", "x"], part) for part in (feeds[3:], feeds[:1], feeds[1:3])]
    merged = shards[0].merge(shards[1]).merge(shards[2])
    whole = collect(graph, ["square", "x"], feeds)
    assert merged == whole
    assert merged.save(tmp_path / "a.npz").read_bytes() == whole.save(tmp_path / "b.npz").read_bytes()


def test_a_file_holds_everything(feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    graph = graphs.graph("g (float[N, 3] x) => (float[N, 3] y) { y = Log(x) }")
    seen = collect(graph, ["x", "y"], feeds)
    assert seen.tensors["y"].nan
    path = seen.save(tmp_path / "s.npz")
    assert Statistics.load(path, graph) == seen
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_histogram_survives_a_file(tmp_path: Path) -> None:
    seen = Statistics({"t": TensorStatistics.empty()}, "a-b", 0)
    assert Statistics.load(seen.save(tmp_path / "s.npz")) == seen
    nothing = Statistics({}, "a-b", 1)
    assert Statistics.load(nothing.save(tmp_path / "s.npz")) == nothing


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Statistics({}, "a-b", 1).save(tmp_path / "none" / "s.npz")


def expect(message: str, path: Path, graph: ir.Graph | None = None) -> None:
    with pytest.raises(StatisticsError) as caught:
        Statistics.load(path, graph)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    path = collect(graphs.chain(), ["x"], feeds).save(tmp_path / "s.npz")
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at])
        expect("is no statistics file, or damaged", path)
    path.write_bytes(b"not a zip file")
    expect("is no statistics file, or damaged", path)
    np.savez(path, x=np.ones(3))
    expect("is no statistics file, or damaged", path)
    path.unlink()
    expect("no such file", path)


def test_parts_that_do_not_belong_together_are_refused(feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    path = collect(graphs.chain(), ["x"], feeds).save(tmp_path / "s.npz")
    arrays = dict(np.load(path))
    for name, broken in (
        ("counts", arrays["counts"][1:]),
        ("bins", arrays["bins"][::-1]),
        ("sizes", arrays["sizes"] + 1),
        ("tallies", arrays["tallies"][:0]),
        ("counts", arrays["counts"] * 0),
        ("bins", arrays["bins"].astype(np.float32)),
    ):
        np.savez(path, **{**arrays, name: broken})
        expect("is no statistics file, or damaged", path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = Statistics({}, "a-b", 1).save(tmp_path / "s.npz")
    arrays = dict(np.load(path))
    arrays["header"] = np.array(str(arrays["header"]).replace('"format": 2', '"format": 9'))
    np.savez(path, **arrays)
    expect("has format 9 (this version reads 2); calibrate again", path)


def test_a_file_of_another_model_is_refused_with_the_difference(tmp_path: Path) -> None:
    text = "g (float[N] x) => (float[N] y) { y = OP(x, w) }"
    add, mul = (graphs.graph(text.replace("OP", op), w=np.ones(1, np.float32)) for op in ("Add", "Mul"))
    other_weights = graphs.graph(text.replace("OP", "Add"), w=np.zeros(1, np.float32))
    path = collect(add, ["y"], [{"x": np.ones(2, np.float32)}]).save(tmp_path / "s.npz")
    Statistics.load(path, add).check(add, ["y"])
    expect("is of another model (the models differ in their operators)", path, mul)
    expect("is of another model (the models differ in their weights)", path, other_weights)
    with pytest.raises(StatisticsError, match="does not hold tensor 'x'; calibrate again"):
        Statistics.load(path).check(add, ["x"])


def test_statistics_of_different_things_do_not_merge() -> None:
    empty = TensorStatistics.empty()
    with pytest.raises(StatisticsError, match=r"cannot be merged .*differ in their weights"):
        Statistics({}, "a-b", 1).merge(Statistics({}, "a-c", 1))
    with pytest.raises(StatisticsError, match="only one of them has tensor 't'"):
        Statistics({"t": empty}, "a-b", 1).merge(Statistics({}, "a-b", 1))


def test_a_model_key_is_of_content(tmp_path: Path) -> None:
    for make in (graphs.chain, graphs.branches, graphs.loop, graphs.scan):
        graph = make()
        assert model_key(graph) == model_key(ir.clone(graph)) == model_key(make())
        assert model_key(ir.load(ir.save(graph, tmp_path / "m.onnx", external=True))) == model_key(graph)
    keys = {model_key(make()) for make in (graphs.chain, graphs.branches, graphs.loop, graphs.scan)}
    assert len(keys) == 4


def test_a_change_inside_a_body_changes_the_key() -> None:
    graph = graphs.branches()
    before = model_key(graph)
    next(node for _, node in ir.all_nodes(graph) if node.op == "Sub").op = "Add"
    assert model_key(graph) != before


def test_feed_keys_add_up_in_any_order(feeds: list[dict[str, np.ndarray]]) -> None:
    keys = [feed_key(feed) for feed in feeds]
    assert len(set(keys)) == len(keys)
    assert add_keys(add_keys(keys[0], keys[1]), keys[2]) == add_keys(keys[2], add_keys(keys[1], keys[0]))
    assert feed_key({"x": np.zeros((2, 3))}) != feed_key({"x": np.zeros((3, 2))})
