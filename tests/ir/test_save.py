"""Writing: nothing is lost, nothing is left behind, nothing that was there is harmed."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from ir.programs import evaluate, external, model
from onnx import TensorProto, helper

from qcompiler import ir
from qcompiler.errors import ModelError, OutputError

saving = importlib.import_module("qcompiler.ir.save")  # the package's attribute of that name is the function

BIG = "(float[4096] x) => (float[4096] y) { y = Add(x, w) }"


def big() -> onnx.ModelProto:
    return model(BIG, w=np.arange(4096, dtype=np.float32))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("outside", [False, True])
def test_a_saved_model_computes_the_same(tmp_path: Path, outside: bool) -> None:
    path = ir.save(ir.load(big()), tmp_path / "out.onnx", external=outside)
    assert sorted(files(tmp_path)) == (["out.onnx", "out.onnx.data"] if outside else ["out.onnx"])
    onnx.checker.check_model(str(path))
    for source in (path, ir.load(path)):
        assert evaluate(source, x=np.ones(4096, np.float32))[0].tolist() == list(range(1, 4097))


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ir.save(ir.load(big()), tmp_path / name / "m.onnx", external=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_external_weights_are_mapped_not_read(tmp_path: Path) -> None:
    graph = ir.load(external(big(), tmp_path))
    values = graph.nodes[0].inputs[1].values
    assert isinstance(values, np.memmap) and not values.flags.writeable
    copied = ir.clone(graph).nodes[0].inputs[1].values
    assert copied is values
    assert graph.sources == (tmp_path / "model.onnx", tmp_path / "weights.bin")


@pytest.mark.parametrize("offset", [4, 2, 1])
def test_external_weights_at_any_offset(tmp_path: Path, offset: int) -> None:
    path = external(big(), tmp_path, offset=offset)
    data = tmp_path / "weights.bin"
    data.write_bytes(bytes(offset) + data.read_bytes())
    values = ir.load(path).nodes[0].inputs[1].values
    assert values.flags.aligned and values.tolist() == list(range(4096))
    assert isinstance(values, np.memmap) == (offset == 4)


def test_length_and_offset_may_be_left_out(tmp_path: Path) -> None:
    path = external(big(), tmp_path, offset=None, length=None)
    assert ir.load(path).nodes[0].inputs[1].values.tolist() == list(range(4096))


def test_external_data_with_functions(tmp_path: Path) -> None:
    functions = '<domain: "custom", opset_import: ["": 17]> F (a, b) => (c) { c = Add(a, b) }'
    proto = model(BIG.replace("Add", "custom.F"), functions=functions, w=np.arange(4096, dtype=np.float32))
    graph = ir.load(external(proto, tmp_path))
    assert evaluate(graph, x=np.zeros(4096, np.float32))[0].tolist() == list(range(4096))


def test_big_constants_in_attributes_and_outputs_load_in_a_runtime(tmp_path: Path) -> None:
    proto = model("(float[4096] x) => (float[4096] y, float[4096] w) { y = Add(x, w) }", w=np.ones(4096, np.float32))
    path = ir.save(ir.load(proto), tmp_path / "m.onnx", external=True)
    assert [value.sum() for value in evaluate(path, x=np.ones(4096, np.float32))] == [8192, 4096]


def test_four_bit_weights_go_outside_packed(tmp_path: Path) -> None:
    values = np.tile(np.array([-8, 7, 1], np.int8), 2001).astype(ml_dtypes.int4)
    proto = model("(float x) => (float y) { y = custom.F(x, w) }", opset=21, ir_version=10, w=values)
    path = ir.save(ir.load(proto), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 3002
    assert ir.load(path).nodes[0].inputs[1].values.tolist() == values.tolist()


def test_the_ir_version_suits_the_operator_set() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { y = Relu(x) }", opset=9, ir_version=3))
    assert ir.to_proto(graph).ir_version == 4
    graph.opset = 21
    assert ir.to_proto(graph).ir_version == helper.find_min_ir_version_for([helper.make_opsetid("", 21)])


def test_new_domains_are_declared() -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    graph.nodes[0].domain, graph.nodes[0].op = "elsewhere", "Foo"
    assert {entry.domain for entry in ir.to_proto(graph).opset_import} == {"", "custom", "com.microsoft", "elsewhere"}


@pytest.mark.parametrize(
    "value, kind",
    [(True, "INT"), (np.int64(3), "INT"), (np.float32(0.5), "FLOAT"), (np.float16, "INT"), (np.dtype("int8"), "INT"),
     ("text", "STRING"), ([1.5], "FLOATS"), (["a"], "STRINGS"), (np.ones(2, np.float32), "TENSOR")],
)  # fmt: skip
def test_attributes_that_passes_write(value: Any, kind: str) -> None:
    graph = ir.load(model("(float[2] x) => (float[2] y) { y = custom.F(x) }"))
    graph.nodes[0].attrs["a"] = value
    attribute = ir.to_proto(graph).graph.node[0].attribute[0]
    assert onnx.AttributeProto.AttributeType.Name(attribute.type) == kind
    if kind == "INT" and not isinstance(value, (bool, np.generic)):
        assert attribute.i == helper.np_dtype_to_tensor_dtype(np.dtype(value))


def test_too_many_weights_for_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(saving, "EMBEDDED_LIMIT", 1000)
    graph = ir.load(big())
    with pytest.raises(ModelError, match="too many for one protobuf message; save it to a file"):
        ir.to_proto(graph)
    ir.save(graph, tmp_path / "m.onnx")
    assert sorted(files(tmp_path)) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize("target", ["model.onnx", "link.onnx", "hard.onnx", "weights"])
def test_the_source_is_never_overwritten(tmp_path: Path, target: str) -> None:
    path = external(big(), tmp_path)
    (tmp_path / "link.onnx").symlink_to(path)
    (tmp_path / "hard.onnx").hardlink_to(path)
    (tmp_path / "weights.data").hardlink_to(tmp_path / "weights.bin")
    before = files(tmp_path)
    with pytest.raises(OutputError, match="would overwrite the source model; choose another output path"):
        ir.save(ir.load(path), tmp_path / target, external=target == "weights")
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["none/out.onnx", "file/out.onnx", "folder", "pipe", "n" * 300, "."])
def test_places_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    graph = ir.load(big())
    before = sorted(path.name for path in tmp_path.iterdir())
    for outside in (False, True):
        with pytest.raises(OutputError) as caught:
            ir.save(graph, tmp_path / target, external=outside)
        assert caught.value.fix and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()


@pytest.fixture
def existing(tmp_path: Path) -> Iterator[Path]:
    """An output of an earlier run; whatever happens to the new one, it must stay as it is."""
    path = tmp_path / "out.onnx"
    path.write_bytes(b"earlier model")
    (tmp_path / "out.onnx.data").write_bytes(b"earlier weights")
    before = files(tmp_path)
    yield path
    assert files(tmp_path) == before


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_weights_are_written(
    existing: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(self: object, proto: TensorProto, values: np.ndarray) -> None:
        self.file.write(b"part of the weights")  # type: ignore[attr-defined]
        raise failure

    monkeypatch.setattr(saving._DataFile, "append", fail)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        ir.save(ir.load(big()), existing, external=True)
    if isinstance(failure, OSError):
        assert "cannot be written (No space left on device); free space" in str(caught.value)


def test_interrupted_in_the_block(existing: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ir.written_beside(existing) as file:
        file.write(b"half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("outside", [False, True])
def test_a_full_disk(existing: Path, outside: bool) -> None:
    """The kernel's own limit on file sizes stands in for the disk; it strikes while buffers are flushed, too."""
    program = f"""
import resource, signal, sys, numpy as np
from qcompiler import ir
from qcompiler.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
graph = ir.load(sys.stdin.buffer.read())
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
try:
    ir.save(graph, {str(existing)!r}, external={outside})
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=big().SerializeToString(), capture_output=True, check=True
    )
    said = done.stdout.decode()
    assert "out.onnx" in said and "cannot be written (File too large); free space or choose another place" in said


def test_written_beside_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old and long")
    with ir.written_beside(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old and long"
    assert files(tmp_path) == {"out": b"new"}


@pytest.mark.slow
def test_a_model_beyond_two_gigabytes_passes_through_in_little_memory(tmp_path: Path) -> None:
    """2.5 GB of weights in a sparse file: loaded, cloned and saved with less than 300 MB of anonymous memory."""
    weights = 5
    proto = model("(float[1] x) => (float[1] y) { y = custom.F(x) }")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(weights * 500_000_000)
    for index in range(weights):
        weight = proto.graph.initializer.add(name=f"w{index}", dims=[125_000_000], data_type=TensorProto.FLOAT)
        weight.data_location = TensorProto.EXTERNAL
        stated = {"location": "weights.bin", "offset": index * 500_000_000, "length": 500_000_000}
        for key, value in stated.items():
            weight.external_data.add(key=key, value=str(value))
    proto.graph.node[0].input.extend(f"w{index}" for index in range(weights))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    program = """
import sys, threading, time
from qcompiler import ir
peak = 0
def watch():
    global peak
    while True:
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
graph = ir.load(sys.argv[1])
ir.infer_shapes(graph)
ir.save(ir.clone(graph), sys.argv[2])
print(peak)
"""
    paths = [str(tmp_path / "model.onnx"), str(tmp_path / "out.onnx")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, check=True)
    assert int(done.stdout) < 300_000
    assert (tmp_path / "out.onnx.data").stat().st_size >= weights * 500_000_000
    assert len(ir.load(tmp_path / "out.onnx").nodes[0].inputs) == 1 + weights
