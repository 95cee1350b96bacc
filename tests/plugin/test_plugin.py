"""A real package, installed by pip, whose pass is found, shown and run like the built-in ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import parser


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that has the package."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(Path(__file__).with_name("package"), work / "source")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", work / "installed"]
    subprocess.run([*command, work / "source"], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(work / "installed")}


def qcompiler(environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, "-m", "qcompiler", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_found_and_shown(environment: dict[str, str]) -> None:
    listed = qcompiler(environment, "passes")
    assert "negate-twice" in listed and "Two negations in a row are none." in listed and "fold-constants" in listed
    shown = qcompiler(environment, "passes", "negate-twice")
    assert "negate-twice (exact), negate_twice.NegateTwice" in shown and "most: int = 100" in shown


def test_run(environment: dict[str, str], tmp_path: Path) -> None:
    body = "g (float[2] x) => (float[2] y) { a = Neg(x) b = Neg(a) y = Relu(b) }"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {body}')
    onnx.save(model, tmp_path / "model.onnx")
    common = ("compile", tmp_path / "model.onnx", "--precision", "float", "--verify", "numeric", "--no-timing")
    operators = {}
    for name, change in (("with", "+negate-twice@fold-constants"), ("without", "+negate-twice{most=0}")):
        qcompiler(environment, *common, "-o", tmp_path / f"{name}.onnx", "--passes", change)
        operators[name] = [node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
    assert operators == {"with": ["Relu"], "without": ["Neg", "Neg", "Relu"]}


def test_a_package_that_cannot_be_imported(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(environment["PYTHONPATH"], tmp_path / "broken")
    (tmp_path / "broken" / "negate_twice.py").write_text("import nothing_of_that_name\n")
    broken = {**environment, "PYTHONPATH": str(tmp_path / "broken")}
    done = subprocess.run([sys.executable, "-m", "qcompiler", "passes"], env=broken, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the pass 'negate-twice' cannot be imported" in done.stderr and "uninstall the package" in done.stderr
