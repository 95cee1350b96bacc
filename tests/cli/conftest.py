"""A folder with models, samples and an output of an earlier time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli import programs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    onnx.save(programs.convolutions(), tmp_path / "conv.onnx")
    onnx.save(programs.matrices(), tmp_path / "matmul.onnx")
    onnx.save(programs.branches(), tmp_path / "if.onnx")
    np.savez(tmp_path / "conv.npz", x=programs.samples((12, 3, 16, 16)))
    np.savez(tmp_path / "matmul.npz", x=programs.samples((12, 16)))
    np.savez(tmp_path / "if.npz", x=programs.samples((6, 1, 16)), flag=np.array([True, False] * 3))
    (tmp_path / "old.onnx").write_bytes(b"made earlier")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
