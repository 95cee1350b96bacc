"""Finding and registering the native library, and what the user is told when that fails."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from qcompiler import native
from qcompiler.errors import DependencyError

needs_library = pytest.mark.skipif(not native.available(), reason="installed without the native library")


@needs_library
def test_the_library_is_installed_beside_its_module() -> None:
    assert native.library_path().is_file()
    assert native.library_path().parent.name == "native"


@needs_library
def test_forced_instruction_set_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_ISA", "scalar")
    native.register_custom_ops(ort.SessionOptions())
    assert native.isa() == "scalar"
    monkeypatch.setenv("QCOMPILER_ISA", "auto")
    native.register_custom_ops(ort.SessionOptions())
    assert native.isa() in native.ISAS


@needs_library
def test_unknown_instruction_set_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_ISA", "mmx")
    with pytest.raises(DependencyError) as caught:
        native.register_custom_ops(ort.SessionOptions())
    message = str(caught.value)
    assert "the native library cannot be used" in message
    assert "QCOMPILER_ISA=mmx: unknown; use auto, amx, avx512vnni, avxvnni, avx2, neoni8mm, neondot, " in message
    assert "\n" not in message


def test_an_installation_without_the_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    assert not native.available()
    with pytest.raises(DependencyError) as caught:
        native.register_custom_ops(ort.SessionOptions())
    message = str(caught.value)
    assert "the native library is missing (qcompiler was installed without a C++ compiler)" in message
    assert message.endswith("; install g++ or clang++ and then qcompiler again")
