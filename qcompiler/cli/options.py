"""Options that several commands share, and what is checked before any work starts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qcompiler.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from qcompiler.data import ImageOptions

Command = TypeVar("Command", bound=Callable[..., Any])

OPS = ("standard", "native")
BLOCKS = ("16", "32", "64", "128", "256", "channel")
ROUNDINGS = ("rtn", "mse", "hqq", "gptq")
OBSERVERS = ("mse", "minmax", "percentile", "entropy")


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.replace("x", ",").split(","))
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers such as 0.5,0.5,0.5", param, ctx)


class DropOf(click.ParamType):
    """How far a metric may fall, as a share of it or in its own unit."""

    name = "drop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from qcompiler.metrics import Drop

        if isinstance(value, Drop):
            return value
        try:
            return Drop.parse(str(value))
        except ValueError:
            self.fail(f"'{value}' is no drop such as 0.5% or 0.005", param, ctx)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator out of several, in reading order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_options = together(
    click.option("--data", metavar="SAMPLES", help=".npz, folder of .npz or of images, or file.py:function."),
    click.option("--batch-size", type=click.IntRange(min=1), help="Rows a feed, where the model leaves that free."),
    click.option("--limit", type=click.IntRange(min=1), help="Use at most so many feeds."),
    click.option("--image-size", type=Numbers(int), metavar="H,W", help="Pixels; the model's own when not given."),
    click.option("--image-mean", type=Numbers(float), metavar="M,…", help="Subtracted from each channel."),
    click.option("--image-std", type=Numbers(float), metavar="S,…", help="Then divided by."),
    click.option("--image-scale", type=float, help="Multiplies pixels first [1/255 for float inputs, else 1]."),
    click.option("--image-layout", type=click.Choice(["nchw", "nhwc"]), help="Seen from the model when not given."),
    click.option("--image-order", type=click.Choice(["rgb", "bgr"]), help="Order of the channels [rgb]."),
    click.option("--image-resize", type=click.Choice(["stretch", "crop", "pad"]), help="How pictures fit [stretch]."),
)

cpu_option = click.option(
    "--cpu", default="auto", show_default=True, help="CPU kind of the target; auto is this machine's."
)
target_options = together(
    click.option("--target", default="ort-cpu", show_default=True, help="A target's name, or the path of its .toml."),
    cpu_option,
)
targets_options = together(
    click.option("--target", "targets", multiple=True, default=("ort-cpu",), show_default=True,
                 help="A target's name, or the path of its .toml; several share one calibration, and -o is a folder."),
    cpu_option,
)  # fmt: skip

gpu_option = click.option(
    "--gpu", metavar="SM", default="", help="Kind of GPU to build for: sm80, sm89, sm120, … [the target's]."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads to measure speed with."
)
debug_option = click.option("--debug", is_flag=True, help="Show Python's traceback of an error.")
load_option = click.option(
    "--load", multiple=True, metavar="FILE.py", help="Make the passes that a Python file defines available.",
    callback=lambda ctx, param, value: _load(value), expose_value=False, is_eager=True,
)  # fmt: skip

metric_options = together(
    click.option("--metric", metavar="NAME[:OUTPUT]|FILE.py:FUNCTION", help=(
        "top-1, cosine, cer, perplexity, mean-iou, detections; or your own code, which is run: a function that returns "
        "a number for the model, itself a function from feeds to outputs by name.")),
    click.option("--labels", metavar="FILE.npy|FILE.npz:KEY",
                 help="What is right, one a sample, of a built-in metric [what the float model says]."),
    click.option("--lower-is-better", is_flag=True, help="The metric of your own is an error."),
    click.option("--max-drop", type=DropOf(), metavar="DROP",
                 help="How far the metric may fall behind float's at most: 0.5% of it, or 0.005 in its own unit."),
)  # fmt: skip


def _load(files: Iterable[str]) -> None:
    if files:
        from qcompiler import registry

        for file in files:
            registry.load_file(file)


def image_options(given: dict[str, Any]) -> ImageOptions | None:
    """Takes the image options out of a command's arguments; None when there are none."""
    names = {"image_order": "channels"}
    values = {names.get(key, key.removeprefix("image_")): given.pop(key) for key in list(given) if key[:6] == "image_"}
    values = {key: value for key, value in values.items() if value is not None}
    if not values:
        return None
    from qcompiler.data import ImageOptions

    return ImageOptions(**values)


def check_outputs(outputs: Iterable[str | None], inputs: Iterable[str | Path | None]) -> None:
    """Raises OutputError when a result could not be written in the end, or would destroy what it is made from."""
    read = [path for path in (Path(given) for given in inputs if given) if path.exists()]
    seen: list[Path] = []
    for name in filter(None, outputs):
        path = Path(name)
        if path.exists():
            if not path.is_file():
                raise OutputError("is not a regular file", where=name, fix="name a file to write")
            if any(path.samefile(other) for other in read):
                raise OutputError("would overwrite what it is made from", where=name, fix="choose another output path")
        if path.absolute() in seen:
            raise OutputError("is asked for twice", where=name, fix="give each result a path of its own")
        seen.append(path.absolute())
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise OutputError(
                "cannot be written", where=name, why=error.strerror or str(error), fix="choose another place"
            ) from None


def console(*, error: bool = False) -> Console:
    """Where results go (standard output) or progress and remarks do. Plain and wide enough when nobody looks."""
    from rich.console import Console

    made = Console(stderr=error, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made.width = 160
    return made
