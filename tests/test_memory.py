"""What this process uses, and what it gives back."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

from qcompiler.memory import current_bytes, give_back


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_was_freed_goes_back_to_the_system() -> None:
    arrays = [np.ones(1000) for _ in range(20_000)]
    last = arrays[-1]  # what is freed before it is not at the end of the heap
    del arrays
    before = current_bytes()
    give_back()
    assert current_bytes() < before - 100e6
    assert last.sum() == 1000
