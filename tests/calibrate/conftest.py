"""What the tests of calibration share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qcompiler import native

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]


@pytest.fixture(params=["native", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test both ways."""
    if request.param == "native" and not native.available():
        pytest.skip("installed without the native library")
    if request.param == "numpy":
        monkeypatch.setattr(native, "available", lambda: False)
    return request.param
