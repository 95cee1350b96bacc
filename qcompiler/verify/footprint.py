"""How much memory a model needs: measured in a process of its own, where nothing else counts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qcompiler.errors import VerificationError
from qcompiler.memory import current_bytes, peak_bytes
from qcompiler.runtime import Feed, run, session


def measured(model: str | os.PathLike[str], feeds: Sequence[Feed], threads: int = 1) -> int:
    """Bytes that loading the model and running it over the feeds takes at its peak, beyond an idle process; 0 where
    the system does not tell."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        for index, feed in enumerate(feeds):
            np.savez(Path(folder) / f"{index:06}.npz", allow_pickle=False, **feed)
        command = [sys.executable, "-m", "qcompiler.verify.footprint", str(model), folder, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise VerificationError("its memory cannot be measured", where=str(model), why=lines[-1])
    return int(done.stdout.split()[-1])


def _main(model: str, folder: str, threads: str) -> None:
    before = current_bytes()
    with session(model, threads=int(threads)) as loaded:
        for path in sorted(Path(folder).iterdir()):
            with np.load(path) as arrays:
                run(loaded, dict(arrays))
    print(max(0, peak_bytes() - before) if before else 0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
