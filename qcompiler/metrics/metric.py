"""A metric by its name or file, applied to a model; how far it may drop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qcompiler.data import imported
from qcompiler.errors import DataError, MetricError
from qcompiler.metrics import cosine, ctc, detections, iou, perplexity, top1

Feed = dict[str, np.ndarray]
Model = Callable[[Feed], dict[str, np.ndarray]]
"""As a session: a feed to outputs by name."""


class Measure(Protocol):
    """A built-in measure, a module: ``labels`` are the float model's own answers where the user gives none."""

    LOWER_IS_BETTER: bool

    def labels(self, output: np.ndarray, feed: Feed) -> Sequence[Any]:
        """What stands for labels, one for each row of one feed's output in float."""

    def score(self, rows: Iterable[np.ndarray], labels: Sequence[Any]) -> float:
        """The measure of all rows: entries of the output along its first axis. ValueError where they do not suit."""


BUILT_IN: dict[str, Measure] = {
    "top-1": top1,
    "cosine": cosine,
    "cer": ctc,
    "perplexity": perplexity,
    "mean-iou": iou,
    "detections": detections,
}


@dataclass(frozen=True)
class Drop:
    """How far a metric may fall behind the float model's: ``amount`` in its own unit, or as a share of it."""

    amount: float
    relative: bool

    @staticmethod
    def parse(text: str) -> Drop:
        """``0.5%`` or ``0.005``. Raises ValueError."""
        number = text.strip()
        relative = number.endswith("%")
        amount = float(number.removesuffix("%")) / (100.0 if relative else 1.0)
        if not math.isfinite(amount) or amount < 0.0:
            raise ValueError(f"'{text}' is not a drop")
        return Drop(amount, relative)

    def allowed(self, plain: float) -> float:
        """In the metric's unit, where the float model has ``plain``."""
        return self.amount * abs(plain) if self.relative else self.amount

    def __str__(self) -> str:
        return f"{100.0 * self.amount:.4g}%" if self.relative else f"{self.amount:.4g}"


@dataclass(frozen=True)
class Metric:
    """One number for a model. ``measure`` may raise anything and return anything: ``of`` says what is wrong with it."""

    name: str
    lower_is_better: bool
    measure: Callable[[Model], Any]

    def of(self, model: Model) -> float:
        """Raises MetricError when the metric raises, or returns something else than a finite number."""
        try:
            value = self.measure(model)
        except MetricError:
            raise
        except Exception as error:
            raise MetricError("raised an error", where=self.name, why=f"{type(error).__name__}: {error}") from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise MetricError(
                f"returned a {type(value).__name__}", where=self.name, fix="return one number"
            ) from None
        if not math.isfinite(number):
            raise MetricError(f"returned {number}", where=self.name, fix="return a finite number")
        return number

    def drop(self, plain: float, compiled: float) -> float:
        """How much worse the compiled model is, in the metric's unit; negative where it is better."""
        return compiled - plain if self.lower_is_better else plain - compiled


def metric_from(
    text: str,
    feeds: Iterable[Feed],
    plain: Model,
    labels: np.ndarray | None = None,
    *,
    lower_is_better: bool = False,
) -> Metric:
    """The metric that the text names: ``NAME`` or ``NAME:OUTPUT`` of a built-in one, or ``FILE.py:FUNCTION``.

    A function is called with the model, a callable from feeds to outputs by name, and brings its own data; with it,
    ``lower_is_better`` says which way is good. A built-in measure looks at one output, the first where none is named,
    over ``feeds``, whose labels are ``labels``, one for each row, or what the float model ``plain`` says.

    Raises:
        MetricError: there is no such metric. DataError: the file cannot be imported, or labels do not fit.
    """
    path, _, function = text.rpartition(":")
    if path.endswith(".py"):
        if labels is not None:
            raise MetricError("a function of your own reads its own labels", where=text, fix="leave out --labels")
        return Metric(text, lower_is_better, imported(Path(path), function))
    name, _, output = text.partition(":")
    if name not in BUILT_IN:
        raise MetricError(
            f"there is no metric '{text}'", fix=f"use one of {', '.join(BUILT_IN)}, or FILE.py:FUNCTION"
        )
    built_in = BUILT_IN[name]
    stand_in: list[Any] = []
    count = 0
    for feed in feeds:
        found = chosen(plain(feed), output, text)
        count += len(found)
        if labels is None:
            try:
                stand_in += [copied(label) for label in built_in.labels(found, feed)]
            except ValueError as error:
                raise MetricError("does not suit the model", where=text, why=str(error)) from None
    if labels is not None and len(labels) != count:
        raise DataError(
            f"there are {len(labels)} labels for {count} samples", where="--labels", fix="give one label a sample"
        )
    wanted = stand_in if labels is None else list(labels)

    def measure(model: Model) -> float:
        return built_in.score((row for feed in feeds for row in chosen(model(feed), output, text)), wanted)

    return Metric(text, built_in.LOWER_IS_BETTER, measure)


def chosen(outputs: Mapping[str, np.ndarray], name: str, metric: str) -> np.ndarray:
    """The named output, or the first. Raises MetricError when there is none such, or it has no rows."""
    if name and name not in outputs:
        raise MetricError(f"the model has no output '{name}'", where=metric, fix=f"use one of {', '.join(outputs)}")
    found = outputs[name] if name else next(iter(outputs.values()))
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        raise MetricError("the output has no rows to judge", where=metric, fix="write a function of your own")
    return found


def copied(label: Any) -> Any:
    """A view would keep the whole output alive."""
    return label.copy() if isinstance(label, np.ndarray) else label


def labels_from(text: str) -> np.ndarray:
    """Labels of a ``.npy`` file, or of ``FILE.npz:KEY``; the key may be left out where there is one array.

    Raises:
        DataError: there is no such file or key, or it is no array of numbers.
    """
    path, _, key = text.rpartition(":") if ".npz:" in text else (text, "", "")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            found = loaded
        else:
            with loaded:
                names = list(loaded.files)
                if key not in names and (key or len(names) != 1):
                    what = f"has no array '{key}'" if key else "holds several arrays"
                    raise DataError(what, where=path, fix=f"name one of {', '.join(names)}: {path}:NAME")
                found = loaded[key or names[0]]
    except FileNotFoundError:
        raise DataError("no such file", where=path, fix="check the path") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError("labels cannot be read", where=path, why=str(error)) from None
    if found.ndim == 0 or found.dtype.kind not in "fiub":
        raise DataError(f"labels are {found.dtype}{list(found.shape)}", where=path, fix="give an array of numbers")
    return found
