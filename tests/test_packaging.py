"""What an installation consists of: every pass registered, the package's data, no sources, and a clean import."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def registered_passes() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["entry-points"].get("qcompiler.passes", {})


def pass_classes() -> dict[str, str]:
    """Every class of passes/ that has a name of its own: "module:Class" to the name."""
    found = {}
    for path in sorted((ROOT / "passes").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            if name := _name_of(node):
                found[f"qcompiler.passes.{path.stem}:{node.name}"] = name
    return found


def _name_of(pass_class: ast.ClassDef) -> str:
    for item in pass_class.body:
        target = item.target if isinstance(item, ast.AnnAssign) else None
        if isinstance(item, ast.Assign):
            (target,) = item.targets
        if isinstance(target, ast.Name) and target.id == "name" and isinstance(item.value, ast.Constant):
            return str(item.value.value)
    return ""


def test_every_pass_is_registered_under_its_own_name() -> None:
    assert {reference: name for name, reference in registered_passes().items()} == pass_classes()


def test_the_installation_knows_the_passes_of_the_project_file() -> None:
    installed = importlib.metadata.distribution("qcompiler-onnx").entry_points.select(group="qcompiler.passes")
    assert {entry.name: entry.value for entry in installed} == registered_passes(), "reinstall: make dev"


def test_passes_cannot_be_imported_a_second_time_by_their_folder() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import passes"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "the passes are imported as qcompiler.passes, not as passes" in ran.stderr


@pytest.mark.slow
@pytest.mark.fetched
def test_a_wheel_holds_passes_and_data_and_the_library_but_no_sources(tmp_path: Path) -> None:
    # A copy: building in the source tree would replace what an editable installation uses.
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = listed.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "source"]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    for folder, place in (("qcompiler", "qcompiler"), ("passes", "qcompiler/passes")):
        expected = {
            f"{place}/{Path(name).relative_to(folder)}"
            for name in tracked
            if name.startswith(f"{folder}/") and name.endswith((".py", ".toml", ".html", ".css", ".js"))
        }
        assert expected <= set(names)
    assert "qcompiler/native/libqcompiler_ops.so" in names
    assert not [name for name in names if name.endswith((".cpp", ".h", "CMakeLists.txt"))]
    assert not [name for name in names if name.startswith(("passes/", "tests/"))]
    assert "-py3-none-" in wheel.name
