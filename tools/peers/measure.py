"""Measures several forms of one model in one process, all sessions loaded together.

A specification comes in as JSON on the standard input: {recipe, evaluation} or {samples: path of stacked feeds}, and
{threads, rounds, seconds, models: {label: path}} with "float" among the labels. The result goes out as JSON:
{label: {...} or {"error": text}}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import recipe
from models.recipe import Feed, Recipe
from qcompiler import native
from qcompiler.numerics import sqnr


def unstacked(path: str) -> list[Feed]:
    with np.load(path) as stacks:
        arrays = {name: stacks[name] for name in stacks.files}
    count = len(next(iter(arrays.values())))
    return [{name: np.asarray(array[index]) for name, array in arrays.items()} for index in range(count)]


def session(path: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    if native.available():
        native.register_custom_ops(options)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def looks_like_scores(output: np.ndarray, classifier: bool) -> bool:
    """Whether the largest value of the last axis is an answer: probabilities, or the logits of a classifier."""
    if output.dtype.kind != "f" or output.ndim < 2 or output.shape[-1] < 2:
        return False
    probabilities = output.min() >= 0 and np.allclose(output.sum(-1), 1, atol=1e-3)
    return bool(probabilities or (classifier and output.ndim == 2))


def faithfulness(
    reference: list[list[np.ndarray]], found: list[list[np.ndarray]], one: Recipe | None
) -> dict[str, Any]:
    """How far the outputs are from float's, over all samples of an output."""
    per_output, agreement = {}, None
    for index, first in enumerate(reference[0]):
        a, b = (np.stack([outputs[index] for outputs in side]) for side in (reference, found))
        if first.dtype.kind == "f":
            per_output[str(index)] = sqnr(a, b)
        if agreement is None and looks_like_scores(first, one is not None and one.score is not None):
            agreement = 100 * float(np.mean(a.argmax(-1) == b.argmax(-1)))
    result: dict[str, Any] = {"sqnr": per_output, "top1_agreement": agreement}
    if one and one.scores:
        a, b = (np.stack([outputs[0][one.scores] for outputs in side]) for side in (reference, found))
        channels = [sqnr(a[:, :, channel], b[:, :, channel]) for channel in range(a.shape[2])]
        result["scores_sqnr"] = sqnr(a, b)
        result["scores_sqnr_lowest_channel"] = min(channels)
    return result


def speeds(
    sessions: dict[str, onnxruntime.InferenceSession], feeds: Sequence[Feed], rounds: int, limit: float
) -> dict[str, Any]:
    """Each round runs every session once on the same sample, beginning with another one each time.

    After `limit` seconds no further round is begun, but there are ten at least.
    """
    end = time.monotonic() + limit
    labels = list(sessions)
    seconds: dict[str, list[float]] = {label: [] for label in labels}
    for label in labels:
        sessions[label].run(None, feeds[0])
    for number in range(rounds):
        if number >= 10 and time.monotonic() > end:
            break
        turn = number % len(labels)
        for label in labels[turn:] + labels[:turn]:
            start = time.perf_counter()
            sessions[label].run(None, feeds[number % len(feeds)])
            seconds[label].append(time.perf_counter() - start)
    result = {}
    for label in labels:
        ratios = np.array(seconds["float"]) / np.array(seconds[label])
        low, middle, high = np.percentile(ratios, (10, 50, 90))
        milliseconds = 1000 * float(np.median(seconds[label]))
        result[label] = {"milliseconds": milliseconds, "speed": middle, "speed_p10": low, "speed_p90": high}
    return result


def main() -> None:
    wanted = json.load(sys.stdin)
    one = recipe(wanted["recipe"]) if "recipe" in wanted else None
    if one:
        feeds, labels = list(one.evaluation(wanted["evaluation"])), one.labels(wanted["evaluation"])
    else:
        feeds, labels = unstacked(wanted["samples"]), []
    results: dict[str, dict[str, Any]] = {}
    sessions = {}
    for label, path in wanted["models"].items():
        try:
            sessions[label] = session(path, wanted["threads"])
            sessions[label].run(None, feeds[0])
        except Exception as error:
            stage = "does not run" if label in sessions else "does not load"
            sessions.pop(label, None)
            results[label] = {"error": f"{stage}: {first_line(error)}"}
    reference = [sessions["float"].run(None, feed) for feed in feeds]
    for label, loaded in sessions.items():
        found = reference if label == "float" else [loaded.run(None, feed) for feed in feeds]
        results[label] = faithfulness(reference, found, one)
        if one and one.score:
            results[label]["metric"] = one.score([outputs[0] for outputs in found], labels)
    for label, timing in speeds(sessions, feeds, wanted["rounds"], wanted["seconds"]).items():
        results[label] |= timing
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
