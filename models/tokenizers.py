"""Text to tokens and back, for the two kinds of byte-pair encoding that the language models here were trained with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol


class Tokenizer(Protocol):
    """`start` stands before a text, one of `ends` after it."""

    @property
    def start(self) -> tuple[int, ...]: ...
    @property
    def ends(self) -> frozenset[int]: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: Iterable[int]) -> str: ...


def merged(parts: Sequence[bytes], rank: Callable[[bytes, bytes], float | None]) -> list[bytes]:
    """The parts after joining neighbours: each time the pair of lowest rank, until none has one."""
    joined = list(parts)
    while True:
        ranked = [(rank(*pair), index) for index, pair in enumerate(pairwise(joined))]
        known = [(value, index) for value, index in ranked if value is not None]
        if not known:
            return joined
        _, index = min(known)
        joined[index : index + 2] = [joined[index] + joined[index + 1]]


@dataclass(frozen=True)
class ScoredPieces:
    """SentencePiece's: any two neighbours join that make a piece, the piece of the highest score first.

    pieces    bytes of each token; 3 … 258 are single bytes, taken only where no piece has the character.
    scores    of each token.
    """

    pieces: Sequence[bytes]
    scores: Sequence[float]
    start: tuple[int, ...] = (1,)
    ends: frozenset[int] = frozenset({1, 2})

    FIRST_BYTE, FIRST_PIECE = 3, 259

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {piece: number for number, piece in enumerate(self.pieces) if number >= self.FIRST_PIECE}

    def _rank(self, left: bytes, right: bytes) -> float | None:
        number = self._numbers.get(left + right)
        return None if number is None else -self.scores[number]

    def encode(self, text: str) -> list[int]:
        """A blank is put before the text, as in training."""
        numbers = []
        for word in re.findall(r" *[^ ]+| +", f" {text}"):  # no piece has a blank behind a letter
            for piece in merged([letter.encode() for letter in word], self._rank):
                known = self._numbers.get(piece)
                numbers += [self.FIRST_BYTE + byte for byte in piece] if known is None else [known]
        return numbers

    def decode(self, tokens: Iterable[int]) -> str:
        content = b"".join(self.pieces[token] for token in tokens if token >= self.FIRST_BYTE)
        return content.decode("utf-8", "replace").removeprefix(" ")


def byte_letters() -> dict[int, str]:
    """The letter that GPT-2's vocabulary writes for each byte: printable ones stand for themselves."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + index) for index, byte in enumerate(others)}


@dataclass(frozen=True)
class MergedBytes:
    """GPT-2's: words are split by a pattern, then bytes join in the order in which training joined them.

    pieces    bytes of each token.
    merges    pairs of pieces, the earliest first.
    special   tokens that mark something and are no text.
    """

    pieces: Sequence[bytes]
    merges: Sequence[tuple[bytes, bytes]]
    special: frozenset[int]
    ends: frozenset[int]
    start: tuple[int, ...] = ()
    # Each digit is a word; else contractions, letters, other signs, each with a blank before it, and blanks.
    pattern: str = r"\d|'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s+(?=\d)|\s+(?!\S)|\s+"
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def _ranks(self) -> dict[tuple[bytes, bytes], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def encode(self, text: str) -> list[int]:
        numbers = []
        for word in re.findall(self.pattern, text):
            if word not in self._known:
                parts = [bytes([byte]) for byte in word.encode()]
                joined = merged(parts, lambda left, right: self._ranks.get((left, right)))
                self._known[word] = [self._numbers[piece] for piece in joined]
            numbers += self._known[word]
        return numbers

    def decode(self, tokens: Iterable[int]) -> str:
        content = b"".join(self.pieces[token] for token in tokens if token not in self.special)
        return content.decode("utf-8", "replace")
