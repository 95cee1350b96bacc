"""Runs a language model a step at a time: the past it needs stays in the session's own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime as ort

Choice = Callable[[np.ndarray], np.ndarray]


class Decoder:
    """A session of a model with a cache (`models.llama`), and what it has read so far."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._outputs = [value.name for value in session.get_outputs()]
        self._past = {value.name: value for value in session.get_inputs() if value.name != "input_ids"}
        if not self._past:
            raise ValueError("the model takes no past keys and values: use the form with a cache")
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._cache: dict[str, ort.OrtValue] = {}

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """logits [batch, sequence, vocabulary] of these tokens [batch, sequence], which follow those read before."""
        tokens = np.ascontiguousarray(tokens, np.int64)
        if not self._cache:
            for name, value in self._past.items():
                _, heads, _, size = value.shape
                dtype = np.float16 if value.type == "tensor(float16)" else np.float32
                self._cache[name] = ort.OrtValue.ortvalue_from_numpy(np.zeros((len(tokens), heads, 0, size), dtype))
        feed = {"input_ids": ort.OrtValue.ortvalue_from_numpy(tokens), **self._cache}
        found = dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, feed)))
        self._cache = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        return found["logits"].numpy()

    def tokens(self, prompt: np.ndarray, choose: Choice) -> Iterator[np.ndarray]:
        """Endless tokens [batch] after the prompt [batch, sequence], as `choose` takes them from logits [batch, …]."""
        logits = self.read(prompt)[:, -1]
        while True:
            chosen = choose(logits)
            yield chosen
            logits = self.read(chosen[:, None])[:, -1]


def likeliest(logits: np.ndarray) -> np.ndarray:
    """The token of the largest logit in each row."""
    return logits.argmax(-1)


def drawn(rng: np.random.Generator, temperature: float = 1.0) -> Choice:
    """Tokens drawn with the probabilities softmax(logits / temperature)."""

    def choose(logits: np.ndarray) -> np.ndarray:
        scaled = logits.astype(np.float64) / temperature
        sums = np.exp(scaled - scaled.max(-1, keepdims=True)).cumsum(-1)
        return (sums > rng.random((len(sums), 1)) * sums[:, -1:]).argmax(-1)

    return choose


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax over the last axis, of the logits' type."""
    found = logits - logits.max(-1, keepdims=True)
    found -= np.log(np.exp(found).sum(-1, keepdims=True, dtype=np.float64)).astype(found.dtype)
    return found


def surprise(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """−log of the probability of each token [...], logits [..., vocabulary]."""
    return -np.take_along_axis(log_probabilities(logits), tokens[..., None], -1)[..., 0]
