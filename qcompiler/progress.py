"""How far long work has come, shown on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(stage, done, total)``; ``total`` is None while unknown."""


@contextmanager
def bar(console: Any, *, quiet: bool = False) -> Iterator[Progress | None]:
    """A progress callback that draws on a rich console while the block lasts; None when there is nobody to see it."""
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    said, counted = TextColumn("{task.description}"), TextColumn("{task.fields[counted]}")
    columns = (SpinnerColumn(), said, BarColumn(), counted, TimeElapsedColumn())
    with Display(*columns, console=console, transient=True) as display:
        shown = ""
        current = display.add_task("", total=None, counted="")

        def progress(stage: str, done: int, total: int | None) -> None:
            nonlocal shown
            if stage != shown:
                display.reset(current, description=stage, total=total)
                shown = stage
            counted = f"{done}/{total}" if total else str(done or "")
            display.update(current, completed=done, total=total, counted=counted)

        yield progress
