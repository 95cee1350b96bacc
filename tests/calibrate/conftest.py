"""What the tests of calibration share."""

from __future__ import annotations

import pytest

from qcompiler import native


@pytest.fixture(params=["native", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test both ways."""
    if request.param == "native" and not native.available():
        pytest.skip("installed without the native library")
    if request.param == "numpy":
        monkeypatch.setattr(native, "available", lambda: False)
    return request.param
