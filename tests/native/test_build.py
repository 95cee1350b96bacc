"""The C++ part builds without warnings, passes its own tests under sanitizers, and may be absent."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NATIVE = ROOT / "qcompiler" / "native"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@needs_cmake
@needs_compiler
def test_unit_tests_hold_under_sanitizers() -> None:
    build = ROOT / "build" / "native-tests"  # kept: the next run has nothing to compile
    run(
        "cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DQCOMPILER_NATIVE_TESTS=ON",
        "-DQCOMPILER_SANITIZE=ON", "-DQCOMPILER_WARNINGS_AS_ERRORS=ON",
    )
    run("cmake", "--build", build)
    printed = run("ctest", "--test-dir", build, "--verbose")
    assert printed.count("all hold") == 5
    assert printed.count("instruction set scalar") == 5


@needs_cmake
@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64-static") is None,
    reason="no compiler or no emulator for 64-bit ARM",
)
def test_unit_tests_hold_on_arm() -> None:
    build = ROOT / "build" / "native-tests-aarch64"
    run(
        "cmake", "-S", ROOT, "-B", build, f"-DCMAKE_TOOLCHAIN_FILE={HERE / 'aarch64.cmake'}",
        "-DCMAKE_BUILD_TYPE=Release", "-DQCOMPILER_NATIVE_TESTS=ON", "-DQCOMPILER_WARNINGS_AS_ERRORS=ON",
    )
    run("cmake", "--build", build)
    printed = run("ctest", "--test-dir", build, "--verbose")
    assert printed.count("all hold") == 5
    assert "instruction set neoni8mm" in printed and "instruction set neondot" in printed


@needs_cmake
def test_without_a_compiler_the_library_is_left_out_and_says_so(tmp_path: Path) -> None:
    # A machine whose only programs are cmake and a build tool.
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cmake", "make", "ninja", "sh", "uname"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    env = {"PATH": str(tools), "HOME": os.environ.get("HOME", "/")}
    printed = run("cmake", "-S", ROOT, "-B", tmp_path / "build", env=env)
    assert "no C++ compiler found, so its custom-operator library is left out" in " ".join(printed.split())
    run("cmake", "--build", tmp_path / "build", env=env)
    run("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "installed", env=env)
    assert not list(tmp_path.rglob("libqcompiler_ops*"))


X86_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avxvnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx512vnni": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"],
    "amx": [
        "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16",
        "-mamx-tile", "-mamx-int8", "-mamx-bf16",
    ],
    "avx512vbmi": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vbmi"],
}
ARM_FLAGS = {"neon": [], "neondot": ["-march=armv8.2-a+dotprod"], "neoni8mm": ["-march=armv8.2-a+dotprod+i8mm"]}
ON_ARM = platform.machine() in ("aarch64", "arm64")


def names_defined_by(compiler: str, source: Path, flags: list[str], folder: Path) -> list[str]:
    run(compiler, "-std=c++17", "-O2", *flags, "-c", source, "-o", folder / "object.o")
    symbols = run("nm", "--defined-only", "--extern-only", folder / "object.o").split("\n")
    return [line.split()[-1] for line in symbols if line]


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "isa"),
    [
        *[("observe", isa) for isa in ("scalar", "avx2", "avx512vnni", "neon")],
        *[
            (kernel, isa)
            for kernel in ("int4", "int8")
            for isa in ("scalar", *(("neon", "neondot") if ON_ARM else ("avx2", "avxvnni", "avx512vnni", "amx")))
        ],
        *([("int4", "neoni8mm")] if ON_ARM else []),
        *[
            ("depthwise", isa)
            for isa in ("scalar", *(("neon", "neondot") if ON_ARM else ("avx2", "avxvnni", "avx512vnni")))
        ],
        *[("lookup", isa) for isa in ("scalar", *(("neon",) if ON_ARM else ("avx2", "avx512vbmi")))],
    ],
)
def test_instruction_set_files_define_nothing_but_their_kernel(kernel: str, isa: str, tmp_path: Path) -> None:
    # Anything else could be shared by the linker with code that must run on every processor.
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    flags = {**X86_FLAGS, **ARM_FLAGS}.get(isa, []) if kernel != "observe" else []
    names = names_defined_by(str(COMPILER), NATIVE / f"{kernel}_{isa}.cpp", flags, tmp_path)
    assert len(names) == 1
    assert f"{kernel}_{isa}" in names[0]
