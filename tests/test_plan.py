"""The plan as a value and as a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_helpers import program

from qcompiler.errors import PlanError
from qcompiler.plan import Plan, Site, TensorQuant, diff
from qcompiler.scheme import PerAxis, Scheme

ACTIVATION = Scheme("uint8", False)
WEIGHT = Scheme("int8", True, PerAxis(1))


def quant(scheme: Scheme, scale: object, zero: object, origin: str = "calibration") -> TensorQuant:
    return TensorQuant(scheme).solved(np.asarray(scale, np.float32), np.asarray(zero), origin)


def plan() -> Plan:
    return Plan(
        target="ort-cpu",
        precision="int8",
        sites={
            Site("x", "first", 0): quant(ACTIVATION, 0.1, 7),
            Site("w", "first", 1): quant(WEIGHT, [0.25, 1e-3], [0, 0], "weights"),
            Site("h", "second", 0): quant(ACTIVATION, 0.5, 3),
            Site("h", "third", 0): quant(ACTIVATION, 0.75, 3, "user"),
            Site("y", ""): TensorQuant(ACTIVATION),
        },
        intended=frozenset({"first", "second"}),
        ties=(frozenset({"h", "x"}),),
        kept={"third": "it 'says' so"},
        smoothing={"x": np.array([0.1, 2.0], np.float32)},
    ).deciding(["third"], "returned to float", "measured")


def test_round_trip(tmp_path: Path) -> None:
    one = plan()
    assert Plan.from_json(one.to_json()) == one
    one.save(tmp_path / "p.json")
    again = Plan.load(tmp_path / "p.json")
    assert again == one and again.to_json() == one.to_json()
    assert again.smoothing["x"].tobytes() == one.smoothing["x"].tobytes()
    assert again != replace(one, smoothing={})


def test_one_line_a_tensor() -> None:
    lines = plan().to_json().splitlines()
    assert [line.strip().split('"')[1] for line in lines if '"uses"' in line] == ["h", "w", "x", "y"]


@given(st.floats(min_value=1.1754943508222875e-38, max_value=2.0**127, width=32))
def test_scales_come_back_to_the_last_bit(scale: float) -> None:
    one = Plan(sites={Site("x", "n"): quant(ACTIVATION, scale, 0)})
    (found,) = Plan.from_json(one.to_json()).sites.values()
    assert found.scale is not None and found.scale.tobytes() == np.float32(scale).tobytes()


def test_order_does_not_show() -> None:
    one = plan()
    turned = replace(one, sites=dict(reversed(list(one.sites.items()))), kept=dict(reversed(list(one.kept.items()))))
    assert turned.to_json() == one.to_json()


def test_diff() -> None:
    one = plan()
    assert diff(one, plan()) == []
    sites = {**one.sites, Site("x", "first", 0): quant(ACTIVATION, 0.2, 7)}
    del sites[Site("y", "")]
    other = replace(one, sites=sites, kept={})
    changed, gone, kept = diff(one, other)
    assert changed.startswith("x at first:0: ") and "0.1" in changed and "0.2" in changed
    assert gone.startswith("y at output: ") and gone.endswith("-> float")
    assert kept == "third: kept in float: it 'says' so -> no"


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(plan().to_json()), **changes})


def entry(**changes: object) -> dict[str, object]:
    one = {"uses": ["first:0"], "dtype": "uint8", "symmetric": False, "origin": "user", "scale": 0.1, "zero_point": 7}
    return {"x": [{**one, **changes}]}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ("not JSON",)),
        ("[]", ("not a plan of format",)),
        (edited(format="qcompiler-plan/0"), ("not a plan of format", "qcompiler plan")),
        (edited(tensor={}), ("unknown field 'tensor'",)),
        (edited(tensors=[]), ("is damaged",)),
        (edited(tensors=entry(origin="guess")), ("unknown origin 'guess'", "'x'", "calibration")),
        (edited(tensors=entry(dtype="uint9")), ("unknown integer type 'uint9'",)),
        (edited(tensors=entry(scale=0.0)), ("a scale is not a positive number", "'x'")),
        (edited(tensors=entry(scale=float("nan"))), ("a scale is not a positive number",)),
        (edited(tensors=entry(scale=[0.1, -1])), ("a scale is not a positive number",)),
        (edited(tensors=entry(uses=["first"])), ("a use is 'first'", "NODE:INPUT")),
        (edited(tensors=entry(uses=["first:one"])), ("is damaged",)),
        (edited(tensors=entry(colour="red")), ("unknown scheme field 'colour'",)),
        (edited(decisions=[{"where": []}]), ("is damaged",)),
    ],
)
def test_files_that_cannot_be_used(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        Plan.load(tmp_path / "p.json")
    assert "p.json" in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        Plan.load(tmp_path / "p.json")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(sites={Site("x", "gone", 0): TensorQuant(ACTIVATION)}), ("no node 'gone'", "'x'")),
        (dict(sites={Site("x", "tanh", 0): TensorQuant(ACTIVATION)}), ("input 0 of node 'tanh' is not 'x'",)),
        (dict(sites={Site("x", "relu", 4): TensorQuant(ACTIVATION)}), ("input 4 of node 'relu'",)),
        (dict(sites={Site("a", ""): TensorQuant(ACTIVATION)}), ("'a' is no output",)),
        (dict(intended=frozenset({"gone"})), ("no node 'gone'",)),
    ],
)
def test_a_plan_must_fit_the_graph(change: dict[str, object], words: tuple[str, ...]) -> None:
    graph = program("(float[2] x) => (float[2] y) { a = Relu(x) y = Tanh(a) }")
    for node in graph.nodes:
        node.name = node.op.lower()
    Plan(sites={Site("x", "relu", 0): TensorQuant(ACTIVATION), Site("y", ""): TensorQuant(ACTIVATION)}).check(graph)
    with pytest.raises(PlanError) as caught:
        Plan(**change).check(graph)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words) and "qcompiler plan" in str(caught.value), caught.value


def test_groups() -> None:
    one = plan()
    assert one.group("x") == {"x", "h"} and one.group("y") == {"y"}
    assert [str(site) for site in one.tensors()["h"]] == ["second:0", "third:0"]
    assert one.without_nodes({"second": "why"}).kept == {"second": "why", "third": "it 'says' so"}


ROUNDED = Plan(rounding={"w": np.array([[0, 1, 0], [0, -1, 0]], np.int8)})


def test_rounding_is_kept_by_its_bytes() -> None:
    assert Plan.from_json(ROUNDED.to_json()) == ROUNDED


@pytest.mark.parametrize("shape", ["[2, 2]", "[2, 4]", "[-2, -3]", "[9999999999, 9999999999]"])
def test_rounding_that_is_not_as_large_as_its_shape_says(shape: str) -> None:
    text = ROUNDED.to_json().replace("[2, 3]", shape)
    with pytest.raises(PlanError, match="is damaged"):
        Plan.from_json(text)


def test_rounding_of_another_model() -> None:
    quant = TensorQuant(Scheme("int8", True, PerAxis(0))).solved(np.ones(3), np.zeros(3), "weights")
    with pytest.raises(PlanError, match=r"tensor 'w': is of another model.*\[2, 3\].*\[3, 2\]"):
        ROUNDED.codes("w", np.ones((3, 2), np.float32), quant)


def test_rounding_stays_in_range() -> None:
    quant = TensorQuant(Scheme("int8", True, PerAxis(0))).solved(np.ones(2), np.zeros(2), "weights")
    values = np.array([[1, 127, 3], [4, -127, 6]], np.float32)
    assert ROUNDED.codes("w", values, quant).tolist() == [[1, 127, 3], [4, -127, 6]]
    assert ROUNDED.codes("v", values, quant).tolist() == values.tolist()
    assert ROUNDED.codes("w", values / 2, quant).tolist() == [[0, 65, 2], [2, -65, 3]]


def test_rounding_is_counted_in_codes_of_eight_bits() -> None:
    quant = TensorQuant(Scheme("int4", True, PerAxis(0))).solved(np.ones(2), np.zeros(2), "weights")
    values = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert ROUNDED.codes("w", values, quant).tolist() == values.tolist()
