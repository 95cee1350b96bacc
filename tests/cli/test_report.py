"""compile --report, and report: from a model to its page."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from cli.programs import invoke, snapshot

from qcompiler.errors import VerificationError

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def report(folder: Path) -> Path:
    done = invoke(
        "compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing", "--quiet", "--report", "r.json"
    )
    assert done.code == 0, done.err
    return folder / "r.json"


def test_compile_tells_what_only_the_page_shows(report: Path) -> None:
    data = json.loads(report.read_text())
    assert data["format"] == "qcompiler-report/1"
    assert data["depth"] and data["depth"][-1]["tensor"] == "y" and data["depth"][-1]["position"] == 1.0
    assert data["depth"][-1]["sqnr"] == pytest.approx(data["outputs"][0]["sqnr"], abs=6.0)
    worst = data["histograms"]
    assert worst and all(one["clip_low"] < one["clip_high"] and sum(one["counts"]) for one in worst)
    assert [one["sqnr"] for one in worst] == sorted(one["sqnr"] for one in worst)
    assert "describe" in [stage["name"] for stage in data["stages"]]
    assert data["memory"] is None  # nothing is measured with --no-timing


@pytest.mark.parametrize(
    "model, precision, tensors, histograms",
    [
        ("matmul", "int8-dynamic", ["m1", "y"], 0),  # no tensor has a range, no code a scale of its own
        ("if", "int8", ["y"], 1),  # what is in a branch is not looked at
        ("matmul", "float", [], 0),
    ],
)
def test_whatever_the_precision(
    folder: Path, model: str, precision: str, tensors: list[str], histograms: int
) -> None:
    done = invoke(
        "compile", f"{model}.onnx", "-o", "out.onnx", "--data", f"{model}.npz", "--precision", precision, "--no-timing",
        "--quiet", "--report", "r.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    data = json.loads(Path("r.json").read_text())
    assert [one["tensor"] for one in data["depth"]] == tensors and len(data["histograms"]) == histograms
    assert data["warnings"] == []


def test_where_inner_tensors_cannot_be_had_the_report_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> None:
        raise VerificationError("ONNX Runtime cannot load the model", where="small")

    monkeypatch.setattr("qcompiler.outcome.by_depth", refused)
    done = invoke(
        "compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing", "--quiet", "--report", "r.json"
    )
    assert done.code == 0, done.err
    data = json.loads(Path("r.json").read_text())
    assert data["depth"] == [] and data["histograms"]
    assert data["warnings"] == ["the error by depth is not known: small: ONNX Runtime cannot load the model"]


def test_details_cost_nothing_where_no_report_is_asked_for(folder: Path) -> None:
    done = invoke("compile", "conv.onnx", "-o", "out.onnx", "--data", "conv.npz", "--no-timing")
    assert done.code == 0 and "describe" not in done.out


def test_memory_is_measured_beside_speed(folder: Path) -> None:
    done = invoke("compile", "matmul.onnx", "-o", "out.onnx", "--precision", "float", "--report", "r.json", "--quiet")
    assert done.code == 0, done.err
    memory = json.loads(Path("r.json").read_text())["memory"]
    assert memory is None or 0 < memory["source_bytes"] < 500_000_000  # None where the system does not tell


def test_report_makes_a_page(report: Path) -> None:
    done = invoke("report", "r.json", "-o", "r.html", "--price-per-hour", "0.04")
    assert done.code == 0 and done.out == "wrote r.html\n" and done.err == ""
    text = Path("r.html").read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>") and "conv.onnx" in text and "Error by depth" in text
    assert invoke("report", "r.json", "-o", "r.html", "--quiet").out == ""


def test_compile_writes_the_page_itself(folder: Path) -> None:
    done = invoke(
        "compile", "matmul.onnx", "-o", "out.onnx", "--data", "matmul.npz", "--no-timing", "--report", "page.html"
    )
    assert done.code == 0, done.err
    assert Path("page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_names_of_a_hostile_model_stay_text(folder: Path) -> None:
    model = onnx.load("matmul.onnx")
    model.graph.name = SCRIPT
    for node in model.graph.node:
        node.name = f"{SCRIPT}{node.name}"
        node.output[0] = node.output[0] if node.output[0] == "y" else f"{SCRIPT}{node.output[0]}"
        for index, name in enumerate(node.input):
            if name in ("m1", "r"):
                node.input[index] = SCRIPT + name
    onnx.save(model, f"{SCRIPT.replace('/', '')}.onnx")
    done = invoke(
        "compile", f"{SCRIPT.replace('/', '')}.onnx", "-o", "out.onnx", "--data", "matmul.npz", "--no-timing",
        "--report", "page.html", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    text = Path("page.html").read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;first" in text and "<script>alert" not in text


def test_half_a_surrogate_pair_is_written(report: Path) -> None:
    data = json.loads(report.read_text())
    data["model"] = "\ud800"
    report.write_text(json.dumps(data))
    assert invoke("report", "r.json", "-o", "r.html").code == 0 and Path("r.html").read_text("utf-8")


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (("r.json",), 2, ("report: ", "-o FILE.html")),
        (("gone.json", "-o", "r.html"), 1, ("gone.json: no such file",)),
        (("conv.onnx", "-o", "r.html"), 1, ("conv.onnx: is not JSON",)),
        (("r.json", "-o", "r.json"), 1, ("r.json: is no HTML page", "FILE.html")),
        (("r.json", "-o", "gone/r.html"), 1, ("gone/r.html: cannot be written",)),
        (("r.json", "-o", "r.html", "--price-per-hour", "nan"), 2, ("'nan' is not a price",)),
        (("r.json", "-o", "r.html", "--price-per-hour", "-1"), 2, ("'-1' is not a price",)),
    ],
)
def test_bad_input(report: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    before = snapshot(report.parent)
    invoke("report", *arguments).fails(code, *words)
    assert snapshot(report.parent) == before


def test_a_page_does_not_overwrite_its_report(report: Path) -> None:
    report.rename("r.html")
    invoke("report", "r.html", "-o", "r.html").fails(1, "would overwrite what it is made from")
