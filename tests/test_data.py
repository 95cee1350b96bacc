"""Samples from every kind of source, and one line for every way in which they do not fit."""

from __future__ import annotations

import importlib.util
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcompiler import data, ir
from qcompiler.data import ImageOptions, open_samples, random_samples
from qcompiler.errors import DataError, DependencyError


def spec(name: str, shape: list[int | str | None] | None, dtype: Any = np.float32) -> ir.Variable:
    return ir.Variable(name, None if dtype is None else np.dtype(dtype), shape)


X = spec("x", ["N", 3])
IDS = spec("ids", ["N", "L"], np.int64)
PICTURE = spec("image", ["N", 3, 4, 6])


def batches(count: int, *shape: int) -> np.ndarray:
    return np.arange(count * int(np.prod(shape)), dtype=np.float32).reshape(count, *shape)


def shapes(samples: data.Samples, name: str = "x") -> list[tuple[int, ...]]:
    return [feed[name].shape for feed in samples]


def fails(message: str, act: Callable[[], object], error: type[Exception] = DataError) -> None:
    """``act`` raises an error with exactly this message, on one line."""
    with pytest.raises(error) as caught:
        act()
    assert str(caught.value) == message


def read(source: object, *inputs: ir.Variable, **options: Any) -> list[data.Feed]:
    return list(open_samples(source, inputs or (X,), **options))


# What sources hold ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["npz", "compressed", "memory"])
def arrays(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., object]:
    """Makes a source of arrays: a file of either kind, or a dict."""

    def make(**named: np.ndarray) -> object:
        if request.param == "memory":
            return named
        path = tmp_path / "samples.npz"
        (np.savez if request.param == "npz" else np.savez_compressed)(path, **named)  # type: ignore[arg-type]
        return str(path)

    return make


def test_rows_are_fed_one_at_a_time(arrays: Callable[..., object]) -> None:
    x = batches(5, 3)
    samples = open_samples(arrays(x=x), [X])
    assert samples.count == 5 and shapes(samples) == [(1, 3)] * 5
    assert np.array_equal(np.concatenate([feed["x"] for feed in samples]), x)


def test_a_batch_size_joins_rows_and_the_last_feed_is_smaller(arrays: Callable[..., object]) -> None:
    samples = open_samples(arrays(x=batches(5, 3)), [X], batch_size=2)
    assert samples.count == 3 and shapes(samples) == [(2, 3), (2, 3), (1, 3)]


def test_the_batch_that_the_model_fixes_is_used(arrays: Callable[..., object]) -> None:
    samples = open_samples(arrays(x=batches(6, 3)), [spec("x", [2, 3])])
    assert samples.count == 3 and shapes(samples) == [(2, 3)] * 3


def test_one_more_axis_is_a_stack_of_feeds(arrays: Callable[..., object]) -> None:
    samples = open_samples(arrays(x=batches(4, 5, 3)), [X])
    assert samples.count == 4 and shapes(samples) == [(5, 3)] * 4


def test_an_array_that_makes_one_feed_goes_with_every_feed(arrays: Callable[..., object]) -> None:
    inputs = X, spec("state", [2, 1, 4]), spec("rate", [], np.int64)
    source = arrays(x=batches(3, 3), state=batches(2, 1, 4), rate=np.array(16000))
    feeds = read(source, *inputs)
    assert len(feeds) == 3
    assert all(feed["state"].shape == (2, 1, 4) and feed["rate"] == 16000 for feed in feeds)


def test_an_input_of_unknown_rank_is_cut_along_its_first_axis(arrays: Callable[..., object]) -> None:
    assert shapes(open_samples(arrays(x=batches(4, 2, 3)), [spec("x", None)])) == [(1, 2, 3)] * 4


def test_a_limit_counts_feeds(arrays: Callable[..., object]) -> None:
    samples = open_samples(arrays(x=batches(5, 3)), [X], batch_size=2, limit=2)
    assert samples.count == 2 and shapes(samples) == [(2, 3), (2, 3)]


def test_columns_in_fortran_order(arrays: Callable[..., object]) -> None:
    x = np.asfortranarray(batches(5, 3))
    assert np.array_equal(np.concatenate([feed["x"] for feed in open_samples(arrays(x=x), [X])]), x)


def test_samples_can_be_iterated_again(arrays: Callable[..., object]) -> None:
    samples = open_samples(arrays(x=batches(3, 3)), [X])
    assert [a["x"].tolist() for a in samples] == [b["x"].tolist() for b in samples]


def test_a_file_is_read_a_feed_at_a_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((200, 50_000), np.float32))
    samples = open_samples(tmp_path / "x.npz", [spec("x", ["N", 50_000])])
    tracemalloc.start()
    assert sum(1 for _ in samples) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6, "the file holds 40 MB"


def test_a_folder_of_npz_in_natural_order_with_shapes_that_differ(tmp_path: Path) -> None:
    for index in (10, 2, 1):
        np.savez(tmp_path / f"{index}.npz", x=batches(index, 3))
    samples = open_samples(tmp_path, [X])
    assert samples.count == 3 and shapes(samples) == [(1, 3), (2, 3), (10, 3)]


SCRIPT = """
import numpy as np
import neighbour
calls = []
def feeds():
    calls.append(1)
    for _ in range(2):
        yield {"x": np.full((len(calls), 3), neighbour.VALUE, np.float32)}
def breaks():
    yield {"x": np.zeros((1, 3), np.float32)}
    raise KeyError("disk")
def fails_at_once():
    return 1 / 0
def one_array():
    return np.float32(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("VALUE = 7")
    (tmp_path / "mine.py").write_text(SCRIPT)
    return tmp_path / "mine.py"


def test_a_function_of_the_user_is_called_anew_each_time(script: Path) -> None:
    samples = open_samples(f"{script}:feeds", [X])
    assert samples.count is None
    assert shapes(samples) == [(1, 3)] * 2 and samples.count == 2
    assert shapes(samples) == [(2, 3)] * 2
    assert next(iter(samples))["x"][0, 0] == 7


def test_a_function_a_list_and_an_endless_iterator() -> None:
    feed = {"x": batches(2, 3)}
    assert shapes(open_samples(lambda: [feed] * 3, [X])) == [(2, 3)] * 3
    assert open_samples([feed] * 3, [X], limit=2).count == 2
    endless = open_samples((feed for _ in itertools.count()), [X], limit=4)
    assert shapes(endless) == shapes(endless) == [(2, 3)] * 4
    assert shapes(open_samples(endless, [X], limit=1)) == [(2, 3)]


def test_a_model_without_inputs() -> None:
    assert list(open_samples({}, [])) == [{}]


def test_values_are_converted_where_nothing_is_lost() -> None:
    feeds = read([{"x": [[1.0, 2.0, np.inf]], "ids": np.array([[1, 2]], np.int32)}], X, IDS)
    assert feeds[0]["x"].dtype == np.float32 and np.isinf(feeds[0]["x"][0, 2])
    assert feeds[0]["ids"].dtype == np.int64
    words = read({"t": np.array([["a", "b"]])}, spec("t", ["N", 2], object))
    assert words[0]["t"].dtype == object


def test_an_empty_cache_is_let_through() -> None:
    assert read([{"x": np.zeros((1, 0, 3), np.float32)}], spec("x", [1, "past", 3]))[0]["x"].size == 0


# Images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, 8 wide and 4 high, (200, 100, 0) on the left and (0, 0, 50) on the right."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (200, 100, 0), (0, 0, 50)
    for name in ("1.png", "2.png", "10.png"):
        image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_pictures_take_the_size_that_the_model_wants(pictures: Path) -> None:
    samples = open_samples(pictures, [PICTURE])
    assert samples.count == 3 and shapes(samples, "image") == [(1, 3, 4, 6)] * 3
    assert next(iter(samples))["image"][0, :, 0, 0] == pytest.approx([200 / 255, 100 / 255, 0])


def first(pictures: Path, tensor: ir.Variable = PICTURE, batch_size: int | None = None, **options: Any) -> np.ndarray:
    return read(pictures, tensor, batch_size=batch_size, image_options=ImageOptions(**options))[0]["image"]


def test_picture_options(pictures: Path) -> None:
    assert first(pictures, channels="bgr", scale=1.0)[0, :, 0, 0] == pytest.approx([0, 100, 200])
    scaled = first(pictures, mean=(0.5,), std=(0.25, 0.5, 1.0))[0, :, 0, 0]
    assert scaled == pytest.approx([(200 / 255 - 0.5) / 0.25, (100 / 255 - 0.5) / 0.5, -0.5])
    free = spec("image", ["N", 3, "H", "W"])
    assert first(pictures, free, size=(5, 7), batch_size=3).shape == (3, 3, 5, 7)
    nhwc = first(pictures, spec("image", [1, 4, 6, 3]))
    assert nhwc.shape == (1, 4, 6, 3) and nhwc[0, 0, 0] == pytest.approx([200 / 255, 100 / 255, 0])
    assert first(pictures, spec("image", [1, None, None, None]), layout="nhwc", size=(2, 2)).shape == (1, 2, 2, 3)
    bytes_ = first(pictures, spec("image", [1, 3, 4, 6], np.uint8))
    assert bytes_.dtype == np.uint8 and bytes_[0, :, 0, 0].tolist() == [200, 100, 0]
    assert first(pictures, spec("image", ["N", 1, 4, 6])).shape == (1, 1, 4, 6)


def test_ways_to_resize(pictures: Path) -> None:
    square = spec("image", [1, 3, 8, 8])
    assert first(pictures, square, resize="pad", scale=1.0)[0, :, 0, 0].tolist() == [0, 0, 0]
    assert first(pictures, square, resize="crop", scale=1.0)[0, 0, :, 0].tolist() == [200] * 8
    assert first(pictures, square, resize="stretch", scale=1.0)[0, 2, 7, 7] == 50


def test_bad_pictures(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"{pictures}: input 'image'"
    free = spec("image", ["N", 3, "H", "W"])
    fails(
        f"{at}: the model leaves the picture's size free (its shape is [N, 3, H, W]); give an image size",
        lambda: first(pictures, free),
    )
    fails(
        f"{pictures}: images can feed a model with one input, this one has 2 (its inputs are 'x', 'ids'); "
        "give .npz files",
        lambda: read(pictures, X, IDS),
    )
    fails(f"{pictures}: input 'x': is no picture: its shape is [N, 3]; give .npz files", lambda: read(pictures))
    fails(
        f"{at}: has 4 channels as nchw, images have 1 or 3; choose the other layout, or give .npz files",
        lambda: first(pictures, spec("image", [1, 4, 4, 6])),
    )
    fails(
        f"{at}: image option 'mean' has 2 numbers; give one number, or one a channel",
        lambda: first(pictures, mean=(1.0, 2.0)),
    )
    two = spec("image", [2, 3, 4, 6])
    fails(
        f"{pictures}: 3 images do not fill feeds of 2 (the model fixes its batch size); leave out 1 or add 1",
        lambda: first(pictures, two),
    )
    assert len(read(pictures, two, limit=1)) == 1
    fails(
        f"{pictures}: a batch size of 3 is not possible (the model fixes it at 2)",
        lambda: first(pictures, two, batch_size=3),
    )
    (pictures / "0.png").write_bytes((pictures / "1.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"0\.png: is no readable image \(.*\); remove it$"):
        first(pictures)
    np.savez(pictures / "x.npz", x=batches(1, 3))
    fails(
        f"{pictures}: holds .npz files and images; keep one kind, or move it to its own folder",
        lambda: read(pictures),
    )
    (pictures / "x.npz").unlink()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else found(name))
    message = f"{pictures}: images need pillow; pip install 'qcompiler-onnx[images]'"
    fails(message, lambda: first(pictures), DependencyError)


def test_bad_picture_options() -> None:
    fails("image option 'layout' is 'nwhc'; use one of nchw, nhwc", lambda: ImageOptions(layout="nwhc"))  # type: ignore[arg-type]
    fails("image option 'channels' is 'rbg'; use one of rgb, bgr", lambda: ImageOptions(channels="rbg"))  # type: ignore[arg-type]
    fails("image option 'size' is (0, 4); give a height and a width in pixels", lambda: ImageOptions(size=(0, 4)))
    fails(
        "image option 'std' holds a zero; give the divisors that the model was trained with",
        lambda: ImageOptions(std=(1.0, 0.0, 1.0)),
    )


# Feeds that do not fit ------------------------------------------------------------------------------------------

GOOD = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"X": GOOD}, "the model has no input 'X' (its inputs are 'x'); rename it"),
        ({"xx": GOOD}, "the model has no input 'xx' (its inputs are 'x'); did you mean 'x'"),
        ({}, "input 'x' is missing (there are none); add 'x'"),
        (GOOD, "is a ndarray; make each sample a dict {input name: array}"),
        ({"x": np.ones((1, 3), np.int64)}, "input 'x': is int64, the model wants float32; convert it to float32"),
        ({"x": np.array([["a"]])}, "input 'x': is <U1, the model wants float32; convert it to float32"),
        ({"x": [[1, 2], [3]]}, None),
        ({"x": np.full((1, 3), 1e300)}, "input 'x': holds values that float32 cannot (it is float64)"),
        ({"x": np.ones(3, np.float32)}, "input 'x': has 1 axes [3], the model wants 2: [N, 3]"),
        (
            {"x": np.ones((1, 4), np.float32)},
            "input 'x': axis 1 has length 4, the model wants 3 (given [1, 4], wanted [N, 3])",
        ),
        ({"x": np.ones((0, 3), np.float32)}, "input 'x': is empty (its shape is [0, 3])"),
        ({"x": GOOD * np.nan}, "input 'x': holds 3 NaN; repair this sample or leave it out"),
    ],
)
def test_a_feed_that_does_not_fit_is_named(feed: object, message: str | None) -> None:
    with pytest.raises(DataError) as caught:
        read([{"x": GOOD}, feed])
    assert str(caught.value).startswith("the given samples: sample 1")
    assert "\n" not in str(caught.value)
    if message is not None:
        assert str(caught.value) == f"the given samples: sample 1: {message}"


def test_integers_are_not_narrowed() -> None:
    fails(
        "the given samples: sample 0: input 'ids': is int64, the model wants int32; convert it to int32",
        lambda: read([{"ids": np.ones((1, 2), np.int64)}], spec("ids", ["N", 2], np.int32)),
    )


def test_bad_arrays() -> None:
    where = "the given arrays"
    fails(
        f"{where}: the model has no input 'idx' (its inputs are 'x', 'ids'); did you mean 'ids'",
        lambda: read({"x": GOOD, "idx": GOOD}, X, IDS),
    )
    fails(f"{where}: input 'ids' is missing (there are 'x'); add 'ids'", lambda: read({"x": GOOD}, X, IDS))
    fails(
        f"{where}: input 'x': has 1 axes [3], the model wants 2: [N, 3]; one more axis makes a stack of feeds",
        lambda: read({"x": np.ones(3, np.float32)}),
    )
    fails(
        f"{where}: input 'x': there are no samples (its shape is [0, 3])",
        lambda: read({"x": np.ones((0, 3), np.float32)}),
    )
    fails(
        f"{where}: input 'x': 3 rows do not fill feeds of 2 (the model fixes its batch size); leave out 1 or add 1",
        lambda: read({"x": batches(3, 3)}, spec("x", [2, 3])),
    )
    assert len(read({"x": batches(3, 3)}, spec("x", [2, 3]), limit=1)) == 1
    fails(
        f"{where}: a batch size of 3 is not possible (the model, or a stack of feeds, fixes it)",
        lambda: read({"x": batches(2, 3)}, spec("x", [2, 3]), batch_size=3),
    )
    fails(
        f"{where}: input 'ids' makes 2 feeds and input 'x' makes 3; give each input the same number of rows",
        lambda: read({"x": batches(3, 3), "ids": np.ones((2, 4), np.int64)}, X, IDS),
    )
    fails(
        f"{where}: sample 1: input 'x': holds 1 NaN; repair this sample or leave it out",
        lambda: read({"x": np.array([[1, 2, 3], [4, np.nan, 6]], np.float32)}),
    )


def test_bad_files(tmp_path: Path, script: Path) -> None:
    path = tmp_path / "x.npz"
    fails(f"{path}: no such file; check the path", lambda: read(path))
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"x\.npz: is no \.npz file, or damaged \(.*\); write it again"):
        read(path)
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(50, 3)))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"is no \.npz file, or damaged"):
        read(path)
    np.savez(path, x=np.array([{"a": 1}], object))
    with pytest.raises(DataError, match=r"x\.npz: array 'x' holds Python objects; store numbers or strings|damaged"):
        read(path)
    np.savez(path)
    fails(f"{path}: holds no arrays; write it with numpy.savez(path, INPUT=array)", lambda: read(path))
    path.unlink()
    (tmp_path / "empty").mkdir()
    fails(f"{tmp_path}/empty: holds neither .npz files nor images (it has 0 files)", lambda: read(tmp_path / "empty"))
    missing = tmp_path / "samples.h5"
    advice = "give an .npz file, a folder of .npz files or images, or file.py:function"
    fails(f"{missing}: no such file; {advice}", lambda: read(missing))
    missing.touch()
    fails(f"{missing}: is no source of samples; {advice}", lambda: read(missing))
    fails(f"{script}: names no function; say which one makes the feeds: {script}:NAME", lambda: read(script))


def test_one_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=GOOD)
    (tmp_path / "2.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"2\.npz: is no \.npz file, or damaged"):
        read(tmp_path)


def test_errors_in_the_users_code_are_told_with_file_and_cause(script: Path) -> None:
    fails(f"{script}:breaks: raised an error at sample 1 (KeyError: 'disk')", lambda: read(f"{script}:breaks"))
    fails(
        f"{script}:fails_at_once: raised an error (ZeroDivisionError: division by zero)",
        lambda: read(f"{script}:fails_at_once"),
    )
    fails(
        f"{script}:one_array: returned a float32; return an iterable of feeds", lambda: read(f"{script}:one_array")
    )
    fails(
        f"{script}: has no function 'feed' (it has 'feeds', 'breaks', 'fails_at_once', 'one_array')",
        lambda: read(f"{script}:feed"),
    )
    fails(f"{script.parent}/none.py: no such file; check the path", lambda: read(f"{script.parent}/none.py:feeds"))
    script.write_text("import nothing_of_that_name")
    fails(
        f"{script}: cannot be imported (ModuleNotFoundError: No module named 'nothing_of_that_name')",
        lambda: read(f"{script}:feeds"),
    )


def test_other_sources_are_refused() -> None:
    fails(
        "cannot read samples from int; "
        "give a path, a dict of arrays, an iterable of feeds or a function that returns one",
        lambda: read(3),
    )
    fails("the given samples: there are no samples; give at least one", lambda: read([]))
    fails("the given samples: a limit of 0 leaves no sample; give a limit of 1 or more", lambda: read([], limit=0))
    fails("a batch size of 0 is not possible; give 1 or more", lambda: read({"x": GOOD}, batch_size=0))
    fails(
        "the given samples: a batch size cannot be chosen (these samples are whole feeds already)",
        lambda: read([{"x": GOOD}], batch_size=4),
    )


# Random samples -------------------------------------------------------------------------------------------------


def test_random_samples_fit_and_are_the_same_for_a_seed() -> None:
    inputs = (
        spec("image", ["N", 3, "H", "W"]),
        spec("ids", ["N", "L"], np.int64),
        spec("mask", ["N", "L"], bool),
        spec("half", [None, 5, None], np.float16),
        spec("rate", [], np.int64),
        spec("state", [2, None, 8]),
        spec("sound", [1, None]),
    )
    samples = random_samples(inputs, 3, seed=1)
    feeds = list(samples)
    assert samples.count == len(feeds) == 3
    assert {name: array.shape for name, array in feeds[0].items()} == {
        "image": (1, 3, 224, 224), "ids": (1, 32), "mask": (1, 32), "half": (1, 5, 32), "rate": (),
        "state": (2, 1, 8), "sound": (1, 32),
    }  # fmt: skip
    assert set(np.unique(feeds[0]["ids"])) == {0, 1} and feeds[0]["rate"] == 1
    assert not np.array_equal(feeds[0]["image"], feeds[1]["image"])
    assert np.array_equal(next(iter(random_samples(inputs, 1, seed=1)))["image"], feeds[0]["image"])


def test_random_samples_need_to_know_the_inputs() -> None:
    fails(
        "the model does not say which number of axes input 'x' has; give samples with --data",
        lambda: random_samples([spec("x", None)], 1),
    )
    fails(
        "the model does not say which element type input 'x' has; give samples with --data",
        lambda: random_samples([spec("x", [1], None)], 1),
    )
    fails(
        "cannot make up values of object for input 'x'; give samples with --data",
        lambda: list(random_samples([spec("x", [1], object)], 1)),
    )


def test_sequences_are_refused() -> None:
    import onnx

    sequence = ir.Variable("s", type_proto=onnx.TypeProto(sequence_type=onnx.TypeProto.Sequence()))

    def feeds() -> Iterator[data.Feed]:
        yield {"s": GOOD}

    fails(
        "function 'feeds': sample 0: input 's': is no tensor but a sequence or an optional; "
        "such models cannot be fed yet",
        lambda: read(feeds, sequence),
    )
