"""sensitivity: a table, a file and a picture of what each site does and costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.programs import invoke, snapshot

ASKED = ("sensitivity", "conv.onnx", "--data", "conv.npz")


def test_a_table_a_file_and_a_picture(folder: Path) -> None:
    done = invoke(*ASKED, "-o", "sens.json", "--plot", "sens.png", "--samples", 4)
    assert done.code == 0, done.err
    found = json.loads((folder / "sens.json").read_text())
    assert {site["node"] for site in found["sites"]} == {"conv1", "conv2"}
    assert "conv1" in done.out and " ns" in done.out and "runs of the float model" in done.out
    assert (folder / "sens.png").read_bytes().startswith(b"\x89PNG")


def test_without_timing_no_time_is_told(folder: Path) -> None:
    done = invoke(*ASKED, "--no-timing", "--verbose", "--samples", 2)
    assert done.code == 0 and " ns" not in done.out and "activation" in done.out and "weight" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sensitivity", "conv.onnx"), 2, ("--data",)),
        ((*ASKED, "--precision", "int8-dynamic"), 1, ("int8-dynamic", "--target ort-cpu")),
        ((*ASKED, "--target", "tensorrt"), 1, ("tensorrt", "--target ort-cpu")),
        ((*ASKED, "--plot", "sens.txt"), 1, ("sens.txt", "no kind of picture")),
        ((*ASKED, "-o", "conv.onnx"), 1, ("would overwrite",)),
        ((*ASKED, "--samples", "0"), 2, ("samples",)),
    ],
)
def test_what_cannot_be_done(folder: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    before = snapshot(folder)
    invoke(*arguments).fails(code, *words)
    assert snapshot(folder) == before
