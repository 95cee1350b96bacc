"""Measures language models in 4 bits: how fast they read and write beside the same model with ONNX Runtime's own
MatMulNBits, how large they are, and how far what they say is from the float model.

    python tools/bench_language.py                                    both tables; peers are installed when missing
    python tools/bench_language.py --only speed --models stories15m --threads 1 --json result.json
    python tools/bench_language.py --only quality --keep build/language

Speed. Float, MatMulNBits (MatMulNBitsQuantizer, symmetric, level 4, the embedding in blocks too) and ours (hqq: with
zero points, as gptq, but soon made), all with a cache of keys and values and blocks of 32, in one process. In a round
each reads a prompt and writes some tokens; figures are medians over rounds, ratios are taken within a round.

prefill    tokens of the prompt that are read in a second, all at once
decode     tokens that are written in a second, one after the other

Quality, on stories15m. The float model tells stories (temperature 1, 16 for each seed, 255 predicted tokens each);
those of other seeds calibrate.

KL         sum of p · log(p / q) over the vocabulary, p float's and q the tool's probabilities of the next token: the
           mean over all tokens, the standard error of the means of the stories, and the mean of each seed
ppl        exp of the mean surprise at the tokens told
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from attempt import last_line
from bench_int4 import judged
from compare_peers import ORT, Peer, machine, working_folder, write_stacks
from generate import opened
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler import native

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models import recipe  # noqa: E402
from models.generation import Decoder, likeliest, log_probabilities  # noqa: E402
from models.language import LENGTH  # noqa: E402
from models.packages import FetchError  # noqa: E402
from models.recipe import Feed  # noqa: E402
from models.stories15m import stories  # noqa: E402

MODELS = ("stories15m", "smollm2-135m")
JUDGED = "stories15m"
BLOCK = "32"
PREFILL, DECODE = 1.2, 1.0  # MatMulNBits' time over ours must reach
DIVERGENCE = 0.6  # of gptq, over that of the peers that look at no samples
FEWEST_ROUNDS = 5
AT_A_TIME = 2  # stories: the logits of one take 33 MB

ORT_4BITS = Peer("ort-4bits", (*ORT, "onnx-ir==1.1.0", "torch==2.13.0"), "ort_4bits.py")
ONNXSIM_4BITS = Peer("onnxsim", ("onnxsim==0.8.1", "onnxruntime==1.32.0"), "onnxsim_4bits.py")
PEERS = {
    "ort symmetric": (ORT_4BITS, "symmetric"),
    "ort asymmetric": (ORT_4BITS, "asymmetric"),
    "ort hqq": (ORT_4BITS, "hqq"),
    "onnxsim rtn": (ONNXSIM_4BITS, "rtn"),
    "onnxsim hqq": (ONNXSIM_4BITS, "hqq"),
    "onnxsim gptq": (ONNXSIM_4BITS, "gptq"),
}
WITHOUT_SAMPLES = ("ort symmetric", "ort asymmetric", "ort hqq", "onnxsim rtn", "onnxsim hqq")
ROUNDINGS = ("rtn", "mse", "hqq", "gptq")
LIKE_HQQ = "qcompiler gptq, embedding kept in float"
"""As ONNX Runtime's HQQ leaves it: rows are taken of a float table, and the output layer has 4 bits of its own."""


def theirs(label: str, model: Path, samples: Path | None, out: Path) -> Path:
    """A peer's 4-bit model; some look at samples. Raises FetchError when it fails."""
    peer, method = PEERS[label]
    command = [peer.python(), ROOT / "tools" / "peers" / peer.runner, model, samples or "-", out, method]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(f"{label}: {last_line(done.stderr)}")
    return out


def ours(model: Path, rounding: str, feeds: list[Feed] | None, out: Path, kept: tuple[str, ...] = ()) -> Path:
    """``kept``: what stays in float."""
    options = qcompiler.Options(ops="native", block=BLOCK, rounding=rounding, timing=False)
    recipe = {"keep_float": list(kept)}
    return qcompiler.compile(model, data=feeds, precision="int4", recipe=recipe, options=options).save(out)


def kept(out: Path, make: Callable[[Path], Path]) -> Path:
    """The model that is there already, or the one that is made."""
    return out if out.exists() else make(out)


# --- speed ---


@dataclass(frozen=True)
class Turn:
    """Seconds of reading the prompt, and of writing the tokens behind it."""

    read: float
    write: float


def turn(decoder: Decoder, prompt: np.ndarray, count: int) -> Turn:
    decoder.forget()
    start = time.perf_counter()
    told = decoder.tokens(prompt, likeliest)
    next(told)
    read = time.perf_counter()
    for _ in range(count):
        next(told)
    return Turn(read - start, time.perf_counter() - read)


def forms(name: str, folder: Path) -> dict[str, Path]:
    """The three that are compared."""
    source = recipe(name).cached()
    return {
        "float": source,
        "nbits": kept(
            folder / f"{name}-cached-ort-symmetric.onnx", partial(theirs, "ort symmetric", source, None)
        ),
        "ours": kept(folder / f"{name}-cached-qcompiler-hqq.onnx", partial(ours, source, "hqq", None)),
    }


def speed(name: str, files: dict[str, Path], threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both rates of each form of a model, medians, and MatMulNBits' times over ours."""
    decoders = {label: Decoder(opened(path, threads)) for label, path in files.items()}
    ids = np.concatenate([feed["input_ids"] for feed in recipe(name).evaluation(-(-options.prompt // LENGTH))], axis=1)
    prompt = ids[:, : options.prompt]

    for decoder in decoders.values():
        turn(decoder, prompt, 2)
    turns: dict[str, list[Turn]] = {label: [] for label in decoders}
    labels = list(decoders)
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or len(turns["ours"]) < FEWEST_ROUNDS:
        labels = [*labels[1:], labels[0]]
        for label in labels:
            turns[label].append(turn(decoders[label], prompt, options.written))

    def ratio(part: Callable[[Turn], float]) -> float:
        return float(np.median([part(a) / part(b) for a, b in zip(turns["nbits"], turns["ours"])]))

    return {
        "model": name,
        "threads": threads,
        "rounds": len(turns["ours"]),
        "prefill": {k: options.prompt / float(np.median([t.read for t in v])) for k, v in turns.items()},
        "decode": {k: options.written / float(np.median([t.write for t in v])) for k, v in turns.items()},
        "prefill_ratio": ratio(lambda t: t.read),
        "decode_ratio": ratio(lambda t: t.write),
        "bytes": {label: path.stat().st_size for label, path in files.items()},
    }


def speed_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="tokens a second, and MatMulNBits' time over ours")
    sized = ("MB: float", "NBits", "ours")
    for heading in ("model", "threads", "rounds", "", "float", "MatMulNBits", "ours", "ratio", *sized):
        table.add_column(heading, justify="left" if heading in ("model", "") else "right")
    for row in rows:
        sizes = [f"{row['bytes'][label] / 1e6:.1f}" for label in ("float", "nbits", "ours")]
        for part, bar in (("prefill", PREFILL), ("decode", DECODE)):
            rates = [f"{row[part][label]:.0f}" for label in ("float", "nbits", "ours")]
            first = part == "prefill"
            lead = [row["model"], str(row["threads"]), str(row["rounds"])] if first else ["", "", ""]
            table.add_row(*lead, part, *rates, judged(row[f"{part}_ratio"], bar), *(sizes if first else ()))
    return table


# --- quality ---


def scored(session: ort.InferenceSession, tokens: np.ndarray) -> np.ndarray:
    """log probabilities [stories, tokens − 1, vocabulary] of what follows each token but the last."""
    return log_probabilities(session.run(None, {"input_ids": tokens})[0][:, :-1])


def divergences(files: dict[str, Path], told: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Of each model the divergence from `float` and the surprise, [stories, tokens − 1]."""
    sessions = {label: opened(path) for label, path in files.items()}
    found: dict[str, dict[str, list[np.ndarray]]] = {label: {"kl": [], "surprise": []} for label in sessions}
    for first in range(0, len(told), AT_A_TIME):
        tokens = told[first : first + AT_A_TIME]
        reference = scored(sessions["float"], tokens)
        probabilities = np.exp(reference)
        for label, session in sessions.items():
            log = reference if label == "float" else scored(session, tokens)
            found[label]["kl"].append((probabilities * (reference - log)).sum(-1, dtype=np.float64))
            found[label]["surprise"].append(-np.take_along_axis(log, tokens[:, 1:, None], -1)[..., 0])
    return {label: {key: np.concatenate(parts) for key, parts in of.items()} for label, of in found.items()}


def quality(folder: Path, options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each tool and way to round."""
    source = recipe(JUDGED).model()
    say(f"telling {16 * len(options.calibrate)} stories to calibrate on and {16 * len(options.seeds)} to judge by")
    feeds = [{"input_ids": story[None]} for seed in options.calibrate for story in stories(seed)]
    told = np.concatenate([stories(seed) for seed in options.seeds])
    samples = folder / "samples.npz"
    write_stacks(feeds, samples)

    made = {label: partial(theirs, label, source, samples) for label in PEERS}
    made |= {f"qcompiler {rounding}": partial(ours, source, rounding, feeds) for rounding in ROUNDINGS}
    made[LIKE_HQQ] = partial(ours, source, "gptq", feeds, kept=("op:Gather",))

    rows: list[dict[str, Any]] = [{"tool": "float"}]
    files = {"float": source}
    for label, make in made.items():
        say(label)
        row: dict[str, Any] = {"tool": label}
        rows.append(row)
        start = time.perf_counter()
        try:
            files[label] = kept(folder / f"{JUDGED}-{label.replace(',', '').replace(' ', '-')}.onnx", make)
        except (FetchError, qcompiler.QCompilerError, subprocess.SubprocessError) as error:
            row["error"] = str(error)
        row["seconds"] = time.perf_counter() - start
    say(f"judging {len(files)} models")
    found = divergences(files, told)
    for row in rows:
        label = row["tool"]
        if label in found:
            divergence, surprise = found[label]["kl"], found[label]["surprise"]
            each = divergence.mean(axis=1)
            row |= {
                "tokens": divergence.size,
                "kl": float(each.mean()),
                "standard_error": float(each.std(ddof=1) / len(each) ** 0.5),
                "kl_by_seed": each.reshape(len(options.seeds), -1).mean(axis=1).tolist(),
                "perplexity": float(np.exp(surprise.mean())),
                "bytes": files[label].stat().st_size,
            }
    return rows


def quality_table(rows: list[dict[str, Any]], seeds: list[int]) -> Table:
    tokens = next(row["tokens"] for row in rows if "tokens" in row)
    told = ", ".join(map(str, seeds))
    table = Table(title=f"{JUDGED}, blocks of {BLOCK}, {tokens:,} tokens it told itself (seeds {told})")
    for heading in ("tool", "KL", "±", "by seed", "ppl", "MB", "took s", ""):
        table.add_column(heading, justify="left" if heading in ("tool", "") else "right")
    for row in rows:
        if "kl" not in row:
            table.add_row(row["tool"], "", "", "", "", "", "", row.get("error", ""))
            continue
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        by_seed = " ".join(f"{value:.4f}" for value in row["kl_by_seed"])
        table.add_row(
            row["tool"], f"{row['kl']:.4f}", f"{row['standard_error']:.4f}", by_seed, f"{row['perplexity']:.3f}",
            f"{row['bytes'] / 1e6:.1f}", seconds, "",
        )
    return table


def against_peers(rows: list[dict[str, Any]]) -> str:
    """How gptq's divergence compares."""
    by_tool = {row["tool"]: row["kl"] for row in rows if "kl" in row}
    if "qcompiler gptq" not in by_tool:
        return "no gptq of ours to judge"
    shares = {label: by_tool["qcompiler gptq"] / by_tool[label] for label in by_tool if label in PEERS}
    parts = []
    for label, share in shares.items():
        bar = DIVERGENCE if label in WITHOUT_SAMPLES else None
        mark = "" if bar is None else f"[{'green' if share <= bar else 'red'}]"
        parts.append(f"{mark}{share:.2f}{'[/]' if mark else ''} of {label}'s")
    return f"qcompiler gptq's KL (≤ {DIVERGENCE} of those that take no samples): {', '.join(parts)}"


# --- the command ---


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="whose speed is measured")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prompt", type=int, default=128, help="tokens that are read (default %(default)s)")
    parser.add_argument("--written", type=int, default=32, help="tokens that are written (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="for each model and number of threads")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the stories to judge by")
    parser.add_argument("--calibrate", nargs="+", type=int, default=[100, 101, 102, 103], help="seeds to calibrate on")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the models there, use those that are there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured there")
    options = parser.parse_args()
    if set(options.seeds) & set(options.calibrate):
        parser.error("a seed is to calibrate or to judge by, not both")
    console, progress = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)

    def say(text: str) -> None:
        progress.print(text, style="dim", highlight=False)

    result: dict[str, Any] = {"machine": {**machine(), "onnxruntime": ort.__version__, "isa": native.isa()}}
    with working_folder(options.keep) as folder:
        try:
            if options.only != "quality":
                result["speed"] = []
                for name in options.models:
                    files = forms(name, folder)
                    for threads in options.threads:
                        say(f"{name}, threads: {threads}")
                        result["speed"].append(speed(name, files, threads, options))
                console.print(speed_table(result["speed"]))
            if options.only != "speed":
                result["quality"] = quality(folder, options, say)
                console.print(quality_table(result["quality"], options.seeds))
                console.print(against_peers(result["quality"]))
        except FetchError as error:
            console.print(f"bench_language: {error}", markup=False)
            return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
