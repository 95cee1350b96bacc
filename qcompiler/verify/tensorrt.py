"""What TensorRT makes of a model: its own ahead-of-time builder is asked, which needs no GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler import ir
from qcompiler.errors import DataError, DependencyError, TargetError, VerificationError
from qcompiler.runtime import Feed
from qcompiler.verify.fused import Fate
from qcompiler.verify.tensorrt_log import Layer, read

PACKAGE = "tensorrt_rtx"
SECONDS = 900.0
"""What a build may take."""
MOST_NAMED = 4
_LONGEST_SHAPE = 16
"""Integers that an input which holds a shape may have, at most."""

_PLACES = re.compile(r"\[\w+\.cpp::[^\]]*\]\s*|(\s+In \w+)?\s+at /\S+\.cpp:\d+")
"""Where in TensorRT's own sources a message is from."""

OF_VALUES = "a shape is computed from values that are not known when the engine is built"
_OF_VALUES = ("isInFlight(p.second.symbolicRep)", "is a shape tensor and must have type Int32")
"""What the parser says then."""

SPLIT = "its attention does not become one kernel"

Bounds = tuple[list[int], list[int], list[int]]


class BuildError(VerificationError):
    """The builder fails on a model that its parser took."""


@dataclass(frozen=True)
class Engine:
    """A built engine: for which GPU, by which version, its layers in order, its size, and what building took."""

    gpu: str
    version: str
    layers: tuple[Layer, ...]
    bytes: int
    seconds: float
    peak_bytes: int

    @property
    def attentions(self) -> int:
        return sum(layer.attention for layer in self.layers)

    def heavy(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.heavy]

    def glue(self) -> list[Layer]:
        """What is neither a product nor a convolution."""
        return [layer for layer in self.layers if not layer.heavy]

    def histogram(self) -> dict[str, int]:
        """Layers by kind and type, ``gemm Int8``, the most frequent first."""
        counts = Counter(f"{'attention' if one.attention else one.kind} {one.type}" for one in self.layers)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def layers_of(self) -> dict[str, list[Layer]]:
        """The layers that hold each node of the model."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for node in layer.nodes:
                found.setdefault(node, []).append(layer)
        return found

    def fates(self, names: Iterable[str], attention: Container[str] = ()) -> dict[str, Fate]:
        """The fate of each node that is meant to work on codes. Those of ``attention`` are meant to be one kernel."""
        layers, found = self.layers_of(), {}
        for name in names:
            holding = layers.get(name, [])
            own = next((layer for layer in holding if layer.heavy), holding[0] if holding else None)
            heavy = own is not None and own.heavy
            coded = next((layer for layer in holding if layer.coded and (layer.heavy or not heavy)), None)
            if name in attention and not any(layer.attention for layer in holding):
                form = f"{own.kind} {own.type}" if own is not None else "-"
                found[name] = Fate(name, form, False, SPLIT)
            elif coded is not None:
                found[name] = Fate(name, f"{coded.kind} {coded.coded}", True)
            elif own is not None:
                types = ", ".join((*own.inputs, *own.constants))
                found[name] = Fate(name, f"{own.kind} {own.type}", False, f"its layer reads {types}")
            else:
                found[name] = Fate(name, "-", True)
        return found


def installed() -> bool:
    return find_spec(PACKAGE) is not None


def shapes_of(inputs: Sequence[ir.Variable], feeds: Iterable[Feed]) -> dict[str, Bounds]:
    """(least, usual, most) of each axis of each input over the feeds: what an optimization profile says."""
    seen: dict[str, Counter[tuple[int, ...]]] = {tensor.name: Counter() for tensor in inputs}
    for feed in feeds:
        for name, array in feed.items():
            if name in seen:
                seen[name][array.shape] += 1
    bounds: dict[str, Bounds] = {}
    for name, counts in seen.items():
        if counts:
            axes = list(zip(*counts))
            usual = counts.most_common(1)[0][0]
            bounds[name] = [min(axis) for axis in axes], list(usual), [max(axis) for axis in axes]
    return bounds


def values_of(inputs: Sequence[ir.Variable], feeds: Sequence[Feed]) -> dict[str, Bounds]:
    """(least, usual, most) of the values of integer inputs that may be shapes."""
    found: dict[str, Bounds] = {}
    for tensor in inputs:
        arrays = [feed[tensor.name] for feed in feeds if tensor.name in feed]
        if not arrays or arrays[0].dtype.kind != "i" or arrays[0].ndim > 1 or arrays[0].size > _LONGEST_SHAPE:
            continue
        if len({array.shape for array in arrays}) == 1:
            stack = np.stack(arrays).reshape(len(arrays), -1)
            found[tensor.name] = stack.min(0).tolist(), stack[0].tolist(), stack.max(0).tolist()
    return found


def build(
    model: ir.Graph | str | os.PathLike[str],
    gpu: str,
    inputs: Sequence[ir.Variable],
    feeds: Sequence[Feed],
    *,
    seconds: float = SECONDS,
    where: str = "",
) -> Engine:
    """Builds the model for a kind of GPU (``sm89``), for the shapes that the feeds have. ``where`` names it in errors.

    Raises:
        DependencyError: TensorRT-RTX is not installed.
        TargetError: it does not build for such a GPU.
        BuildError: it fails on the model.
        VerificationError: it refuses the model, naming the nodes, or takes longer than ``seconds``.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        path = _stored(model, folder)
        shapes = shapes_of(inputs, feeds)
        for tensor in inputs:
            fixed = tensor.shape is not None and all(isinstance(size, int) and size > 0 for size in tensor.shape)
            if not fixed and tensor.name not in shapes:
                raise DataError(
                    f"the shape of input '{tensor.name}' is not fixed", where="TensorRT",
                    why="an engine is built for a range of shapes", fix="give samples (--data)",
                )  # fmt: skip
        answer = Path(folder) / "answer.json"
        request = {"model": str(path), "gpu": gpu, "answer": str(answer), "shapes": shapes}
        found = _asked("tensorrt_builder", {**request, "values": values_of(inputs, feeds)}, answer, seconds)
    _check(found, gpu, where or path.name)
    layers = read(found["log"], found["version"])
    return Engine(gpu, found["version"], layers, found["bytes"], found["seconds"], found["peak_bytes"])


def run(
    model: str | os.PathLike[str], inputs: Sequence[ir.Variable], feeds: Sequence[Feed], *, seconds: float = SECONDS
) -> tuple[list[Feed], float]:
    """The model's outputs for each feed, computed on this machine's GPU, and the seconds that a run takes there.

    Raises:
        DependencyError: there is no GPU, driver or TensorRT-RTX here.
        VerificationError: it refuses the model or fails on it.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        stored, outputs, answer = (Path(folder) / name for name in ("feeds.npz", "outputs.npz", "answer.json"))
        arrays = {f"{index}/{name}": array for index, feed in enumerate(feeds) for name, array in feed.items()}
        np.savez(stored, **arrays)  # type: ignore[arg-type]
        request: dict[str, Any] = {"model": str(_stored(model, folder)), "answer": str(answer)}
        request |= {"shapes": shapes_of(inputs, feeds)}
        request |= {"values": values_of(inputs, feeds), "feeds": str(stored), "outputs": str(outputs)}
        request |= {"inputs": [tensor.name for tensor in inputs], "count": len(feeds)}
        found = _asked("tensorrt_run", request, answer, seconds)
        if found.get("error") == "missing":
            raise DependencyError("could not be tried on a GPU", why=found["message"], fix="run it where there is one")
        _check(found, "this GPU", Path(model).name)
        with np.load(outputs) as computed:
            made = [{key.partition("/")[2]: computed[key] for key in computed.files if key.startswith(f"{index}/")}
                    for index in range(len(feeds))]  # fmt: skip
    return made, float(found["seconds"])


def _stored(model: ir.Graph | str | os.PathLike[str], folder: str) -> Path:
    return ir.save(model, Path(folder) / "model.onnx") if isinstance(model, ir.Graph) else Path(model)


def _asked(module: str, request: Mapping[str, Any], answer: Path, seconds: float) -> dict[str, Any]:
    if not installed():
        raise _missing("it is not installed")
    command = [sys.executable, "-m", f"qcompiler.verify.{module}"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise VerificationError(
            f"TensorRT's builder took longer than {seconds:.0f} s", fix="allow more, or a smaller model"
        ) from None
    if not answer.exists():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = f"signal {-done.returncode}" if done.returncode < 0 else (lines or ["no message"])[-1]
        raise VerificationError("TensorRT's builder ended without an answer", why=why, fix="report it with the model")
    loaded: dict[str, Any] = json.loads(answer.read_text())
    return loaded


def _check(found: Mapping[str, Any], gpu: str, where: str) -> None:
    """Raises what the builder's answer says went wrong."""
    match found.get("error"):
        case "missing":
            raise _missing(found["message"])
        case "gpu":
            raise TargetError(f"TensorRT-RTX builds for no '{gpu}'", fix=f"use one of {', '.join(found['known'])}")
        case "parse":
            raise refusal(found["refused"], where)
        case "build":
            why = "; ".join(dict.fromkeys(map(plain, found["messages"][:3]))) or "it gives no reason"
            raise BuildError(f"TensorRT does not build it for {gpu}", where=where, why=why)


def plain(message: str) -> str:
    """One of TensorRT's messages, without the places in its sources, and without what else is said there because this
    machine has no GPU."""
    parts = [part for part in re.split(r"(?=\[\w+\.cpp::)", message) if "cudaError" not in part]
    return _PLACES.sub("", "".join(parts)).strip() or message


def refusal(refused: Sequence[Mapping[str, str]], where: str) -> VerificationError:
    """One error for all nodes that the parser refuses."""
    named = list(dict.fromkeys(f"'{one['node'] or '?'}' ({one['operator'] or 'the model'})" for one in refused))
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    message = plain(refused[0]["message"])
    reason = message.removeprefix("Assertion failed: ").partition(": ")
    why = OF_VALUES if any(words in message for words in _OF_VALUES) else reason[2] or reason[0]
    fix = "make the shape constant, or an input of integers" if why == OF_VALUES else "see: qcompiler lint"
    return VerificationError(
        f"TensorRT does not parse node {', '.join(named[:MOST_NAMED])}{more}", where=where,
        why="its parser gives no reason" if why in ("", "false") else why, fix=fix,
    )  # fmt: skip


def _missing(why: str) -> DependencyError:
    return DependencyError(
        "TensorRT-RTX is needed to build an engine", why=why, fix="install it: pip install 'qcompiler-onnx[tensorrt]'"
    )
