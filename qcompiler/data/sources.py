"""Samples for a model: from files, folders, the user's own code or memory to feeds that are known to fit.

A feed is ``{input name: array}``. What a source holds is turned into feeds in one of two ways:

* **arrays** (an ``.npz`` file, a dict of arrays). An array with one more axis than the model's input is a stack of
  feeds. Otherwise axis 0 is the batch axis: as many rows at a time as the model fixes or, where it leaves that free,
  ``batch_size`` (1 when not given). An array that makes exactly one feed goes with every feed of the others.
* **whole feeds** (a folder of ``.npz``, a function, a list), taken as they are; shapes may differ.

Nothing is read before it is needed, and no more of it than one feed at a time, whatever the source holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path

import numpy as np

from qcompiler import ir
from qcompiler.data.arrays import Array, npz_arrays, open_arrays, reading_npz
from qcompiler.data.functions import guarded, user_function
from qcompiler.data.images import ImageOptions, open_images
from qcompiler.data.samples import Feed, Samples
from qcompiler.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def open_samples(
    source: object,
    inputs: Sequence[ir.Variable],
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    image_options: ImageOptions | None = None,
) -> Samples:
    """The samples that ``source`` holds for a model with these ``inputs`` (``graph.inputs``).

    ``source``: the path of an ``.npz`` file, of a folder of ``.npz`` files or of images, ``file.py:function``; or a
    dict of arrays, a list or other iterable of feeds, or a function that returns one. A function is called anew for
    each iteration. An iterator can be read only once, so its first ``limit`` feeds are kept in memory: prefer a
    function. ``limit`` counts feeds; ``batch_size`` is for arrays and images, whose feeds are made here.

    Raises:
        DataError: the source is missing, damaged, or holds something else than the model wants.
        DependencyError: images without pillow.
    """
    inputs = tuple(inputs)
    if batch_size is not None and batch_size < 1:
        raise DataError(f"a batch size of {batch_size} is not possible", fix="give 1 or more")
    if isinstance(source, Samples):
        source = source._feeds
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        script, colon, function = text.rpartition(":")
        if colon and script.endswith(".py"):
            _refuse_batch_size(batch_size, text)
            return Samples(inputs, user_function(Path(script), function), where=text, limit=limit)
        path = Path(source)
        if path.is_dir():
            return _open_folder(path, inputs, batch_size, limit, image_options)
        if path.suffix == ".npz":
            return open_arrays(npz_arrays(path), inputs, batch_size, limit, text)
        if path.suffix == ".py":
            raise DataError("names no function", where=text, fix=f"say which one makes the feeds: {text}:NAME")
        raise DataError(
            "is no source of samples" if path.exists() else "no such file",
            where=text,
            fix="give an .npz file, a folder of .npz files or images, or file.py:function",
        )
    if isinstance(source, Mapping):
        arrays = {str(name): Array.of(value) for name, value in source.items()}
        return open_arrays(arrays, inputs, batch_size, limit, "the given arrays")
    _refuse_batch_size(batch_size, "the given samples")
    if callable(source):
        name = getattr(source, "__name__", type(source).__name__)
        return Samples(inputs, guarded(source, f"function '{name}'"), where=f"function '{name}'", limit=limit)
    if isinstance(source, Iterable):
        where = "the given samples"
        if iter(source) is source:
            source = list(islice(source, limit))
        count = len(source) if isinstance(source, Sized) else None
        return Samples(inputs, guarded(lambda: source, where), where=where, count=count, limit=limit)
    raise DataError(
        f"cannot read samples from {type(source).__name__}",
        fix="give a path, a dict of arrays, an iterable of feeds or a function that returns one",
    )


def _open_folder(
    path: Path, inputs: Sequence[ir.Variable], batch_size: int | None, limit: int | None, options: ImageOptions | None
) -> Samples:
    where = str(path)
    files = sorted((f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")), key=_natural)
    arrays = [f for f in files if f.suffix.lower() == ".npz"]
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise DataError("holds .npz files and images", where=where, fix="keep one kind, or move it to its own folder")
    if arrays:
        _refuse_batch_size(batch_size, where)

        def at(index: int) -> Feed:
            return _npz_feed(arrays[index])

        return Samples(
            inputs, lambda: map(at, range(len(arrays))), where=where, count=len(arrays), limit=limit, at=at
        )
    if images:
        return open_images(images, inputs, batch_size, limit, options or ImageOptions(), where)
    raise DataError("holds neither .npz files nor images", where=where, why=f"it has {len(files)} files")


def _npz_feed(path: Path) -> Feed:
    with reading_npz(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _refuse_batch_size(batch_size: int | None, where: str) -> None:
    if batch_size is not None:
        raise DataError("a batch size cannot be chosen", where=where, why="these samples are whole feeds already")
