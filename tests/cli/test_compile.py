"""compile, plan and calibrate: what they write, and that decisions can be replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli.programs import invoke, samples
from four_bit_models import language_model

from qcompiler import registry

FLOAT = ("--precision", "float", "--no-timing")


def ops(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_int8(folder: Path) -> None:
    done = invoke("compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing", "--report", "r.json")
    assert done.code == 0 and done.err == ""
    assert "wrote out.onnx" in done.out and "on 12 given samples" in done.out
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops(folder / "out.onnx")
    report = json.loads((folder / "r.json").read_text())
    assert report["format"] == "qcompiler-report/1" and report["precision"] == "int8"
    assert report["outputs"][0]["sqnr"] > 20
    fates = {node["name"]: node for node in report["nodes"]}
    assert fates["conv1"]["precision"] == "int8"
    assert fates["tanh"]["precision"] == "float" and fates["tanh"]["reason"] == "not fused"
    session = ort.InferenceSession(folder / "out.onnx")
    assert session.run(None, {"x": samples((2, 3, 16, 16))})[0].shape == (2, 4)


def test_float_is_cleaned_only(folder: Path) -> None:
    assert invoke("compile", "conv.onnx", "-o", "out.onnx", "--precision", "float", "--no-timing").code == 0
    assert ops(folder / "out.onnx") == {"Conv", "Relu", "Tanh", "GlobalAveragePool", "Flatten", "MatMul"}


def test_dynamic_needs_no_data(folder: Path) -> None:
    done = invoke("compile", "matmul.onnx", "-o", "out.onnx", "--precision", "int8-dynamic", "--no-timing")
    assert done.code == 0, done.err
    assert "random samples" in done.out


def test_four_bits(folder: Path) -> None:
    onnx.save(language_model(), "llm.onnx")
    done = invoke(
        "compile", "llm.onnx", "-o", "out.onnx", "--precision", "int4", "--ops", "standard", "--block", "16",
        "--rounding", "mse", "--no-timing", "--report", "r.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {"MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"} <= ops(folder / "out.onnx")
    report = json.loads((folder / "r.json").read_text())
    assert {node["name"] for node in report["nodes"] if node["precision"] == "int4"} == {"embed", "up", "down", "head"}
    assert report["compiled_bytes"] < report["source_bytes"] / 4
    command = ("compile", "llm.onnx", "-o", "out.onnx", "--precision")
    invoke(*command, "int4", "--rounding", "gptq").fails(1, "llm.onnx: gptq", "--data")
    invoke(*command, "float", "--block", "32").fails(1, "--precision int4")


def test_bodies(folder: Path) -> None:
    done = invoke("compile", "if.onnx", "-o", "out.onnx", "--data", "if.npz", "--no-timing", "--verify", "each")
    assert done.code == 0, done.err
    bodies = [a.g for node in onnx.load(folder / "out.onnx").graph.node for a in node.attribute if a.g.node]
    assert len(bodies) == 2 and all(any(n.op_type == "DequantizeLinear" for n in body.node) for body in bodies)


def test_quiet_says_nothing(folder: Path) -> None:
    done = invoke("compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_verbose_names_each_node(folder: Path) -> None:
    done = invoke("compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing", "--verbose")
    assert all(name in done.out for name in ("conv1", "classify", "fold-batchnorm"))


@pytest.mark.parametrize("model", ["conv", "matmul", "if"])
def test_same_bytes_twice(folder: Path, model: str) -> None:
    for name in ("a", "b"):
        arguments = ("compile", f"{model}.onnx", "-o", f"{name}.onnx", "--data", f"{model}.npz", "--no-timing")
        assert invoke(*arguments).code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


@pytest.mark.parametrize("timing", [[], ["--no-timing"]])
@pytest.mark.parametrize("model", ["conv", "if"])
def test_plan_then_compile(folder: Path, model: str, timing: list[str]) -> None:
    assert invoke("plan", f"{model}.onnx", "-o", "p.json", "--data", f"{model}.npz", *timing).code == 0
    for name in ("a", "b"):
        done = invoke("compile", f"{model}.onnx", "-o", f"{name}.onnx", "--plan", "p.json", "--no-timing")
        assert done.code == 0, done.err
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    if timing:
        assert invoke("compile", f"{model}.onnx", "-o", "c.onnx", "--data", f"{model}.npz", *timing).code == 0
        assert (folder / "a.onnx").read_bytes() == (folder / "c.onnx").read_bytes()


def test_edited_plan(folder: Path) -> None:
    invoke("plan", "matmul.onnx", "-o", "p.json", "--data", "matmul.npz", "--no-timing")
    plan = json.loads((folder / "p.json").read_text())
    next(one for ones in plan["tensors"].values() for one in ones if "first:0" in one["uses"])["scale"] = 0.5
    (folder / "edited.json").write_text(json.dumps(plan))
    changed = invoke("plan", "--diff", "p.json", "edited.json")
    assert changed.code == 0 and changed.out.count("\n") == 1
    assert " at first:0: " in changed.out and "0.5" in changed.out
    assert invoke("plan", "--diff", "p.json", "p.json").out == "the plans are the same\n"
    assert invoke("compile", "matmul.onnx", "-o", "out.onnx", "--plan", "edited.json", "--no-timing").code == 0
    values = [onnx.numpy_helper.to_array(w) for w in onnx.load(folder / "out.onnx").graph.initializer]
    assert any(v.dtype == np.float32 and v.size == 1 and v.item() == 0.5 for v in values)


def test_statistics_then_compile(folder: Path) -> None:
    done = invoke("calibrate", "conv.onnx", "-o", "s.npz", "--data", "conv.npz")
    assert done.code == 0 and "over 12 samples" in done.out
    common = ("compile", "conv.onnx", "--data", "conv.npz", "--no-timing")
    assert invoke(*common, "-o", "a.onnx", "--stats", "s.npz").code == 0
    assert invoke(*common, "-o", "b.onnx").code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    invoke("compile", "matmul.onnx", "-o", "c.onnx", "--stats", "s.npz").fails(1)


def test_keep_float_and_recipe(folder: Path) -> None:
    common = ("conv.onnx", "--data", "conv.npz", "--no-timing")
    keep = ("--keep-float", "conv2", "--keep-float", "op:MatMul")
    assert invoke("compile", *common, "-o", "out.onnx", "--report", "r.json", *keep).code == 0
    fates = {n["name"]: n for n in json.loads((folder / "r.json").read_text())["nodes"]}
    assert fates["conv1"]["precision"] == "int8"
    for name in ("conv2", "classify"):
        assert fates[name]["precision"] == "float" and "by the user" in fates[name]["reason"]
    (folder / "recipe.toml").write_text('keep_float = ["conv*"]\n')
    assert invoke("plan", *common, "-o", "p.json", "--recipe", "recipe.toml").code == 0
    assert {"conv1", "conv2"} <= set(json.loads((folder / "p.json").read_text())["kept"])


def test_limit_and_batch_size(folder: Path) -> None:
    done = invoke("calibrate", "conv.onnx", "-o", "s.npz", "--data", "conv.npz", "--batch-size", 4, "--limit", 2)
    assert "over 2 samples" in done.out


def test_folder_of_images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (folder / "pictures").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)
        image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
    options = ("--image-mean", "0.5,0.5,0.5", "--image-std", "0.5", "--image-order", "bgr", "--image-resize", "crop")
    done = invoke("calibrate", "conv.onnx", "-o", "s.npz", "--data", "pictures", *options)
    assert done.code == 0 and "over 3 samples" in done.out, done.err
    invoke("calibrate", "conv.onnx", "-o", "s.npz", "--data", "pictures", "--image-mean", "half").fails(2, "'half'")


def test_function_of_a_file(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import numpy as np\ndef feeds():\n    return [{'x': np.full((1, 16), i, np.float32)} for i in range(5)]\n"
    )
    assert "over 5 samples" in invoke("calibrate", "matmul.onnx", "-o", "s.npz", "--data", "mine.py:feeds").out


def test_external_weights(folder: Path) -> None:
    assert invoke("compile", "conv.onnx", "-o", "out.onnx", *FLOAT, "--external").code == 0
    assert (folder / "out.onnx.data").is_file()


def test_pipeline_shown_and_changed(folder: Path) -> None:
    shown = invoke("compile", "conv.onnx", "--passes", "show").out
    assert "clean:\n" in shown and "    remove-dead\n" in shown and "lower:\n    lower\n" in shown
    moved = ("--passes", "-remove-dead", "--passes", "+remove-dead@fold-batchnorm", "--passes", "show")
    assert "fold-batchnorm\n    remove-dead\n" in invoke("compile", "conv.onnx", *moved).out
    invoke("compile", "conv.onnx", "--passes", "+remove-dead@place", "--passes", "show").fails(1, "has no pass 'place'")
    changed = invoke("compile", "conv.onnx", "--passes", "-remove-dead", "--passes", "show").out
    assert "remove-dead" not in changed
    assert invoke("compile", "conv.onnx", "-o", "out.onnx", *FLOAT, "--passes", "-fold-batchnorm").code == 0
    assert "BatchNormalization" in ops(folder / "out.onnx")


def test_print_after_and_time_passes(folder: Path) -> None:
    done = invoke(
        "compile", "conv.onnx", "-o", "out.onnx", "--precision", "float", "--no-timing",
        "--print-after", "fold-batchnorm", "--time-passes",
    )  # fmt: skip
    assert "# after fold-batchnorm\ngraph small" in done.out and "Conv(x, " in done.out
    assert "# after place" not in done.out
    assert "rewrites" in done.out
    invoke("compile", "conv.onnx", "-o", "out.onnx", "--print-after", "fold-batchnrom", "--precision", "float").fails(
        1, "did you mean fold-batchnorm?"
    )


WRONG = """
from dataclasses import dataclass
import numpy as np
import qcompiler
from qcompiler import ir

@dataclass(frozen=True)
class Wrong(qcompiler.Pass):
    name = "wrong"
    semantics = qcompiler.Semantics.EXACT
    share: float = 1.5

    def run(self, graph, ctx):
        for _, node in ir.all_nodes(graph):
            if node.op == "MatMul":
                node.inputs[1] = ir.Constant(node.inputs[1].name, node.inputs[1].values * np.float32(self.share))
        return qcompiler.PassResult(1)
"""


@pytest.fixture
def wrong(folder: Path) -> Path:
    (folder / "wrong.py").write_text(WRONG)
    return folder / "wrong.py"


@pytest.fixture(autouse=True)
def forgets_loaded_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {})


def test_wrong_pass_is_caught_by_its_numbers(folder: Path, wrong: Path) -> None:
    common = ("compile", "conv.onnx", "-o", "out.onnx", "--precision", "float", "--no-timing", "--load", wrong)
    change = ("--passes", "+wrong@fold-batchnorm")
    invoke(*common, *change, "--verify", "numeric").fails(1, "pass wrong", "claims to be exact", "output 'y'")
    assert not (folder / "out.onnx").exists()
    assert invoke(*common, "--verify", "numeric").code == 0
    slightly = ("--passes", "+wrong{share=1.0001}@fold-batchnorm", "--verify", "numeric")
    invoke(*common, *slightly).fails(1, "pass wrong", "claims to be exact", "80 dB are left of 100")
    wrong.write_text(WRONG.replace("EXACT", "ALGEBRAIC"))
    assert invoke(*common, *slightly).code == 0


def test_bisect_finds_the_wrong_pass(folder: Path, wrong: Path) -> None:
    common = ("compile", "conv.onnx", "--bisect", "--load", wrong)
    assert "still the source's" in invoke(*common).out
    assert invoke(*common, "--passes", "+wrong@fold-batchnorm").out == "the outputs leave the source after pass wrong\n"
    assert list(folder.glob("*.part")) == [] and not (folder / "out.onnx").exists()


def test_pass_that_breaks_the_structure(folder: Path) -> None:
    harm = next(line.strip() for line in WRONG.splitlines() if "node.inputs[1] =" in line)
    (folder / "bad.py").write_text(WRONG.replace(harm, "node.inputs[0] = ir.Variable('lost')"))
    done = invoke("compile", "conv.onnx", "-o", "old.onnx", *FLOAT, "--load", "bad.py", "--passes", "+wrong")
    done.fails(1, "pass wrong", "input 'lost' is never computed")
    assert (folder / "old.onnx").read_bytes() == b"made earlier"
