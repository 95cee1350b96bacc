"""Runs a command under a limit of time and of memory, and says what it took.

`attempt` does so from a small process of its own: on Linux a process counts the memory that its parent had when it
was started towards its own peak, and the parent of a comparison holds models and samples.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Attempt:
    """What became of one command that is to write a file."""

    seconds: float
    peak_megabytes: float
    error: str | None
    notes: str


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def attempt(command: Sequence[str | Path], out: Path, timeout: float, memory_limit: float) -> Attempt:
    """Run `command`, which is to write `out`, for at most `timeout` seconds and with at most `memory_limit` GB.

    It is started in the folder of `out`, so it must name its other files by absolute paths."""
    with tempfile.TemporaryFile("w+") as log:
        wanted = [sys.executable, "-S", __file__, str(timeout), str(memory_limit), *map(str, command)]
        # Some tools leave files of their own where they are started.
        watched = subprocess.run(wanted, stdout=subprocess.PIPE, stderr=log, text=True, check=True, cwd=out.parent)
        log.seek(0)
        text = log.read()
    found: dict[str, Any] = json.loads(watched.stdout)
    error = found["stopped"]
    if not error and found["code"] < 0:
        error = f"killed by signal {-found['code']}"
    elif not error and (found["code"] or not out.exists()):
        error = f"exit code {found['code']}: {last_line(text)}"
    notes = "; ".join(line[6:] for line in text.splitlines() if line.startswith("note: "))
    return Attempt(found["seconds"], found["megabytes"], error or None, notes)


def watch(timeout: float, memory_limit: float, command: list[str]) -> dict[str, Any]:
    """Run the command with its output on the standard error stream."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    finished = threading.Event()
    stopped = ""

    def stop_in_time() -> None:
        nonlocal stopped
        while not finished.wait(0.2):
            if time.monotonic() - start > timeout:
                stopped = f"stopped after {timeout:g} s"
            elif resident(process.pid) > memory_limit * 1e9:
                stopped = f"stopped at {memory_limit:g} GB of memory"
            if stopped:
                os.kill(process.pid, signal.SIGKILL)  # process.kill() would take the usage away from wait4
                return

    watcher = threading.Thread(target=stop_in_time, daemon=True)
    watcher.start()
    # getrusage(RUSAGE_CHILDREN) would do as well here; wait4 says plainly whose usage it is.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    finished.set()
    watcher.join()
    return {
        "code": process.returncode,
        "stopped": stopped,
        "seconds": time.monotonic() - start,
        "megabytes": usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2),
    }


def resident(process: int) -> float:
    """Bytes of memory in use; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0


if __name__ == "__main__":
    print(json.dumps(watch(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])))
