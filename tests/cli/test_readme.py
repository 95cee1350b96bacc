"""What README and docs show works: the pass as pasted, and every option that a command is shown with."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from cli.programs import invoke
from onnx import numpy_helper, parser

from qcompiler import registry
from qcompiler.cli import cli
from qcompiler.plan import Plan
from qcompiler.target_files import load_target

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/plan.md", "docs/report.md", "docs/accuracy.md", "docs/int4.md")


def block(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert found is not None
    return found[1]


def test_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.chdir(tmp_path)
    Path("my_pass.py").write_text(block("README.md", "python"))
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { a = Div(x, c) y = Div(a, d) }'
    model = parser.parse_model(text)
    for name, value in (("c", 4.0), ("d", 1e-9)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    onnx.save(model, "model.onnx")
    done = invoke(
        "compile", "model.onnx", "-o", "out.onnx", "--precision", "float", "--no-timing", "--report", "r.json",
        "--load", "my_pass.py", "--passes", "+multiply-instead@fold-constants", "--verify", "numeric",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [node.op_type for node in onnx.load("out.onnx").graph.node] == ["Mul", "Div"]
    remarks = json.loads(Path("r.json").read_text())["diagnostics"]
    assert any("multiply-instead" in remark and "too small" in remark for remark in remarks)
    shown = invoke("passes", "multiply-instead", "--load", "my_pass.py")
    assert "smallest: float = 1e-06" in shown.out and "algebraic" in shown.out


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_exists(page: str) -> None:
    lines = re.findall(r"^    (qcompiler .*)$", (ROOT / page).read_text(), re.M)
    for line in lines:
        words = shlex.split(line.replace("…", "model.onnx"), comments=True)[1:]
        command = cli.commands[words[0]]
        known = {option for param in command.params if isinstance(param, click.Option) for option in param.opts}
        unknown = [word for word in words[1:] if word.startswith("-") and word not in known]
        assert not unknown, line


def test_the_plan() -> None:
    plan = Plan.from_json(block("docs/plan.md", "json"))
    assert len(plan.sites) == 3 and plan.intended == {"conv1"} and Plan.from_json(plan.to_json()) == plan


def test_the_target(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(block("docs/targets.md", "toml"))
    target = load_target(str(tmp_path / "mine.toml"), "small")
    assert target.name == "mine" and target.weight.paired and len(target.operators) == 2
    for names in target.pipeline.values():
        assert all(registry.parse(name) for name in names)
