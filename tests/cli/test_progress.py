"""Progress is drawn on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.programs import run
from rich.console import Console

from qcompiler.progress import bar


@pytest.fixture(autouse=True)
def able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_terminal() -> None:
    stream = io.StringIO()
    with bar(Console(file=stream, force_terminal=True, width=100)) as progress:
        assert progress is not None
        progress("load", 0, None)
        for done in range(4):
            progress("calibrate", done, 3)
        progress("verify", 7, None)
    assert "verify" in stream.getvalue()


@pytest.mark.parametrize("terminal, quiet", [(False, False), (True, True)])
def test_nobody_to_see_it(terminal: bool, quiet: bool) -> None:
    stream = io.StringIO()
    with bar(Console(file=stream, force_terminal=terminal), quiet=quiet) as progress:
        assert progress is None
    assert stream.getvalue() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_command_on_a_terminal(folder: Path) -> None:
    import pty

    arguments = ("compile", "matmul.onnx", "-o", "out.onnx", "--data", "matmul.npz", "--no-timing")
    for quiet in ((), ("--quiet",)):
        ours, theirs = pty.openpty()
        try:
            command = [sys.executable, "-m", "qcompiler", *arguments, *quiet]
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=theirs)
            os.close(theirs)
            drawn = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                drawn += part
            assert process.wait() == 0
        finally:
            os.close(ours)
        assert (b"calibrate" in drawn) is not bool(quiet), drawn
    assert run(*arguments, cwd=folder).err == ""
