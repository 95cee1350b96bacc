"""Every recipe: the model runs on its samples, both splits are deterministic and disjoint, float scores as expected."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models import NAMES, recipe
from models.magika import features
from models.packages import FetchError
from models.ppocr4_det import RECIPE as DETECTOR
from models.ppocr4_det import regions
from models.ppocr4_rec import edits
from models.text import tokens

TORCH = ("minilm-l6", "efficientnet-lite0", "mobilenet-v2")
# What float reaches on 32 samples: a recipe that feeds its model wrongly falls far below.
AT_LEAST = {"ppocr4-det": 90, "mobilenet-v2": 85, "efficientnet-lite0": 80, "silero-vad": 90, "magika": 90}
AT_MOST = {"ppocr4-rec": 10, "stories15m": 4, "smollm2-135m": 85}

can_export = find_spec("torch") is not None or "QCOMPILER_EXPORT_PYTHON" in os.environ


def marks(name: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.fetched]
    if name in TORCH:
        found += [pytest.mark.slow, pytest.mark.skipif(not can_export, reason="needs the extra 'models' (torch)")]
    if name == "smollm2-135m":
        found.append(pytest.mark.slow)
    return found


every_recipe = pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in NAMES])


def digests(feeds) -> list[str]:
    return [hashlib.sha256(b"".join(feed[key].tobytes() for key in sorted(feed))).hexdigest() for feed in feeds]


@every_recipe
def test_model_runs_and_scores(name: str) -> None:
    one = recipe(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(one.model()), options, providers=["CPUExecutionProvider"])
    feeds = list(one.evaluation(32))
    assert {value.name for value in session.get_inputs()} == set(feeds[0])
    outputs = [session.run(None, feed)[0] for feed in feeds]
    assert all(np.isfinite(output).all() for output in outputs)
    if one.score:
        score = one.score(outputs, one.labels(32))
        assert AT_LEAST.get(name, 0) <= score <= AT_MOST.get(name, 100)


@every_recipe
def test_splits_are_deterministic_and_disjoint(name: str) -> None:
    one = recipe(name)
    calibration, evaluation = digests(one.calibration(24)), digests(one.evaluation(24))
    assert len(calibration) == len(evaluation) == 24
    assert digests(one.calibration(24)) == calibration
    assert digests(one.evaluation(24)) == evaluation
    assert not set(calibration) & set(evaluation)


@pytest.mark.fetched
@pytest.mark.parametrize("name", ["minilm-l3", "silero-vad"])
def test_export_for_tools_that_know_no_recipes(name: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "models" / "fetch.py"
    subprocess.run([sys.executable, script, name, "--export-npz", tmp_path], check=True, capture_output=True)
    folder = tmp_path / name
    assert sorted(path.name for path in folder.iterdir()) == ["calib.npz", "eval.npz", "labels.json", "model.onnx"]
    with np.load(folder / "eval.npz") as samples:
        assert {len(samples[key]) for key in samples.files} == {64}
        if name == "silero-vad":  # its state has the batch axis elsewhere: one feed after the other
            assert samples["state"].shape == (64, 2, 1, 128) and samples["sr"].shape == (64,)
        else:
            assert samples["input_ids"].shape == (64, 64)
    assert len(json.loads((folder / "labels.json").read_text())) == 64


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="no recipe resnet"):
        recipe("resnet")


def test_export_without_torch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.export import exported

    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path))
    monkeypatch.delenv("QCOMPILER_EXPORT_PYTHON", raising=False)
    monkeypatch.setattr("models.export.importlib.util.find_spec", lambda name: None)
    with pytest.raises(FetchError, match="install the extra 'models'"):
        exported("mobilenet-v2", "0" * 64, tmp_path / "weights.pth")


def test_export_with_an_interpreter_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.export import exported

    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path))
    monkeypatch.setenv("QCOMPILER_EXPORT_PYTHON", "false")
    with pytest.raises(FetchError, match="the export failed in false"):
        exported("mobilenet-v2", "0" * 64, tmp_path / "weights.pth")
    monkeypatch.setenv("QCOMPILER_EXPORT_PYTHON", str(tmp_path / "no-python"))
    with pytest.raises(FetchError, match="does not start"):
        exported("mobilenet-v2", "0" * 64, tmp_path / "weights.pth")


def test_edit_distance() -> None:
    assert [edits(a, b) for a, b in (("", "abc"), ("abc", "abc"), ("kitten", "sitting"), ("ab", "ba"))] == [3, 0, 3, 2]


def test_regions_are_grown_and_scored() -> None:
    page = np.zeros((320, 320), np.float32)
    page[100:110, 50:250] = 1
    page[200:202, 50:60] = 1  # too thin to be text
    assert len(regions(page)) == 1
    left, top, right, bottom = regions(page)[0]
    grown = 1.6 * 200 * 10 / (2 * 210)
    assert (left, top, right, bottom) == pytest.approx((50 - grown, 100 - grown, 250 + grown, 110 + grown))
    assert DETECTOR.score is not None
    assert DETECTOR.score([page[None, None]], [[(45, 95, 255, 115)]]) == 100
    assert DETECTOR.score([page[None, None]], [[(45, 95, 255, 115), (0, 0, 30, 12)]]) == pytest.approx(200 / 3)
    assert DETECTOR.score([0 * page[None, None]], [[(45, 95, 255, 115)]]) == 0


def test_file_features() -> None:
    short = features(b"  ab \n")
    assert short.shape == (1, 2048) and short.dtype == np.int32
    assert short[0, :6].tolist() == [97, 98, 32, 10, 256, 256]
    assert short[0, -5:].tolist() == [256, 32, 32, 97, 98]
    long = features(bytes(range(256)) * 40)
    assert long[0, :3].tolist() == [0, 1, 2] and long[0, -3:].tolist() == [253, 254, 255]


@pytest.mark.fetched
def test_word_pieces() -> None:
    ids, mask = tokens("Unaffable films!", 8)
    # [CLS] una ##ffa ##ble films ! [SEP] [PAD], as bert-base-uncased has them
    assert ids.tolist() == [[101, 14477, 20961, 3468, 3152, 999, 102, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]


def test_packages_of_the_same_name_as_files_of_ours_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.export import exported

    (tmp_path / "tokenizers.py").touch()
    (tmp_path / "torch.py").write_text("import tokenizers\nraise SystemExit(tokenizers.__file__)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("QCOMPILER_EXPORT_PYTHON", sys.executable)
    with pytest.raises(FetchError, match=f"the export failed in .*: {tmp_path}/tokenizers.py$"):
        exported("minilm-l6", "0" * 64, tmp_path / "weights.safetensors")
