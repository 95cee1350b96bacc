"""How much memory this process has used."""

from __future__ import annotations

import sys


def peak_bytes() -> int:
    """The largest resident size so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
