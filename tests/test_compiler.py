"""The flow as a whole: what a caller gets when a model is slow in 8 bits, too old, or cannot be run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pass_helpers import ops, program

import qcompiler
from qcompiler import Options, ir
from qcompiler.compiler import Compilation
from qcompiler.data import open_samples, spread
from qcompiler.errors import TargetError
from qcompiler.search import settle
from qcompiler.search.goal import Goal
from qcompiler.verify import profile, timing

WEIGHTS = {"w": np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)}
PRODUCT = "(float[n,256] x) => (float[n,512] y) { t = MatMul(x, w) y = Relu(t) }"


def samples(*shape: int, count: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Speeds relative to the source that are measured, by what is compiled: ``int8``, ``cleaned`` or ``source``."""
    table = {"int8": 2.0, "cleaned": 1.0, "source": 1.0}

    def interleaved(sessions: Mapping[str, Any], feeds: Any, **options: Any) -> dict[str, timing.Timing]:
        first, other = list(sessions)
        speed = table[kind(sessions[other])] / table[kind(sessions[first])]
        return {other: timing.Timing(1e-3, 1e-3, 1e-3, speed, speed, speed, 100)}

    def kind(session: Any) -> str:
        return kinds.get(id(session), "source")

    kinds: dict[int, str] = {}
    original = settle.session

    def labelled(model: Any, **options: Any) -> Any:
        return Labelled(original(model, **options), model)

    class Labelled:
        def __init__(self, manager: Any, model: Any) -> None:
            self.manager, self.model = manager, model

        def __enter__(self) -> Any:
            made = self.manager.__enter__()
            found = ops(self.model)
            cleaned = "Dropout" not in found
            kinds[id(made)] = "int8" if "QuantizeLinear" in found else "cleaned" if cleaned else "source"
            return made

        def __exit__(self, *error: Any) -> Any:
            return self.manager.__exit__(*error)

    monkeypatch.setattr(settle, "session", labelled)
    monkeypatch.setattr(timing, "interleaved", interleaved)
    monkeypatch.setattr(profile, "losses", lambda regions, plain, coded: {})
    return table


DROPPED = "(float[n,256] x) => (float[n,512] y) { d = Dropout(x) t = MatMul(d, w) y = Relu(t) }"


def test_a_model_that_is_faster_in_8_bits_is_quantized(speeds: dict[str, float]) -> None:
    result = qcompiler.compile(program(DROPPED, WEIGHTS), samples(64, 256))
    assert "QuantizeLinear" in ops(result.graph)
    assert result.report.warnings == []
    assert result.report.speed is not None and result.report.speed.speedup == 2.0


def test_a_model_that_is_slower_in_8_bits_stays_in_float(speeds: dict[str, float]) -> None:
    speeds["int8"] = 0.8
    source = program(DROPPED, WEIGHTS)
    result = qcompiler.compile(source, samples(64, 256))
    assert ops(result.graph) == ["MatMul", "Relu"]
    assert any("0.80x" in warning for warning in result.report.warnings)
    assert any("0.80x" in decision for decision in result.report.decisions)
    assert {node.precision for node in result.report.nodes} == {"float"}
    assert result.plan is not None and not result.plan.sites
    again = qcompiler.compile(source, samples(64, 256), plan=result.plan)
    assert again.model.SerializeToString() == result.model.SerializeToString()


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_a_model_that_cleaning_makes_slower_stays_as_it_was(speeds: dict[str, float], precision: str) -> None:
    speeds.update(int8=0.8, cleaned=0.9)
    source = program(DROPPED, WEIGHTS)
    result = qcompiler.compile(source, samples(64, 256), precision=precision)
    assert ops(result.graph) == ["Dropout", "MatMul", "Relu"]
    assert any("0.90x" in warning for warning in result.report.warnings)
    assert [node.op for node in result.report.nodes] == ["Dropout", "MatMul", "Relu"]
    if result.plan is not None:
        again = qcompiler.compile(source, samples(64, 256), plan=result.plan)
        assert again.model.SerializeToString() == result.model.SerializeToString()


NOTHING_FOUND = """(float[n,256] x) => (float[n,512] y) {
    t = MatMul(x, w) s = Mul(t, scale) u = Add(s, up) a = Add(u, low) y = Sigmoid(a) }"""


@pytest.mark.parametrize("speed, kept", [(1.5, True), (1.1, False)])
def test_samples_in_which_floats_find_as_little(speed: float, kept: bool, speeds: dict[str, float]) -> None:
    """Outputs of 5e-8 are as small as what Sigmoid rounds by, and what the source rounds by, which adds and takes away
    a large number, is gone once it is cleaned."""
    speeds.update(int8=speed, cleaned=1.1)
    weight = 0.1 * np.random.default_rng(0).normal(size=(256, 512))
    numbers = {"w": weight, "scale": 0.3, "up": np.full(512, 1e5), "low": np.full(512, -1e5 - 16.8)}
    constants = {name: np.asarray(values, np.float32) for name, values in numbers.items()}
    result = qcompiler.compile(program(NOTHING_FOUND, constants), samples(64, 256))
    assert ("QuantizeLinear" in ops(result.graph)) == kept
    first = result.report.warnings[0]
    assert first.startswith("these samples say little of output 'y'" if kept else "stays in float: in 8 bits")
    assert any("output 'y' keeps" in warning for warning in result.report.warnings)
    assert result.plan is not None and bool(result.plan.sites) == kept
    again = qcompiler.compile(program(NOTHING_FOUND, constants), samples(64, 256), plan=result.plan)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_8_bits_that_ruin_an_output_stay_only_where_they_are_worth_it(speeds: dict[str, float]) -> None:
    # One huge value takes all codes from the rest, and the rest is what is returned.
    weight = WEIGHTS["w"].copy()
    weight[0] = 0.0
    feeds = samples(8, 256)
    for feed in feeds:
        feed["x"][:, 0] = 3000.0
    options = qcompiler.Options(observer="minmax", passes=("-smooth-matmul",))
    for speed, kept in ((1.2, False), (50.0, True)):
        speeds["int8"] = speed
        result = qcompiler.compile(program(PRODUCT, {"w": weight}), feeds, options=options)
        assert ("QuantizeLinear" in ops(result.graph)) == kept
        (warning,) = result.report.warnings
        assert "output 'y'" in warning and "rounding at x (" in warning
        assert warning.startswith("stays in float") != kept


def test_nothing_is_given_up_for_speed_where_time_does_not_count(speeds: dict[str, float]) -> None:
    speeds["int8"] = 0.8
    options = qcompiler.Options(timing=False)
    result = qcompiler.compile(program(DROPPED, WEIGHTS), samples(64, 256), options=options)
    assert "QuantizeLinear" in ops(result.graph)


def test_an_opset_that_cannot_be_raised_leaves_the_model_in_float() -> None:
    # Statistics of each position by itself have no operator from opset 9 on.
    text = """(float[2,4,3] x) => (float[2,4,5] y) {
        b = BatchNormalization <spatial = 0> (x, one, nil, nil, one)
        y = MatMul(b, w)
    }"""
    one, nil = np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32)
    source = program(text, {"one": one, "nil": nil, "w": np.ones((3, 5), np.float32)}, opset=8)
    result = qcompiler.compile(source, samples(2, 4, 3), options=qcompiler.Options(timing=False))
    assert result.graph.opset == 8
    assert any("opset 13" in warning and "spatial=0" in warning for warning in result.report.warnings)


def test_an_opset_is_raised_as_far_as_it_can_be() -> None:
    # How a border that ceil_mode adds is counted was changed by opset 19, but 13 is enough.
    text = """(float[1,16,33,33] x) => (float[1,16,17,17] y) {
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, k)
        y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (c)
    }"""
    kernel = np.random.default_rng(2).normal(size=(16, 16, 3, 3)).astype(np.float32)
    result = qcompiler.compile(
        program(text, {"k": kernel}, opset=11), samples(1, 16, 33, 33), options=qcompiler.Options(timing=False)
    )
    assert result.graph.opset == 18
    assert "QuantizeLinear" in ops(result.graph)


def test_an_unfaithful_output_is_warned_about_with_the_nodes_to_blame() -> None:
    # One huge value takes all codes from the rest, and the rest is what is returned.
    weight = WEIGHTS["w"].copy()
    weight[0] = 0.0
    feeds = samples(8, 256)
    for feed in feeds:
        feed["x"][:, 0] = 300.0
    options = qcompiler.Options(timing=False, cpu="vnni", observer="minmax", passes=("-smooth-matmul",))
    result = qcompiler.compile(program(PRODUCT, {"w": weight}), feeds, options=options)
    (warning,) = result.report.warnings
    assert "output 'y'" in warning and "dB" in warning and "rounding at x (" in warning


def test_samples_that_cannot_be_made_up_are_asked_for() -> None:
    text = "(float[n,64] x, int64[k] shape) => (float y) { y = Reshape(x, shape) }"
    result = qcompiler.compile(program(text), precision="float")
    assert result.report.speed is None and result.report.outputs == []
    assert any("--data" in warning for warning in result.report.warnings)


def test_the_report_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    onnx.save(ir.to_proto(program(PRODUCT, WEIGHTS)), str(path))
    assert qcompiler.compile(path, precision="float").report.model == "product.onnx"


def test_a_result_that_breaks_a_rule_of_onnx_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.verify.checks.broken_rule", lambda graph: "" if "Relu" not in ops(graph) else "no")
    with pytest.raises(qcompiler.QCompilerError, match="breaks ONNX's rules"):
        with monkeypatch.context() as patch:
            seen: list[Any] = []
            patch.setattr("qcompiler.verify.checks.broken_rule", lambda g: "" if seen else (seen.append(g) or "no"))
            qcompiler.compile(program(PRODUCT, WEIGHTS), precision="float")


def test_smoothing_leaves_no_trace_where_nothing_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_in_float(self: Any, candidate: Any) -> Any:
        return self.without(candidate, dict.fromkeys(candidate.plan.intended, "told to"), "left in float", "told to")

    monkeypatch.setattr("qcompiler.search.refine.Refiner.no_slower", all_in_float)
    feeds = samples(8, 256)
    for feed in feeds:
        feed["x"][:, :3] *= 50.0
    result = qcompiler.compile(program(PRODUCT, WEIGHTS), feeds)
    assert result.statistics is not None and result.statistics.smoothing
    assert ops(result.graph) == ["MatMul", "Relu"]


@pytest.mark.parametrize(
    ("count", "most", "taken"), [(10, 5, [0, 2, 4, 6, 8]), (3, 5, [0, 1, 2]), (9, 5, [0, 1, 2, 3, 4])]
)
def test_samples_are_taken_evenly(count: int, most: int, taken: list[int]) -> None:
    graph = program("(float[n] x) => (float[n] y) { y = Neg(x) }")
    feeds = [{"x": np.full(1, index, np.float32)} for index in range(count)]
    assert [int(feed["x"][0]) for feed in spread(open_samples(feeds, graph.inputs), most)] == taken


def test_fewer_samples_are_held_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.data.samples.MOST_HELD", 400)
    graph = program("(float[n] x) => (float[n] y) { y = Neg(x) }")
    feeds = [{"x": np.zeros(length, np.float32)} for length in [20] * 16]
    samples = open_samples(feeds, graph.inputs)
    assert len(spread(samples, 16)) == 5
    assert len(spread(open_samples([{"x": np.zeros(999, np.float32)}] * 9, graph.inputs), 16)) == 4


@pytest.mark.parametrize(("here", "judged_by"), [("vnni", "all"), ("avx2", "none")])
def test_another_kind_of_cpu_is_not_judged_by_the_kernels_of_this_one(
    monkeypatch: pytest.MonkeyPatch, here: str, judged_by: str
) -> None:
    monkeypatch.setattr("qcompiler.target_files.detect_cpu", lambda: here)
    job = Compilation(program(PRODUCT, WEIGHTS), samples(4, 256), "ort-cpu", "int8", None, Options(cpu="vnni"))
    assert job.optimize == judged_by
    told = [warning for warning in job.run(None, None).report.warnings if "this CPU is not vnni" in warning]
    assert len(told) == (here != "vnni")


def test_nothing_is_met_for_another_kind_of_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.target_files.detect_cpu", lambda: "avx2")
    options = Options(cpu="vnni", goal=Goal(min_sqnr=20.0))
    with pytest.raises(TargetError, match="this CPU is not vnni"):
        qcompiler.compile(program(PRODUCT, WEIGHTS), samples(4, 256), options=options)
