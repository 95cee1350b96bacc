"""Lets a language model write, and says how fast it reads and writes.

    python tools/generate.py MODEL.onnx --prompt "Once upon a time"
    python tools/generate.py stories15m --temperature 0.8 --seed 3

MODEL is a file of the form with a cache of keys and values (what `recipe(NAME).cached()` gives, compiled or not), or a
recipe's name for its float model. Its tokenizer is that of the recipe which the graph is named after, or --tokenizer's.

prefill    tokens of the prompt that are read in a second, all at once
decode     tokens that are written in a second, one after the other
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from qcompiler import native

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import NAMES, recipe  # noqa: E402
from models.generation import Choice, Decoder, drawn, likeliest  # noqa: E402
from models.packages import FetchError  # noqa: E402
from models.tokenizers import Tokenizer  # noqa: E402

SPEAKERS = tuple(name for name in NAMES if recipe(name).tokenizer)


def opened(path: str | Path, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU, with our operators where their library is there."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if native.available():
        native.register_custom_ops(options)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def written(decoder: Decoder, prompt: list[int], tokenizer: Tokenizer, choose: Choice) -> Iterator[int]:
    """The tokens that follow, up to an end."""
    for (token,) in decoder.tokens(np.array([prompt]), choose):
        if token in tokenizer.ends:
            return
        yield int(token)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--prompt", default="Once upon a time", help="(default %(default)r)")
    parser.add_argument("--tokens", type=int, default=120, help="that are written at most (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 writes the likeliest (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (default %(default)s)")
    parser.add_argument("--tokenizer", choices=SPEAKERS, help="default: the recipe that the graph is named after")
    options = parser.parse_args()
    try:
        path = recipe(options.model).cached() if options.model in SPEAKERS else Path(options.model)
        if not path.is_file():
            parser.error(f"there is no file {path}, and the recipes with a tokenizer are {', '.join(SPEAKERS)}")
        session = opened(path, options.threads)
        name = options.tokenizer or session.get_modelmeta().graph_name
        if name not in SPEAKERS:
            parser.error(f"the graph is named '{name}', which is no recipe: say --tokenizer {'|'.join(SPEAKERS)}")
        tokenizer = recipe(name).tokenizer()
        decoder = Decoder(session)
    except (FetchError, ValueError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    rng = np.random.default_rng(options.seed)
    choose = drawn(rng, options.temperature) if options.temperature > 0 else likeliest
    prompt = [*tokenizer.start, *tokenizer.encode(options.prompt)]
    decoder.read(np.array([prompt]))  # the first run is slower
    decoder.forget()

    told: list[int] = []
    shown, first = "", 0.0
    start = time.perf_counter()
    for token in written(decoder, prompt, tokenizer, choose):
        first = first or time.perf_counter() - start
        told.append(token)
        text = tokenizer.decode([*prompt, *told])
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a letter of several tokens
            print(text[len(shown) :], end="", flush=True)
            shown = text
        if len(told) == options.tokens:
            break
    taken = time.perf_counter() - start - first
    print(f"\n\nprefill {len(prompt) / first:.0f} tokens/s ({len(prompt)} tokens)" if first else "\n\nnothing to tell")
    if len(told) > 1:
        print(f"decode {(len(told) - 1) / taken:.0f} tokens/s ({len(told)} tokens)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
