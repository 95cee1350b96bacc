"""qcompiler::TableLookup in ONNX Runtime sessions, against numpy, for every instruction set there is."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import lookups_model, table_lookup_model
from native_sessions import isas_here, session
from onnx import helper

from qcompiler import native

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without the native library")

CODES = (np.uint8, np.int8)
ENTRIES = (np.uint8, np.int8, np.float32)


@pytest.fixture(params=isas_here())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QCOMPILER_ISA", request.param)
    native.register_custom_ops(ort.SessionOptions())
    return request.param


def random_table(*shape: int, entries: type = np.uint8) -> np.ndarray:
    """Any bits: the floats have NaN among them."""
    item = np.dtype(entries).itemsize
    drawn = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 256, item), dtype=np.uint8)
    return drawn.view(entries)[..., 0]


def expected(x: np.ndarray, table: np.ndarray, axis: int = 1) -> np.ndarray:
    index = x.view(np.uint8)
    if table.ndim == 1:
        return table[index]
    channel = np.arange(len(table)).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return table[channel, index]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("entries", ENTRIES)
def test_every_code(isa: str, codes: type, entries: type) -> None:
    x = np.arange(256, dtype=np.uint8).view(codes)
    table = random_table(entries=entries)
    assert same_bits(session(table_lookup_model(table, codes)).run(None, {"X": x})[0], table)


def test_the_last_entry_is_for_minus_one(isa: str) -> None:
    table = np.arange(256, dtype=np.float32)
    x = np.array([0, 1, 127, -128, -1], np.int8)
    assert session(table_lookup_model(table, np.int8)).run(None, {"X": x})[0].tolist() == [0, 1, 127, 128, 255]


@pytest.mark.parametrize("entries", ENTRIES)
def test_every_length(isa: str, entries: type) -> None:
    rng = np.random.default_rng(0)
    table = random_table(entries=entries)
    runner = session(table_lookup_model(table))
    for count in (*range(0, 300), 1009, 4099, 65_537):
        x = rng.integers(0, 256, count, dtype=np.uint8)
        assert same_bits(runner.run(None, {"X": x})[0], table[x]), count


SIZES = (1, 2, 3, 7, 31, 67)
SHAPES = [shape for rank in (1, 2, 3) for shape in itertools.product(SIZES, repeat=rank)]


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_channels_along_every_axis_of_every_shape(isa: str, axis: int, entries: type) -> None:
    rng = np.random.default_rng(1)
    runners = {size: session(table_lookup_model(random_table(size, entries=entries), axis=axis)) for size in SIZES}
    for shape in SHAPES:
        if not -len(shape) <= axis < len(shape):
            continue
        x = rng.integers(0, 256, shape, dtype=np.uint8)
        y = runners[shape[axis]].run(None, {"X": x})[0]
        assert same_bits(y, expected(x, random_table(shape[axis], entries=entries), axis)), shape


def test_the_axis_is_1_where_none_is_given(isa: str) -> None:
    x = np.random.default_rng(2).integers(-128, 128, (2, 5, 3, 4), dtype=np.int8)
    table = random_table(5, entries=np.int8)
    assert same_bits(session(table_lookup_model(table, np.int8)).run(None, {"X": x})[0], expected(x, table))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4), st.data(), st.sampled_from(CODES), st.sampled_from(ENTRIES),
    st.booleans(), st.booleans(),
)
def test_any_shape(
    shape: list[int], data: st.DataObject, codes: type, entries: type, per_channel: bool, constant: bool
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    table = random_table(*[shape[axis]] * per_channel, entries=entries)
    x = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8).view(codes)
    runner = session(table_lookup_model(table, codes, constant, axis=axis))
    y = runner.run(None, {"X": x} if constant else {"X": x, "table": table})[0]
    assert same_bits(y, expected(x, table, axis))


def test_a_single_value_has_no_axis() -> None:
    table = random_table(entries=np.float32)
    x = np.array(200, np.uint8)
    assert same_bits(session(table_lookup_model(table)).run(None, {"X": x})[0], table[x])


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("axis", [1, -1])
def test_threads_change_nothing(entries: type, axis: int) -> None:
    x = np.random.default_rng(3).integers(0, 256, (3, 37, 101, 37), dtype=np.uint8)
    for table in (random_table(entries=entries), random_table(37, entries=entries)):
        model = table_lookup_model(table, axis=axis)
        for threads in (1, 2, 3):
            assert same_bits(session(model, threads).run(None, {"X": x})[0], expected(x, table, axis))


@pytest.mark.parametrize("shape", [[5003], ["n"], None])
def test_codes_that_are_needed_again_are_not_written_over(shape: list | None) -> None:
    a, b, c, d = (np.roll(random_table(), i) for i in range(4))
    lookups = {"A": ("X", a), "B": ("A", b.view(np.int8)), "C": ("B", c), "D": ("B", d.astype(np.float32))}
    runner = session(lookups_model(lookups, ["C", "D"], shape))
    x = np.random.default_rng(4).integers(0, 256, 5003, dtype=np.uint8)
    y = runner.run(None, {"X": x})
    assert same_bits(y[0], c[b[a[x]]])
    assert same_bits(y[1], d[b[a[x]]].astype(np.float32))


IN_PLACE = """
import re, sys
from pathlib import Path
import numpy as np, onnxruntime as ort
def most():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
x = np.zeros(int(sys.argv[3]), np.uint8)
before = most()
session.run(None, {"X": x})
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_codes_are_looked_up_where_they_lie(tmp_path: Path) -> None:
    size, table = 32 << 20, random_table()
    lookups = {"A": ("X", table), "B": ("A", table), "C": ("B", table)}
    model = onnx.load_from_string(lookups_model(lookups, ["C"], [size]))
    model.graph.node.append(helper.make_node("ReduceMax", ["C"], ["Y"], keepdims=0))
    model.graph.output[0].name = "Y"  # so that no tensor has memory of its own for being an output
    onnx.save(model, tmp_path / "model.onnx")
    ran = subprocess.run(
        [sys.executable, "-c", IN_PLACE, native.library_path(), tmp_path / "model.onnx", str(size)],
        capture_output=True, text=True, check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert 0.9 * size < int(ran.stdout) * 1024 < 1.5 * size


@pytest.mark.parametrize(
    ("given", "known"), [([2, 3], [2, 3]), (["n", 3], ["n", 3]), ([None, 3], []), ([], []), (None, [])]
)
def test_the_runtime_knows_the_shape_that_x_has(given: list | None, known: list) -> None:
    lookups = {"A": ("X", random_table(entries=np.int8)), "Y": ("A", random_table(entries=np.float32))}
    runner = session(lookups_model(lookups, ["Y"], given))
    assert runner.get_outputs()[0].shape == known
    x = np.zeros([2, 3] if given != [] else [], np.uint8)
    assert runner.run(None, {"X": x})[0].shape == x.shape


@pytest.mark.parametrize("shape", [(), (255,), (257,), (1,), (3, 255), (256, 3), (1, 3, 256), (0,)])
@pytest.mark.parametrize("constant", [True, False])
def test_a_table_of_another_shape_is_refused(shape: tuple[int, ...], constant: bool) -> None:
    table = np.zeros(shape, np.uint8)
    text = ", ".join(map(str, shape))
    message = rf"TableLookup, node 'lookup': table has the shape \[{text}\]; make it \[256\], or \[C, 256\]"
    with pytest.raises(Exception, match=message):
        runner = session(table_lookup_model(table, constant=constant))
        runner.run(None, {"X": np.zeros((1, 3), np.uint8), "table": table})


@pytest.mark.parametrize("axis", [2, -3, 2**40, -(2**63)])
def test_an_axis_that_x_does_not_have_is_refused(axis: int) -> None:
    runner = session(table_lookup_model(random_table(3), axis=axis))
    message = rf"node 'lookup': X has the shape \[4, 3\], which has no axis {axis}"
    with pytest.raises(Exception, match=message):
        runner.run(None, {"X": np.zeros((4, 3), np.uint8)})


@pytest.mark.parametrize("axis", [0, -2])
def test_another_number_of_channels_is_refused(axis: int) -> None:
    runner = session(table_lookup_model(random_table(3), axis=axis))
    message = rf"node 'lookup': X has the shape \[4, 3\], whose size along axis {axis} is not the number of tables, 3"
    with pytest.raises(Exception, match=message):
        runner.run(None, {"X": np.zeros((4, 3), np.uint8)})


@pytest.mark.parametrize(
    ("codes", "entries"), [(np.float32, np.uint8), (np.int32, np.uint8), (np.uint8, np.int32), (np.uint8, np.float64)]
)
def test_other_types_are_refused(codes: type, entries: type) -> None:
    with pytest.raises(Exception, match="lookup"):
        session(table_lookup_model(random_table(entries=entries), codes))
