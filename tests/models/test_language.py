"""Language models: the graphs against numpy, checkpoints and GGUF files read back, tokenizers, generating."""

import struct
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models import llama, recipe
from models.generation import Decoder, drawn, likeliest, log_probabilities, surprise
from models.gguf import Gguf, GgufError
from models.llama import Llama
from models.smollm2_135m import halved
from models.stories15m import ORDER, checkpoint
from models.tokenizers import MergedBytes, ScoredPieces, byte_letters

SHAPES = {
    "one key a head, neighbours": Llama(2, 12, 20, 3, 3, 17, 32, interleaved=True),
    "two heads a key, halves": Llama(2, 16, 24, 4, 2, 19, 32, base=500.0, epsilon=1e-3),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def random_weights(shape: Llama) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=size).astype(np.float32) for name, size in shape.shapes().items()}


def session(shape: Llama, weights: dict[str, np.ndarray], cached: bool) -> onnxruntime.InferenceSession:
    content = llama.model(shape, weights, cached, "tiny").SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def logits(shape: Llama, weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    return session(shape, weights, cached=False).run(None, {"input_ids": tokens})[0]


def expected(shape: Llama, weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """logits [sequence, vocabulary] of one row in float64, head by head, pairs turned as complex numbers."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    pairs = shape.size // 2
    turn = np.exp(1j * np.outer(np.arange(len(tokens)), shape.base ** (-np.arange(pairs) / pairs)))

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + shape.epsilon) * w[name]

    def rotated(x):
        if shape.interleaved:
            turned = (x[:, 0::2] + 1j * x[:, 1::2]) * turn
            return np.stack([turned.real, turned.imag], -1).reshape(x.shape)
        turned = (x[:, :pairs] + 1j * x[:, pairs:]) * turn
        return np.concatenate([turned.real, turned.imag], -1)

    x = w["embedding"][tokens]
    for layer in range(shape.layers):
        normal = norm(x, f"{layer}.attention_norm")
        mixed = []
        for head in range(shape.heads):
            own = slice(head * shape.size, (head + 1) * shape.size)
            shared = head * shape.kv_heads // shape.heads
            of = slice(shared * shape.size, (shared + 1) * shape.size)
            query, key = rotated(normal @ w[f"{layer}.query"][own].T), rotated(normal @ w[f"{layer}.key"][of].T)
            scores = np.tril(np.exp(query @ key.T / shape.size**0.5))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ (normal @ w[f"{layer}.value"][of].T))
        x = x + np.concatenate(mixed, -1) @ w[f"{layer}.output"].T
        normal = norm(x, f"{layer}.hidden_norm")
        gate = normal @ w[f"{layer}.gate"].T
        x = x + gate / (1 + np.exp(-gate)) * (normal @ w[f"{layer}.up"].T) @ w[f"{layer}.down"].T
    return norm(x, "norm") @ w["embedding"].T


@every_shape
def test_graph_computes_the_model(shape: Llama) -> None:
    weights = random_weights(shape)
    tokens = np.random.default_rng(1).integers(shape.vocabulary, size=(2, 9))
    found = logits(shape, weights, tokens)
    for row, logits_of_row in zip(tokens, found):
        np.testing.assert_allclose(logits_of_row, expected(shape, weights, row), rtol=1e-3, atol=1e-3)


@every_shape
def test_reading_in_pieces_is_reading_at_once(shape: Llama) -> None:
    weights = random_weights(shape)
    tokens = np.random.default_rng(2).integers(shape.vocabulary, size=(2, 9))
    decoder = Decoder(session(shape, weights, cached=True))
    pieces = [decoder.read(tokens[:, part]) for part in (slice(0, 5), slice(5, 6), slice(6, 9))]
    np.testing.assert_allclose(np.concatenate(pieces, 1), logits(shape, weights, tokens), rtol=1e-4, atol=1e-4)
    decoder.forget()
    np.testing.assert_array_equal(decoder.read(tokens[:, :5]), pieces[0])


def test_pairs_may_be_neighbours_or_halves() -> None:
    neighbours = SHAPES["one key a head, neighbours"]
    weights = random_weights(neighbours)
    tokens = np.arange(8)[None]
    moved = {
        name: halved(value, neighbours.heads) if name.endswith(("query", "key")) else value
        for name, value in weights.items()
    }
    halves = Llama(2, 12, 20, 3, 3, 17, 32)
    found, wrong = logits(halves, moved, tokens), logits(halves, weights, tokens)
    np.testing.assert_allclose(found, logits(neighbours, weights, tokens), rtol=1e-4, atol=1e-4)
    assert np.abs(wrong - found).max() > 0.1


def test_a_form_without_cache_does_not_generate() -> None:
    shape = SHAPES["one key a head, neighbours"]
    with pytest.raises(ValueError, match="use the form with a cache"):
        Decoder(session(shape, random_weights(shape), cached=False))


def test_choosing_and_surprise() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    logits = np.log(probabilities) + 7
    assert likeliest(logits).tolist() == [0, 2]
    np.testing.assert_allclose(np.exp(log_probabilities(logits)), probabilities)
    np.testing.assert_allclose(surprise(logits, np.array([1, 2])), -np.log([0.25, 0.8]))
    choose = drawn(np.random.default_rng(0))
    counts = np.bincount(choose(np.repeat(logits[:1], 20000, axis=0)), minlength=3)
    np.testing.assert_allclose(counts / 20000, probabilities[0], atol=0.02)
    assert set(drawn(np.random.default_rng(0), temperature=0.01)(np.repeat(logits[1:], 50, axis=0))) == {2}


def test_checkpoint_is_read_to_its_last_byte() -> None:
    shape = SHAPES["one key a head, neighbours"]
    weights = random_weights(shape)
    fields = (shape.width, shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.vocabulary, shape.context)
    content = struct.pack("<7i", *fields)
    for name in ORDER:
        keys = [name] if name in weights else [f"{layer}.{name}" for layer in range(shape.layers)]
        content += b"".join(weights[key].tobytes() for key in keys)
    content += np.zeros((2, shape.context, shape.size // 2), np.float32).tobytes()
    found, read, length = checkpoint(content + b"tokenizer")
    assert found == shape and length == len(content)
    assert read.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(read[name], value)


def test_checkpoint_with_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="a head of its own"):
        checkpoint(struct.pack("<7i", 12, 20, 2, 3, 3, -17, 32))


def gguf(kind: int, content: bytes, shape: tuple[int, ...]) -> bytes:
    """A file of one tensor and three entries of metadata."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    entries = string("general.name") + struct.pack("<I", 8) + string("tiny")
    entries += string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("ä") + string("b")
    entries += string("base") + struct.pack("<If", 6, 0.5)
    tensor = string("w") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + entries + tensor
    return head + b"\0" * (-len(head) % 32) + b"\xff" * 32 + content


def test_gguf_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    step, lowest = rng.uniform(0.1, 1, (4, 1)).astype("<f2"), rng.normal(size=(4, 1)).astype("<f2")
    halves = rng.integers(0, 16, (4, 32), dtype=np.uint8)
    packed = halves[:, :16] | halves[:, 16:] << 4
    signed = rng.integers(-128, 128, (4, 32)).astype(np.int8)
    q4_1 = b"".join(a.tobytes() + b.tobytes() + c.tobytes() for a, b, c in zip(step, lowest, packed))
    q8_0 = b"".join(a.tobytes() + b.tobytes() for a, b in zip(step, signed))
    values = {
        0: (signed.astype("<f4").tobytes(), signed),
        1: (signed.astype("<f2").tobytes(), signed),
        3: (q4_1, halves * step.astype("f") + lowest.astype("f")),
        8: (q8_0, signed * step.astype("f")),
    }
    for kind, (content, value) in values.items():
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(gguf(kind, content, (2, 64)))
        file = Gguf(path)
        assert file.metadata == {"general.name": "tiny", "tokens": ["ä", "b"], "base": 0.5}
        assert file.names == ["w"]
        assert file.tensor("w").dtype == np.float32
        np.testing.assert_array_equal(file.tensor("w"), value.reshape(2, 64).astype(np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML", "no GGUF file of version 3"),
        (b"GG", "ends at byte 2"),
        (gguf(0, b"\0" * 256, (2, 64)), "ends at byte"),
        (gguf(12, b"", (2, 64)), "w has the type 12; there are F32, F16, Q4_1, Q8_0"),
        (gguf(8, b"\0" * 34, (1, 31)), "w has 31 values, no multiple of 32"),
    ],
)
def test_gguf_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(GgufError, match=message):
        Gguf(path).tensor("w")


def test_pieces_join_by_score_and_bytes_stand_in() -> None:
    single = [bytes([byte]) for byte in range(256)]
    words = {b" ": -9.0, b"a": -9.0, b"b": -9.0, b"ab": -2.0, b" a": -1.0, b" ab": -3.0, b"bb": -4.0, b"  ": -5.0}
    tokenizer = ScoredPieces([b"<unk>", b"<s>", b"</s>", *single, *words], [0.0] * 259 + list(words.values()))
    number = {piece: 259 + index for index, piece in enumerate(words)}
    assert tokenizer.encode("ab") == [number[b" ab"]]
    assert tokenizer.encode("bba") == [number[b" "], number[b"bb"], number[b"a"]]
    assert tokenizer.encode("é") == [number[b" "], 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("a  b") == [number[b" a"], number[b"  "], number[b"b"]]
    for text in ("ab", "a  b", "é\n日本 bab "):
        assert tokenizer.decode([1, *tokenizer.encode(text), 2]) == text


def test_bytes_join_in_the_order_of_training() -> None:
    merges = [(b"b", b"c"), (b"a", b"b"), (b" ", b"a"), (b"ab", b"c"), (b" a", b"bc")]
    pieces = [b"<end>", *(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    tokenizer = MergedBytes(pieces, merges, special=frozenset({0}), ends=frozenset({0}))

    def split(text: str) -> list[bytes]:
        return [pieces[token] for token in tokenizer.encode(text)]

    assert split("abc") == [b"a", b"bc"]
    assert split("ab abc") == [b"ab", b" abc"]
    assert split("a  12") == [b"a", b" ", b" ", b"1", b"2"]
    for text in ("abc abc", "I've 12  tabs,\n\n\tüber_x²!? ", "日本"):
        assert tokenizer.decode([*tokenizer.encode(text), 0]) == text


def test_letters_of_bytes() -> None:
    letters = byte_letters()
    assert len(set(letters.values())) == 256
    assert [letters[byte] for byte in b"A~ \n"] == ["A", "~", "Ġ", "Ċ"]


@pytest.fixture(scope="module", params=["stories15m", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def fetched(request: pytest.FixtureRequest):
    """A recipe and sessions of both forms of its model."""
    one = recipe(request.param)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    forms = [str(one.model()), str(one.cached())]
    return one, *(onnxruntime.InferenceSession(form, options, providers=["CPUExecutionProvider"]) for form in forms)


OPENINGS = {
    "stories15m": ("Once upon a time, there was a little", " girl named Lily. She"),
    "smollm2-135m": ("The capital of France is", " Paris"),
}


@pytest.mark.fetched
def test_both_forms_generate_the_same_text(fetched) -> None:
    one, plain, cached = fetched
    tokenizer = one.tokenizer()
    opening, follows = OPENINGS[one.name]
    prompt = [*tokenizer.start, *tokenizer.encode(opening)]
    generated = [int(token[0]) for token in islice(Decoder(cached).tokens(np.array([prompt]), likeliest), 12)]
    assert tokenizer.decode([*prompt, *generated]).startswith(opening + follows)
    logits = plain.run(None, {"input_ids": np.array([prompt + generated])})[0][0]
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == generated
    in_pieces = Decoder(cached)
    pieces = [in_pieces.read(np.array([part])) for part in (prompt, generated)]
    np.testing.assert_allclose(np.concatenate(pieces, 1)[0], logits, atol=1e-2)


@pytest.mark.fetched
def test_tokens_of_a_text(fetched) -> None:
    one, *_ = fetched
    text = "Tom's 3 cats said: “miau”!\nÜber 12,5 km — 日本."
    assert one.tokenizer().decode(one.tokenizer().encode(text)) == text
