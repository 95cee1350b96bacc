"""Silero VAD 6: whether somebody speaks, for each 32 ms of sound, with a state carried from one to the next."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from models.packages import Package
from models.recipe import Recipe, Sample

SILERO = Package("pypi", "silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")
SPEECH = Package(
    "pypi", "pocketsphinx", "5.1.1", "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355", "source"
)
CLIPS = {"calibration": ("0870", "0880", "0890"), "evaluation": ("0920", "0930")}
RATE, CHUNK, CONTEXT = 16000, 512, 64
STRIDE = 5  # neighbouring chunks are much alike: every fifth becomes a sample


def model() -> Path:
    return SILERO.member(
        "silero_vad/data/silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
    )


@cache
def _clip(number: str) -> tuple[np.ndarray, np.ndarray]:
    """Sound in −1 … 1, and for each of its values whether it lies within a word."""
    stem = f"pocketsphinx-5.1.1/test/data/librivox/sense_and_sensibility_01_austen_64kb-{number}"
    with SPEECH.open(f"{stem}.wav") as file, wave.open(file) as recording:
        sound = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.float32) / 32768
    with SPEECH.open(f"{stem}.json") as file:
        aligned = json.load(file)["w"]
    spoken = np.zeros(len(sound), bool)
    for word in aligned:
        if not word["t"].startswith("<"):
            spoken[round(word["b"] * RATE) : round((word["b"] + word["d"]) * RATE)] = True
    return sound, spoken


def _take(split: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About three seconds: noise alone first, then speech above the same noise, from almost none to loud."""
    sound, spoken = _clip(str(rng.choice(CLIPS[split])))
    start = int(rng.integers(len(sound) - 2 * RATE))
    quiet = np.zeros(int(rng.integers(RATE // 2, RATE)), np.float32)
    sound = np.concatenate([quiet, rng.uniform(0.3, 2.0) * sound[start : start + 2 * RATE]])
    spoken = np.concatenate([quiet > 0, spoken[start : start + 2 * RATE]])
    noise = rng.normal(0, 10 ** rng.uniform(-4, -1.7), len(sound))
    smooth = np.ones(int(rng.integers(1, 6)))  # from white to dull
    noise = np.convolve(noise, smooth / len(smooth), "same")
    return np.clip(sound + noise, -1, 1).astype(np.float32), spoken


def samples(split: str) -> Iterator[Sample]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the states are to be the same on every machine
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3000 + (split == "evaluation"))
    while True:
        sound, spoken = _take(split, rng)
        sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
        state = np.zeros((2, 1, 128), np.float32)
        for number in range(len(spoken) // CHUNK):
            start = number * CHUNK
            chunk = sound[start : start + CONTEXT + CHUNK][None]
            feed = {"input": chunk, "state": state, "sr": np.array(RATE, np.int64)}
            if number % STRIDE == STRIDE - 1:
                inside = spoken[start : start + CHUNK]
                yield Sample(feed, bool(inside[0]) if inside.all() or not inside.any() else None)
            _, state = session.run(None, feed)


def score(outputs: Sequence[np.ndarray], labels: Sequence[Any]) -> float:
    known = [(output.item() > 0.5) == label for output, label in zip(outputs, labels) if label is not None]
    return 100 * float(np.mean(known))


RECIPE = Recipe(
    name="silero-vad",
    licence="MIT",
    note="opset 16, everything inside If bodies, LSTM, state carried through inputs and outputs",
    model=model,
    samples=samples,
    metric="32 ms decided rightly between speech and none, in percent, higher is better",
    score=score,
    batched=False,
)
