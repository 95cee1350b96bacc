"""calibrate, merge and stats: what they write, say and refuse."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.programs import invoke, run, samples, spawn
from onnx import numpy_helper

from qcompiler import native
from qcompiler.calibrate import Statistics

CALIBRATE = ("calibrate", "conv.onnx", "--data", "conv.npz")


def shards(count: int) -> list[str]:
    names = [f"s{number}.npz" for number in range(1, count + 1)]
    for number, name in enumerate(names, 1):
        done = invoke(*CALIBRATE, "-o", name, "--shard", f"{number}/{count}")
        assert done.code == 0 and f"shard {number} of {count}" in done.out, done
    return names


def test_shards_merge_to_the_bytes_of_one_run(folder: Path) -> None:
    invoke(*CALIBRATE, "-o", "one.npz", "--observer", "percentile", "--workers", 1)
    invoke(*CALIBRATE, "-o", "two.npz", "--observer", "percentile", "--workers", 2)
    assert (folder / "two.npz").read_bytes() == (folder / "one.npz").read_bytes()
    invoke(*CALIBRATE, "-o", "any.npz")
    done = invoke("merge", *reversed(shards(5)), "-o", "merged.npz")
    assert (done.code, done.err) == (0, "") and "3 tensors over 12 samples" in done.out
    assert (folder / "merged.npz").read_bytes() == (folder / "any.npz").read_bytes()
    assert (folder / "merged.npz").read_bytes() != (folder / "one.npz").read_bytes(), "the observer is noted"


def test_a_pattern_of_shards_may_catch_an_earlier_result(folder: Path) -> None:
    invoke(*CALIBRATE, "-o", "stats.npz")
    before = (folder / "stats.npz").read_bytes()
    assert invoke("merge", *shards(3), "stats.npz", "-o", "stats.npz").code == 0
    assert (folder / "stats.npz").read_bytes() == before
    invoke("merge", "stats.npz", "-o", "stats.npz").fails(1, "stats.npz: is no shard")


def test_what_merge_refuses(folder: Path) -> None:
    names = shards(3)
    invoke("merge", names[0], names[2], "-o", "m.npz").fails(1, "shard 2 is missing")
    invoke("merge", *names, names[0], "-o", "m.npz").fails(1, "s1.npz: is shard 1 of 3")
    invoke("merge", *names, "gone.npz", "-o", "m.npz").fails(1, "gone.npz: no such file")
    invoke("merge", *names, "-o", "s1.npz").fails(1, "would overwrite")
    compiled = invoke("compile", "conv.onnx", "-o", "o.onnx", "--stats", names[0])
    compiled.fails(1, "s1.npz: is shard 1 of 3", "qcompiler merge")
    assert not (folder / "m.npz").exists()


def test_choices_are_refused_before_any_work(folder: Path) -> None:
    for wrong in ("0/3", "4/3", "2", "a/b"):
        invoke(*CALIBRATE, "-o", "s.npz", "--shard", wrong).fails(2, "is no shard such as 3/8")
    invoke(*CALIBRATE, "-o", "s.npz", "--scheduler", "somewhere").fails(2, "neither local nor an address")
    invoke(*CALIBRATE, "-o", "s.npz", "--scheduler", "tcp://a:1", "--workers", 2).fails(2, "--workers is for the local")


def test_the_observer_that_statistics_were_taken_for_is_insisted_on(folder: Path) -> None:
    assert invoke(*CALIBRATE, "-o", "s.npz", "--observer", "minmax").code == 0
    made = ("compile", "conv.onnx", "--no-timing", "--stats", "s.npz")
    invoke(*made, "-o", "a.onnx", "--observer", "mse").fails(1, "s.npz: was taken for observer minmax, not mse")
    (folder / "r.toml").write_text('observer = "entropy"')
    invoke(*made, "-o", "a.onnx", "--recipe", "r.toml").fails(1, "was taken for observer minmax, not entropy")
    assert invoke(*made, "-o", "a.onnx").code == 0
    assert invoke(*made, "-o", "b.onnx", "--observer", "minmax").code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    assert invoke(*CALIBRATE, "-o", "s.npz").code == 0
    for observer in ("mse", "entropy"):
        assert invoke(*made, "-o", "a.onnx", "--observer", observer).code == 0, "these serve any"


SILU = """<ir_version: 9, opset_import: ["" : 17]>
g (float[n, 3, 16, 16] x, float[8, 3, 3, 3] w, float[4, 8, 1, 1] v) => (float[n, 4, 14, 14] y) {
    c = Conv(x, w) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, v)
}"""


def test_compile_counts_as_calibrate_does(folder: Path) -> None:
    model = onnx.parser.parse_model(SILU)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (4, 8, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(samples(shape), name))
    del model.graph.input[1:]
    onnx.save(model, folder / "silu.onnx")
    for name in ("conv", "silu"):
        data, stats = ("--data", "conv.npz"), ("--stats", "s.npz")
        undecided = ("--passes", "-round-weights", "--passes", "-smooth-conv")  # what else is decided on samples
        plain = (*undecided, "--observer", "mse", "--improve", "none")
        for passes, *same in (((), data, (*data, *stats)), (undecided, (*data, *plain), (*stats, *plain))):
            assert invoke("calibrate", f"{name}.onnx", *data, "-o", "s.npz", *passes).code == 0
            for index, given in enumerate(same):
                assert invoke("compile", f"{name}.onnx", "--no-timing", "-o", f"{index}.onnx", *given).code == 0
            assert (folder / "0.onnx").read_bytes() == (folder / "1.onnx").read_bytes(), name


@pytest.mark.skipif(not native.available(), reason="installed without the native library")
def test_statistics_for_operators_of_ours(folder: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[n,3,16,16] x) => (float[n,4,14,14] y) { c = Conv(x, w) h = HardSwish(c) y = Conv(h, v) }"""
    )
    random = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    onnx.save(model, "m.onnx")
    invoke("calibrate", "m.onnx", "--data", "conv.npz", "-o", "ours.npz", "--ops", "native")
    done = invoke("compile", "m.onnx", "-o", "o.onnx", "--stats", "ours.npz", "--ops", "native", "--no-timing")
    assert done.code == 0, done
    assert "TableLookup" in {node.op_type for node in onnx.load("o.onnx").graph.node}
    invoke("compile", "m.onnx", "-o", "s.onnx", "--stats", "ours.npz").fails(1, "is of another model")


def test_bad_samples_are_skipped_and_listed(folder: Path) -> None:
    x = samples((6, 3, 16, 16))
    x[2] = np.nan
    np.savez(folder / "bad.npz", x=x)
    bad = ("calibrate", "conv.onnx", "-o", "s.npz", "--data", "bad.npz")
    invoke(*bad).fails(1, "bad.npz: sample 2: input 'x': holds 768 NaN")
    done = invoke(*bad, "--skip-bad")
    assert done.code == 0 and "over 5 samples" in done.out
    assert "skipped sample 2: holds 768 NaN" in done.out


def test_unreadable_pictures_are_skipped(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (16, 16), (index * 60, 0, 0)).save(folder / "pictures" / f"{index}.png")
    (folder / "pictures" / "1.png").write_bytes(b"no picture")
    picture = ("calibrate", "conv.onnx", "-o", "s.npz", "--data", "pictures")
    invoke(*picture).fails(1, "1.png: is no readable image")
    done = invoke(*picture, "--skip-bad")
    assert done.code == 0 and "over 3 samples" in done.out and "skipped sample 1: is no readable image" in done.out


def test_smoothing_of_earlier_statistics(folder: Path) -> None:
    invoke(*CALIBRATE, "-o", "one.npz")
    invoke(*CALIBRATE, "-o", "two.npz", "--smoothing", "one.npz")
    assert (folder / "two.npz").read_bytes() == (folder / "one.npz").read_bytes()


@pytest.mark.parametrize(("count", "shift", "told"), [(12, 0.0, False), (12, 1.0, True), (4, 0.0, True)])
def test_statistics_of_other_samples_are_told(folder: Path, count: int, shift: float, told: bool) -> None:
    invoke(*CALIBRATE, "-o", "s.npz")
    np.savez(folder / "these.npz", **{name: a[:count] + shift for name, a in np.load(folder / "conv.npz").items()})
    done = invoke("compile", "conv.onnx", "-o", "o.onnx", "--stats", "s.npz", "--data", "these.npz", "--no-timing")
    assert ("ranges are those of s.npz, which is of other samples" in " ".join(done.out.split())) == told


def test_activations_whose_squares_overflow(folder: Path) -> None:
    x = samples((12, 16))
    x[3], x[5, 0] = 1e30, np.finfo(np.float32).max
    np.savez(folder / "large.npz", x=x)
    for command, *more in (("calibrate", "-o", "s.npz"), ("compile", "-o", "o.onnx", "--no-timing")):
        done = invoke(command, "matmul.onnx", "--data", "large.npz", *more)
        assert (done.code, done.err) == (0, ""), done
    assert Statistics.load(folder / "s.npz").tensors["x"].largest == np.finfo(np.float32).max


def test_statistics_of_an_earlier_training_are_refused(folder: Path) -> None:
    """Names and shapes are those of this model, weights are not."""
    invoke(*CALIBRATE, "-o", "old.npz")
    model = onnx.load(folder / "conv.onnx")
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(model, folder / "new.onnx")
    differs = "old.npz: is of another model", "differ in their weights"
    invoke("compile", "new.onnx", "-o", "o.onnx", "--stats", "old.npz").fails(1, *differs)
    again = ("calibrate", "new.onnx", "--data", "conv.npz", "-o", "new.npz", "--smoothing", "old.npz")
    invoke(*again).fails(1, *differs)
    assert not (folder / "new.npz").exists()


def test_a_tensor_that_is_not_finite_is_named_with_its_first_sample(folder: Path) -> None:
    x = samples((6, 3, 16, 16))
    x[3, 0, 0, 0] = np.inf
    np.savez(folder / "inf.npz", x=x)
    done = invoke("calibrate", "conv.onnx", "-o", "s.npz", "--data", "inf.npz")
    assert done.code == 0, done
    assert "not finite: 1 +inf in 'x', first in sample 3; not in its range" in done.out
    assert np.isfinite(Statistics.load(folder / "s.npz").tensors["x"].largest)
    assert "first in sample 3" in invoke("stats", "s.npz").out
    for given in (("--stats", "s.npz"), ("--data", "inf.npz")):
        done = invoke("compile", "conv.onnx", "-o", "o.onnx", "--no-timing", *given)
        assert done.code == 0 and "not finite: 1 +inf in 'x', first in sample 3" in done.out, done


@pytest.mark.slow
def test_after_kill_9_a_run_goes_on_to_the_same_bytes(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import time\nimport numpy as np\n"
        "def feeds():\n"
        "    for index in range(60):\n"
        "        time.sleep(0.1)\n"
        "        yield {'x': np.random.default_rng(index).normal(size=(1, 3, 16, 16)).astype(np.float32)}\n"
    )
    ours = ("calibrate", "conv.onnx", "--data", "mine.py:feeds", "--workers", 1)
    checkpoint = folder / "s.npz.checkpoint"
    process = spawn(*ours, "-o", "s.npz")
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists() and not (folder / "s.npz").exists()
    done = run(*ours, "-o", "s.npz", "--resume")
    assert done.code == 0 and "over 60 samples" in done.out, done
    assert not checkpoint.exists()
    assert run(*ours, "-o", "whole.npz").code == 0
    assert (folder / "s.npz").read_bytes() == (folder / "whole.npz").read_bytes()


def test_a_damaged_checkpoint_is_refused(folder: Path) -> None:
    (folder / "s.npz.checkpoint").write_bytes(b"nonsense")
    invoke(*CALIBRATE, "-o", "s.npz", "--resume").fails(1, "s.npz.checkpoint: is no checkpoint")
    assert invoke(*CALIBRATE, "-o", "s.npz").code == 0, "without --resume it begins anew"
    assert not (folder / "s.npz.checkpoint").exists()


def test_stats_of_all_tensors_and_of_one(folder: Path) -> None:
    invoke(*CALIBRATE, "-o", "s.npz")
    done = invoke("stats", "s.npz")
    assert done.code == 0 and "3 tensors over 12 samples, for any observer" in done.out
    for word in ("smallest", "zeros %", "beyond", "minmax", "percentile", "entropy", "mse", "r1", "c2"):
        assert word in done.out
    one = invoke("stats", "s.npz", "--tensor", "r1")
    assert one.code == 0 and "finite values" in one.out and "clipped %" in one.out
    rows = [line for line in one.out.splitlines() if "█" in line]
    seen = Statistics.load(folder / "s.npz").tensors["r1"]
    counts = sum(int(line.partition("◄")[0].split()[-1]) for line in one.out.splitlines()[-32:])
    assert 16 < len(rows) <= 32 and abs(counts - seen.finite) <= 32
    invoke("stats", "s.npz", "--tensor", "r2").fails(1, "s.npz: does not hold tensor 'r2'")


def test_stats_of_what_has_no_range(folder: Path) -> None:
    (folder / "one_way.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    yield {'x': np.zeros((1, 16), np.float32), 'flag': np.array(True)}\n"
    )
    assert invoke("calibrate", "if.onnx", "-o", "s.npz", "--data", "one_way.py:feeds").code == 0
    done = invoke("stats", "s.npz")
    assert done.code == 0, done
    assert "every value is 0" in invoke("stats", "s.npz", "--tensor", "x").out


def test_stats_draws(folder: Path) -> None:
    invoke(*CALIBRATE, "-o", "s.npz")
    for more in ((), ("--tensor", "r1")):
        done = invoke("stats", "s.npz", *more, "--plot", "drawn.png")
        assert done.code == 0 and "wrote drawn.png" in done.out, done
        assert (folder / "drawn.png").read_bytes().startswith(b"\x89PNG")
    invoke("stats", "s.npz", "--plot", "drawn.docx").fails(1, "drawn.docx: is no kind of picture")
    invoke("stats", "s.npz", "--plot", "s.npz").fails(1, "would overwrite")


def test_tensors_that_are_always_zero_or_constant_get_a_scale(folder: Path) -> None:
    import onnxruntime as ort

    for name, value in (("zero", 0.0), ("constant", 0.5)):
        np.savez(folder / f"{name}.npz", x=np.full((4, 16), value, np.float32))
        data = f"{name}.npz"
        assert invoke("calibrate", "matmul.onnx", "-o", "s.npz", "--data", data).code == 0
        for observer in ("mse", "minmax", "percentile", "entropy"):
            done = invoke("compile", "matmul.onnx", "-o", "o.onnx", "--stats", "s.npz", "--data", data, "--no-timing",
                          "--observer", observer)  # fmt: skip
            assert done.code == 0, done
            outputs = [
                ort.InferenceSession(folder / model).run(None, {"x": np.full((1, 16), value, np.float32)})[0]
                for model in ("matmul.onnx", "o.onnx")
            ]
            assert np.isfinite(outputs[1]).all() and np.allclose(*outputs, atol=0.2), (name, observer, outputs)
