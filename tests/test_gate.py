"""The gate: what is worse than a baseline, by how much, and what is not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from report.reports import full

from qcompiler.errors import ReportError, VerificationError
from qcompiler.gate import VERIFIED, Baseline, Judged, Tolerance, check_baseline, check_metric, load_baseline
from qcompiler.metrics import Drop, Metric
from qcompiler.verify.numbers import OutputError

TOLERANCE = Tolerance(0.1, 0.05, Drop.parse("0.1%"))


def saved(folder: Path, **changes: Any) -> Path:
    outputs = [{"name": "y", "sqnr": 30.0, "cosine": 1.0}, {"name": "z", "sqnr": 20.0}]
    data = {"format": VERIFIED, "outputs": outputs, "speed": {"speedup": 2.0, "rounds": 9},
            "metric": {"name": "top-1", "source": 0.9, "compiled": 0.8}} | changes  # fmt: skip
    path = folder / "last.json"
    path.write_text(json.dumps(data))
    return path


def errors(**sqnr: float) -> dict[str, OutputError]:
    return {name: OutputError(name, value, 1.0, None, 0.0) for name, value in sqnr.items()}


def judged(source: float, compiled: float, *, lower_is_better: bool = False) -> Judged:
    return Judged(Metric("top-1", lower_is_better, lambda model: 0.0), source, compiled)


def gate(baseline: Baseline, speedup: float = 2.0, metric: Judged | None = None, **sqnr: float) -> None:
    check_baseline(baseline, errors(**({"y": 30.0, "z": 20.0} | sqnr)), speedup, metric, TOLERANCE, "new.onnx")


def test_as_good_or_within_tolerance(tmp_path: Path) -> None:
    baseline = load_baseline(saved(tmp_path))
    for speedup, y, z, metric in ((2.0, 30.0, 20.0, 0.8), (1.91, 29.91, 19.95, 0.7993), (9.9, 99.0, 50.0, 0.9)):
        gate(baseline, speedup, judged(0.9, metric), y=y, z=z)
    assert (baseline.speed, baseline.metric) != (None, None)


@pytest.mark.parametrize(
    "now, words",
    [
        ({"y": 28.5}, ("output 'y' has 28.50 dB, 1.50 dB less than the 30.00 dB", "--sqnr-tolerance allows 0.1")),
        ({"y": 29.0, "z": 15.0}, ("output 'z' has 15.00 dB, 5.00 dB less",)),  # the one that lost most
        ({"y": -math.inf}, ("output 'y' has -inf dB, inf dB less",)),
        ({"speedup": 1.8}, ("has 1.800x the source's speed, 10.0 % less than the 2.000x", "--speed-tolerance")),
        ({"metric": judged(0.9, 0.7)}, ("top-1 is 0.7, 0.1 worse than the 0.8", "--metric-tolerance allows 0.1%")),
        (
            {"metric": judged(0.1, 0.9, lower_is_better=True)},
            ("top-1 is 0.9, 0.1 worse than the 0.8", "--metric-tolerance"),
        ),
    ],
)
def test_worse(tmp_path: Path, now: dict[str, Any], words: tuple[str, ...]) -> None:
    path = saved(tmp_path)
    with pytest.raises(VerificationError) as error:
        gate(load_baseline(path), **now)
    for word in ("new.onnx: ", f"in {path}", *words):
        assert word in str(error.value)


def test_beyond_float_s_own_noise_outputs_are_equal(tmp_path: Path) -> None:
    outputs = [{"name": "y", "sqnr": "inf"}, {"name": "z", "sqnr": "-inf"}]
    baseline = load_baseline(saved(tmp_path, outputs=outputs))
    gate(baseline, y=130.0, z=-math.inf)
    with pytest.raises(VerificationError, match=r"output 'y' has 90\.00 dB, 10\.00 dB less"):
        gate(baseline, y=90.0)


def test_what_one_of_them_did_not_measure_is_not_compared(tmp_path: Path) -> None:
    gate(load_baseline(saved(tmp_path, speed=None, metric=None)), 0.1, judged(0.9, 0.1))
    baseline = load_baseline(saved(tmp_path))
    check_baseline(baseline, errors(y=30.0, z=20.0), None, None, TOLERANCE, "new.onnx")
    other = Judged(Metric("cosine", False, lambda model: 0.0), 1.0, 0.1)
    gate(baseline, metric=other)


def test_a_report_is_a_baseline(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(full().to_json())
    baseline = load_baseline(tmp_path / "report.json")
    assert [(one.name, one.sqnr) for one in baseline.outputs] == [("scores", 31.25), ("same", math.inf)]
    assert baseline.speed is not None and baseline.speed.speedup == 2.5 and baseline.metric is None


def test_what_verify_printed_before_it_named_a_format_is_one_too(tmp_path: Path) -> None:
    data = json.loads(saved(tmp_path).read_text())
    del data["format"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    assert load_baseline(tmp_path / "old.json") == load_baseline(saved(tmp_path))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format": "qcompiler-plan/1"}, ("is no baseline", "verify --json")),
        ({"format": "qcompiler-verify/2"}, ("is no baseline",)),
        ({"format": "qcompiler-report/9"}, ("has format qcompiler-report/9",)),
        ({"outputs": []}, ("is no baseline", "no outputs")),
        ({"outputs": [{"name": "y"}]}, ("is damaged", "outputs[0].sqnr is missing")),
        ({"outputs": [{"name": "y", "sqnr": "nan"}]}, ("is damaged", "the SQNR of output 'y' is no number")),
        ({"speed": {"speedup": "fast"}}, ("is damaged", 'speed.speedup is "fast"')),
        ({"metric": 0.9}, ("is damaged", "metric is 0.9")),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(ReportError) as error:
        load_baseline(path)
    assert str(error.value).startswith(f"{path}: ")
    for word in words:
        assert word in str(error.value)


def test_a_baseline_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"of another model.*no output 'z' in new\.onnx"):
        check_baseline(load_baseline(saved(tmp_path)), errors(y=30.0), 2.0, None, TOLERANCE, "new.onnx")


def test_a_metric_may_drop_so_far() -> None:
    check_metric(judged(0.9, 0.8955), Drop.parse("0.5%"), "new.onnx")
    check_metric(judged(0.9, 0.95), Drop.parse("0"), "new.onnx")
    check_metric(judged(0.2, 0.21, lower_is_better=True), Drop.parse("0.02"), "new.onnx")
    with pytest.raises(VerificationError) as error:
        check_metric(judged(0.9, 0.85), Drop.parse("0.5%"), "new.onnx")
    said = "new.onnx: top-1 is 0.85, in float 0.9: 0.05 worse, more than the 0.5% asked for with --max-drop"
    assert str(error.value) == said
