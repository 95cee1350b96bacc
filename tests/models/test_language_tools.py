"""What generates text and what judges it, on models of a few weights."""

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_language import against_peers, divergences, turn
from generate import opened, written

from models import llama
from models.generation import Decoder, likeliest
from models.llama import Llama
from models.tokenizers import ScoredPieces

SHAPE = Llama(1, 8, 12, 2, 1, 11, 64)


def model(path: Path, noise: float = 0.0, cached: bool = False) -> Path:
    exact, wrong = np.random.default_rng(0), np.random.default_rng(1)
    weights = {
        name: (exact.normal(size=size) + noise * wrong.normal(size=size)).astype(np.float32)
        for name, size in SHAPE.shapes().items()
    }
    onnx.save(llama.model(SHAPE, weights, cached, "tiny"), path)
    return path


def test_divergence_grows_with_what_is_wrong(tmp_path: Path) -> None:
    files = {
        "float": model(tmp_path / "float.onnx"),
        "same": model(tmp_path / "same.onnx"),
        "near": model(tmp_path / "near.onnx", 0.01),
        "far": model(tmp_path / "far.onnx", 0.1),
    }
    told = np.random.default_rng(2).integers(11, size=(3, 6))
    found = divergences(files, told)
    means = {label: values["kl"].mean() for label, values in found.items()}
    assert found["far"]["kl"].shape == found["far"]["surprise"].shape == (3, 5)
    assert (found["far"]["kl"] >= 0).all()
    assert means["float"] == means["same"] == 0 < means["near"] < means["far"] / 10
    logits = opened(files["far"]).run(None, {"input_ids": told[:1]})[0][0, 0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert found["far"]["surprise"][0, 0] == pytest.approx(-np.log(probabilities[told[0, 1]]))


def test_verdict_names_what_is_missed() -> None:
    rows = [{"tool": "ort hqq", "kl": 0.1}, {"tool": "onnxsim gptq", "kl": 0.1}, {"tool": "onnxsim rtn", "error": "no"}]
    verdict = against_peers([*rows, {"tool": "qcompiler gptq", "kl": 0.07}])
    assert "[red]0.70[/] of ort hqq's" in verdict and "0.70 of onnxsim gptq's" in verdict
    assert "[green]0.50[/] of ort hqq's" in against_peers([*rows, {"tool": "qcompiler gptq", "kl": 0.05}])
    assert against_peers(rows) == "no gptq of ours to judge"


def test_writing_stops_at_an_end(tmp_path: Path) -> None:
    decoder = Decoder(opened(model(tmp_path / "model.onnx", cached=True)))
    told = [int(token[0]) for token in islice(decoder.tokens(np.array([[1, 5]]), likeliest), 8)]
    tokenizer = ScoredPieces([], [], ends=frozenset({told[4]}))
    decoder.forget()
    assert list(written(decoder, [1, 5], tokenizer, likeliest)) == told[: told.index(told[4])]


def test_a_turn_reads_and_writes(tmp_path: Path) -> None:
    decoder = Decoder(opened(model(tmp_path / "model.onnx", cached=True)))
    taken = turn(decoder, np.array([[1, 2, 3]]), 4)
    assert taken.read > 0 and taken.write > 0
    following = decoder.read(np.array([[6]]))
    decoder.forget()
    assert np.abs(decoder.read(np.array([[6]])) - following).max() > 1e-3  # what was read before counted
