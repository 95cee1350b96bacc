"""What this process uses, and what it gives back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from qcompiler.memory import current_bytes, give_back

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)

KEEPING_LITTLE = """
import numpy as np
from qcompiler.memory import current_bytes, keep_little
keep_little()
before = current_bytes()
for _ in range(3):  # left to itself, the C library takes the first for what will be asked for again
    arrays = [np.ones(100_000) for _ in range(100)]
    last = arrays[-1]
    del arrays
print((current_bytes() - before) / last.nbytes)
"""


def test_what_was_freed_goes_back_to_the_system() -> None:
    arrays = [np.ones(1000) for _ in range(20_000)]
    last = arrays[-1]  # what is freed before it is not at the end of the heap
    del arrays
    before = current_bytes()
    give_back()
    assert current_bytes() < before - 100e6
    assert last.sum() == 1000


def test_what_is_freed_goes_back_at_once_where_that_is_asked_for() -> None:
    command = [sys.executable, "-c", KEEPING_LITTLE]
    kept = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kept < 10, "of 100 arrays one is in use"
