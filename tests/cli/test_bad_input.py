"""Bad input as a user meets it: one line that says what, where and what to do; nothing touched, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke, run, samples, snapshot, spawn
from onnx import TensorProto

COMPILE = ("compile", "m.onnx", "-o", "old.onnx", "--no-timing")
WITH_DATA = (*COMPILE, "--data", "matmul.npz")


@pytest.fixture(autouse=True)
def model(folder: Path) -> None:
    (folder / "m.onnx").write_bytes((folder / "matmul.onnx").read_bytes())


def edited(change: Callable[[onnx.ModelProto], object]) -> None:
    proto = onnx.load("m.onnx")
    change(proto)
    Path("m.onnx").write_bytes(proto.SerializeToString())


def truncated() -> None:
    Path("m.onnx").write_bytes(Path("m.onnx").read_bytes()[:500])


def cyclic() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].input[0] = "y"
        model.graph.node[2].input[0] = "r"

    edited(change)


def external(location: str) -> Callable[[], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", location

    return lambda: edited(change)


MODELS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "missing": (lambda: Path("m.onnx").unlink(), ("m.onnx", "no such file")),
    "a folder": (lambda: (Path("m.onnx").unlink(), Path("m.onnx").mkdir()), ("m.onnx",)),
    "truncated": (truncated, ("m.onnx",)),
    "not ONNX": (lambda: Path("m.onnx").write_text("a letter to a friend"), ("m.onnx",)),
    "empty": (lambda: Path("m.onnx").write_bytes(b""), ("m.onnx",)),
    "cyclic": (cyclic, ("relu", "cycle")),
    "dangling": (lambda: edited(lambda m: m.graph.node[2].input.__setitem__(0, "nowhere")), ("nowhere",)),
    "no external data": (external("gone.data"), ("gone.data",)),
    "external data elsewhere": (external("../../etc/passwd"), ("etc/passwd",)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(folder: Path, name: str) -> None:
    spoil, words = MODELS[name]
    spoil()
    before = snapshot(folder)
    invoke(*WITH_DATA).fails(1, *words)
    assert snapshot(folder) == before


def arrays(**named: np.ndarray) -> Callable[[], None]:
    return lambda: np.savez("matmul.npz", **named)


with_nan = samples((4, 16))
with_nan[2, 3] = np.nan

SAMPLES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "missing": (lambda: Path("matmul.npz").unlink(), ("matmul.npz", "no such file")),
    "damaged": (lambda: Path("matmul.npz").write_bytes(b"PK\3\4 and no more"), ("matmul.npz",)),
    "wrong name": (arrays(X1=samples((4, 16))), ("X1", "x")),
    "wrong dtype": (arrays(x=np.array([["a"] * 16])), ("input 'x'",)),
    "wrong rank": (arrays(x=samples((4, 2, 3, 16))), ("input 'x'",)),
    "wrong size": (arrays(x=samples((4, 15))), ("input 'x'", "15")),
    "not a number": (arrays(x=with_nan), ("sample 2", "NaN")),
    "none": (arrays(x=samples((0, 16))), ("matmul.npz",)),
    "an empty folder": (lambda: (Path("matmul.npz").unlink(), Path("matmul.npz").mkdir()), ("matmul.npz",)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(folder: Path, name: str) -> None:
    spoil, words = SAMPLES[name]
    spoil()
    before = snapshot(folder)
    invoke(*WITH_DATA).fails(1, *words)
    assert snapshot(folder) == before


def test_user_function_that_fails(folder: Path) -> None:
    Path("mine.py").write_text("def feeds():\n    raise RuntimeError('no camera')\n")
    invoke(*COMPILE, "--data", "mine.py:feeds").fails(1, "mine.py:feeds", "no camera")
    invoke(*COMPILE, "--data", "mine.py:feed").fails(1, "mine.py", "feed")
    invoke(*COMPILE, "--data", "mine.py").fails(1, "mine.py", "names no function")


CHOICES: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "misspelt option": ((*COMPILE, "--prcision", "float"), 2, ("'--prcision'", "Did you mean '--precision'?")),
    "misspelt command": (("compil", "m.onnx"), 2, ("'compil'", "Did you mean 'compile'?")),
    "misspelt precision": ((*COMPILE, "--precision", "int9"), 2, ("'int9'", "'int8'")),
    "misspelt target": ((*WITH_DATA, "--target", "ort-cpi"), 1, ("ort-cpi", "did you mean ort-cpu?")),
    "misspelt CPU": ((*WITH_DATA, "--cpu", "vni"), 1, ("'vni'", "vnni")),
    "no data": (COMPILE, 1, ("m.onnx", "--data", "int8-dynamic")),
    "no output": (("compile", "m.onnx", "--data", "matmul.npz"), 2, ("-o",)),
    "no model": (("compile",), 2, ("MODEL",)),
    "unknown node": ((*WITH_DATA, "--keep-float", "secnd"), 1, ("secnd", "did you mean second?")),
    "unknown operator": ((*WITH_DATA, "--keep-float", "op:MatMull"), 1, ("MatMull", "did you mean MatMul?")),
    "unknown pass": ((*WITH_DATA, "--passes", "-remove-ded"), 1, ("remove-ded", "did you mean remove-dead?")),
    "unknown pass option": ((*WITH_DATA, "--passes", "raise-opset{opst=18}"), 1, ("opst", "did you mean opset?")),
    "missing plan": ((*COMPILE, "--plan", "p.json"), 1, ("p.json", "no such file", "qcompiler plan")),
    "missing statistics": ((*COMPILE, "--stats", "s.npz"), 1, ("s.npz", "no such file", "qcompiler calibrate")),
    "missing recipe": ((*WITH_DATA, "--recipe", "r.toml"), 1, ("r.toml",)),
    "plan and recipe": ((*COMPILE, "--plan", "p.json", "--keep-float", "first"), 2, ("--keep-float",)),
    "missing --load": ((*WITH_DATA, "--load", "mine.py"), 1, ("mine.py", "no such file")),
    "zero limit": ((*WITH_DATA, "--limit", "0"), 2, ("--limit",)),
    "two models to plan": (("plan", "m.onnx", "conv.onnx", "-o", "p.json"), 2, ("one model",)),
    "one plan to compare": (("plan", "--diff", "p.json"), 2, ("two plans",)),
    "data to calibrate": (("calibrate", "m.onnx", "-o", "s.npz"), 2, ("--data",)),
    "pass to show": (("passes", "plce"), 1, ("did you mean place?",)),
    "target to show": (("targets", "ortcpu"), 1, ("did you mean ort-cpu?",)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(folder: Path, name: str) -> None:
    arguments, code, words = CHOICES[name]
    before = snapshot(folder)
    invoke(*arguments).fails(code, *words)
    assert snapshot(folder) == before


def test_recipe(folder: Path) -> None:
    Path("r.toml").write_text("keep_flaot = ['first']\n")
    invoke(*WITH_DATA, "--recipe", "r.toml").fails(1, "r.toml", "keep_flaot", "did you mean keep_float?")
    Path("r.toml").write_text("keep_float = ['op:Cnov']\n")
    invoke(*WITH_DATA, "--recipe", "r.toml").fails(1, "op:Cnov", "qcompiler inspect")
    Path("r.toml").write_text("keep_float = [\n")
    invoke(*WITH_DATA, "--recipe", "r.toml").fails(1, "r.toml", "is not TOML")


def test_plans(folder: Path) -> None:
    Path("p.json").write_text("{")
    invoke(*COMPILE, "--plan", "p.json").fails(1, "p.json", "not JSON")
    invoke("plan", "conv.onnx", "-o", "p.json", "--data", "conv.npz", "--no-timing")
    invoke(*COMPILE, "--plan", "p.json").fails(1, "plan")
    invoke(*COMPILE, "--plan", "p.json", "--precision", "int8-dynamic").fails(1, "p.json", "int8-dynamic")
    plan = json.loads(Path("p.json").read_text())
    Path("p.json").write_text(json.dumps({**plan, "tensor": {}}))
    invoke(*COMPILE, "--plan", "p.json").fails(1, "p.json", "unknown field 'tensor'")


OUTPUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "the source": (("compile", "m.onnx", "-o", "./m.onnx"), ("m.onnx", "would overwrite")),
    "the samples": (("calibrate", "m.onnx", "-o", "matmul.npz"), ("matmul.npz", "would overwrite")),
    "a link to the source": (("compile", "m.onnx", "-o", "link.onnx"), ("link.onnx", "would overwrite")),
    "no such folder": (("compile", "m.onnx", "-o", "nowhere/out.onnx"), ("nowhere/out.onnx", "No such file")),
    "a folder": (("compile", "m.onnx", "-o", "."), ("not a regular file",)),
    "a device": (("compile", "m.onnx", "-o", "/dev/null"), ("/dev/null", "not a regular file")),
    "one for two": (("compile", "m.onnx", "-o", "out", "--report", "out"), ("twice",)),
    "no place for the report": (("compile", "m.onnx", "-o", "o.onnx", "--report", "no/r.json"), ("no/r.json",)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_looked_at_before_the_work(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, words = OUTPUTS[name]
    (folder / "link.onnx").symlink_to("m.onnx")
    before = snapshot(folder)
    monkeypatch.setattr("qcompiler.ir.load", lambda model: pytest.fail("the work has begun"))
    invoke(*arguments, "--data", "matmul.npz").fails(1, *words)
    assert snapshot(folder) == before


def test_external_weights_of_the_source_are_not_overwritten(folder: Path) -> None:
    onnx.save(onnx.load("m.onnx"), "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    before = snapshot(folder)
    invoke("compile", "big.onnx", "-o", "big.data", "--data", "matmul.npz").fails(1, "big.data", "would overwrite")
    assert snapshot(folder) == before


@pytest.mark.skipif(os.name == "nt", reason="needs limits of a process")
def test_full_disk(folder: Path) -> None:
    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    before = snapshot(folder)
    done = run(*COMPILE, "--precision", "float", "--verify", "none", cwd=folder, preexec_fn=limited,
               env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    done.fails(1, "old.onnx", "cannot be written", "File too large", "free space")
    assert snapshot(folder) == before


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(folder: Path, number: signal.Signals, code: int) -> None:
    Path("slow.py").write_text(
        "import pathlib, time, numpy as np\n"
        "def feeds():\n"
        "    for i in range(1000):\n"
        "        yield {'x': np.full((1, 16), i, np.float32)}\n"
        "        pathlib.Path('begun').touch()\n"
        "        time.sleep(0.05)\n"
    )
    before = snapshot(folder)
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    # What a shell starts in the background, tests too, ignores Ctrl-C, and so would what it starts.
    process = spawn(*COMPILE, "--data", "slow.py:feeds", cwd=folder, env=environment,
                    preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # fmt: skip
    deadline = time.monotonic() + 60
    while not Path("begun").exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.strip() in ("qcompiler: interrupted", "") and out == ""
    assert list(scratch.glob("qcompiler*")) == []
    Path("begun").unlink()
    shutil.rmtree(scratch)  # ONNX Runtime leaves a file of its own there
    assert snapshot(folder) == before


def test_reader_that_goes_away(folder: Path) -> None:
    process = spawn("passes", cwd=folder)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) in (0, 1)


def test_traceback_only_with_debug(folder: Path) -> None:
    done = run("inspect", "gone.onnx", cwd=folder)
    done.fails(1, "gone.onnx", "no such file")
    debugged = run("inspect", "gone.onnx", "--debug", cwd=folder)
    assert debugged.code == 1 and "Traceback" in debugged.err and "ModelError" in debugged.err


def test_a_fault_of_ours_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.ir.load", lambda model: 1 // 0)
    invoke("inspect", "m.onnx").fails(1, "internal fault (ZeroDivisionError", "--debug")
