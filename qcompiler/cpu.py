"""Which kind of CPU this machine has."""

from __future__ import annotations

import platform
from pathlib import Path


def detect_cpu() -> str:
    """``vnni``, ``avx2`` or ``arm``: the kind of the machine this runs on."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64") or machine.startswith("arm"):
        return "arm"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "avx2"  # the safe choice on x86: nothing saturates
    return "vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"


__all__ = ["detect_cpu"]
