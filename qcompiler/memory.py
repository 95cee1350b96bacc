"""How much memory this process uses, and giving back what it no longer does."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def peak_bytes() -> int:
    """The largest resident size so far, in bytes; 0 where the system does not tell."""
    # Linux hands ru_maxrss on to children, so a small process of a large parent would look as large.
    if found := _status("VmHWM"):
        return found
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def current_bytes() -> int:
    """The resident size now; what it has been at most where the system tells only that."""
    return _status("VmRSS") or peak_bytes()


def available_bytes() -> int:
    """How much memory is left for this process, caches of files that may be given up included, and no more than its own
    limit (``ulimit -d``) leaves; 0 where the system does not tell."""
    available = _status("MemAvailable", "/proc/meminfo")
    try:
        import resource
    except ImportError:  # not on Windows
        return available
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY or not available:
        return available
    return max(1, min(available, limit - _status("VmData")))


KEPT_BYTES = 131072


def keep_little() -> None:
    """From now on what is freed goes back to the system at once where it is ``KEPT_BYTES`` or more (glibc). By itself
    the C library keeps more and more: pieces of what is gone lie between what is still used. It costs time where arrays
    come and go, so it is for work that is to stay small."""
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(option, KEPT_BYTES)


def give_back() -> None:
    """Returns what was freed to the system, where the C library has a call for it (glibc). Left to itself it keeps most
    of that: what the next stage needs then comes on top."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)  # musl has none of these


def _status(field: str, place: str = "/proc/self/status") -> int:
    try:
        with open(place) as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
