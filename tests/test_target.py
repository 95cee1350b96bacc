"""Targets as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pass_helpers import program

from qcompiler import cpu, registry, target_files
from qcompiler.errors import TargetError
from qcompiler.scheme import PerAxis
from qcompiler.target import Operator
from qcompiler.target_files import describe, load_target, target_names

TEXT = """
name = "mine"
summary = "for tests"
opset = 17
activation = { dtype = "uint8", symmetric = false }
weight = { dtype = "int8", symmetric = true }
bias = { dtype = "int32", symmetric = true }
"""


@pytest.mark.parametrize("name", target_names())
def test_targets_of_the_package_are_sound(name: str) -> None:
    kinds = load_target(name).cpus
    for kind in ("auto", *kinds):
        one = load_target(name, kind)
        assert one.summary and one.operators and one.cpu in (kinds or ("",))
        assert all(registry.parse(text) for names in one.pipeline.values() for text in names)
        standard = {entry.op for entry in one.operators if entry.ops == "standard"}  # others say why not without
        assert not standard & {*one.absorbed, *one.excluded}
        rows = len(one.operators) + len(one.absorbed) + len(one.excluded) + len(one.refused) + bool(one.elementwise)
        assert len(list(describe(one))) == rows


def test_cpu_kinds_leave_passes_out() -> None:
    native = {kind: load_target("ort-cpu", kind).pipeline["native"] for kind in ("vnni", "avx2", "arm")}
    assert "fuse-depthwise" in native["vnni"]
    assert native["avx2"] == native["arm"] == tuple(name for name in native["vnni"] if name != "fuse-depthwise")


def test_cpu_kinds_change_schemes() -> None:
    schemes = {kind: load_target("ort-cpu", kind) for kind in ("vnni", "avx2", "arm")}
    assert schemes["vnni"].weight.bits is None and schemes["avx2"].weight.paired
    assert schemes["vnni"].activation.dtype == "uint8" and schemes["arm"].activation.dtype == "int8"


@pytest.mark.parametrize(
    "machine, flags, expected",
    [("x86_64", "avx2 avx512_vnni", "vnni"), ("x86_64", "avx2 avx_vnni", "vnni"), ("x86_64", "avx2", "avx2"),
     ("aarch64", "", "arm"), ("arm64", "", "arm")],
)  # fmt: skip
def test_detection(machine: str, flags: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.Path, "read_text", lambda self: flags)
    assert cpu.detect_cpu() == expected


def test_operators_fit_by_attributes_and_constants() -> None:
    one = load_target("ort-cpu")
    weights = {"w": np.ones((2, 2), np.float32), "h": np.ones((2, 2), np.float16)}
    graph = program(
        """(float[2,2] x, float16[2,2] z) => (float[2,2] a, float[2,2] b, float[2,2] c, float[2,2] d, float16[2,2] e) {
            a = Gemm(x, w)
            b = Gemm<transB=1>(x, w)
            c = Gemm<alpha=2.0>(x, w)
            d = MatMul(x, x)
            e = MatMul(z, h)
        }""",
        weights,
    )
    found = [one.operator(node) for node in graph.nodes]
    assert [entry.weight_axis if entry else None for entry in found] == [1, 0, None, None, None]
    assert found[0] is not None and found[0].heavy
    assert one.weight_scheme(found[0], 2).granularity == PerAxis(1)


@pytest.mark.parametrize(
    "text, words",
    [
        (TEXT.replace("opset = 17", ""), ("'opset' is missing",)),
        (TEXT + "colour = 1", ("unknown field 'colour'",)),
        (TEXT + '[[operator]]\nop = "LSTM"\nquantize = "wights"', ("operator LSTM", "quantize is 'wights'", "weights")),
        (TEXT + '[cpu.vnni]\nwithouth = []', ("cpu vnni", "unknown field 'withouth'")),
        *(
            (TEXT + f'[cpu.{kind}]\nwithout = ["hope"]', (f"cpu {kind}: no stage has the pass 'hope' that it is to",))
            for kind in ("vnni", "avx2", "arm")
        ),
        (TEXT + '[[operator]]\nop = "Conv"\nweigth = 1', ("operator Conv", "unknown field 'weigth'")),
        ("name = ", ("is not TOML",)),
    ],
)
def test_files_that_cannot_be_used(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(str(tmp_path / "mine.toml"))
    assert "mine.toml" in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TEXT)
    one = load_target(str(tmp_path / "mine.toml"))
    assert (one.name, one.cpu, one.cpus, one.operators) == ("mine", "", {}, ())


def test_names() -> None:
    with pytest.raises(TargetError, match=r"no target 'ort-cqu'; did you mean ort-cpu\?"):
        load_target("ort-cqu")
    with pytest.raises(TargetError, match="cannot be read"):
        load_target("gone.toml")
    with pytest.raises(TargetError, match="knows no CPU kind 'z80'; use one of auto, vnni"):
        load_target("ort-cpu", "z80")


def test_a_precision_brings_its_own_schemes() -> None:
    target = load_target("tensorrt")
    assert target.at("fp8").activation.dtype == target.at("fp8").weight.dtype == "float8_e4m3fn"
    assert target.at("int8").activation.dtype == "int8" and target.at("int8").activation.symmetric
    assert list(load_target("ort-cpu").precisions) == ["int8", "int8-dynamic", "int4", "float"]
    with pytest.raises(TargetError, match="target ort-cpu: there is no precision 'fp8'; use one of int8, int8-dynamic"):
        load_target("ort-cpu").at("fp8")


@pytest.mark.parametrize(
    "line, words",
    [
        ('[precision.a]\nquantise = "static"', "precision a: unknown field 'quantise'"),
        ('[precision.a]\nquantize = "some"', "precision a: quantize is 'some'; use static, dynamic"),
        ('[precision.a]\nquantize = "none"\nfloats = "float8"', "precision a: floats is 'float8'"),
    ],
)
def test_a_malformed_precision_is_an_error(tmp_path: Path, line: str, words: str) -> None:
    text = (Path(target_files.__file__).parent / "targets" / "tensorrt.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(f"{text}\n{line}\n")
    with pytest.raises(TargetError, match=words):
        load_target(str(path))


def test_an_unknown_verifier_is_an_error(tmp_path: Path) -> None:
    text = (Path(target_files.__file__).parent / "targets" / "tensorrt.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('verifier = "tensorrt"', 'verifier = "somebody"'))
    with pytest.raises(TargetError, match="no verifier 'somebody'; use one of onnxruntime, tensorrt"):
        load_target(str(path))


def test_an_operator_that_needs_ours_counts_only_with_them() -> None:
    native = replace(load_target("ort-cpu"), operators=(Operator("Tanh", ops="native"),))
    node = program("(float[4] x) => (float[4] y) { y = Tanh(x) }").nodes[0]
    assert native.at("int8").operator(node) is None
    assert native.at("int8", "native").operator(node) is not None


def test_tables_are_for_what_the_target_lists_and_for_native_operators() -> None:
    standard, native = (load_target("ort-cpu").at("int8", ops) for ops in ("standard", "native"))
    assert native.tabulates("HardSwish") and not native.tabulates("Softmax") and not standard.tabulates("HardSwish")


def test_native_operators_on_a_target_without_them_are_refused() -> None:
    with pytest.raises(TargetError, match=r"target tensorrt: runs no operators of ours.*--ops standard"):
        load_target("tensorrt").at("int8", "native")


@pytest.mark.parametrize(("here", "chosen", "foreign"), [("vnni", "vnni", False), ("vnni", "avx2", True)])
def test_another_kind_of_cpu_is_foreign(monkeypatch: pytest.MonkeyPatch, here: str, chosen: str, foreign: bool) -> None:
    monkeypatch.setattr("qcompiler.target_files.detect_cpu", lambda: here)
    assert load_target("ort-cpu", chosen).foreign == foreign and not load_target("ort-cpu").foreign
    assert not load_target("tensorrt").foreign


def test_kinds_of_ones_own_cannot_be_told_from_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TEXT + "\n[cpu.small]\nweight = { paired = true }\n")
    one = load_target(str(tmp_path / "mine.toml"), "small")
    assert one.weight.paired and not one.foreign
