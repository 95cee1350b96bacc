"""abi.h, written from the documentation, agrees with ONNX Runtime's own header, fetched from a published package."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "qcompiler" / "native"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
HEADERS = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/"

pytestmark = [
    pytest.mark.fetched,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm to fetch the header with"),
]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnxruntime")
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as package:
        for member in package:
            if member.isfile() and member.name.startswith(HEADERS):
                content = package.extractfile(member)
                assert content is not None
                (folder / Path(member.name).name).write_bytes(content.read())
    archive.unlink()
    return folder


def compile_test(ours: Path, official: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMPILER), "-std=c++17", "-fsyntax-only", f"-I{official}", f"-I{ours}", HERE / "abi_test.cpp"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_abi_agrees_with_the_official_header(official: Path) -> None:
    compiled = compile_test(NATIVE, official)
    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("slots_29_to_51[22]", "slots_29_to_51[23]", "GetTensorMutableData"),
        ("std::size_t index,\n                                                      const Value** out",
         "const Value** out", "KernelContext_GetInput is called otherwise"),
        ("  void*(QCOMPILER_ORT_CALL* CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);\n", "", "GetName"),
        ("kFloat16 = 10", "kFloat16 = 11", "static assertion failed"),
    ],
)
def test_a_wrong_abi_would_be_noticed(
    right: str, wrong: str, complaint: str, official: Path, tmp_path: Path
) -> None:
    text = (NATIVE / "abi.h").read_text()
    assert text.count(right) == 1
    (tmp_path / "abi.h").write_text(text.replace(right, wrong))
    compiled = compile_test(tmp_path, official)
    assert compiled.returncode != 0
    assert complaint in compiled.stderr
