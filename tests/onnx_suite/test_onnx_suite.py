"""Every case of ONNX's backend suite that ONNX Runtime runs in its original form still gives what the case expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import pytest
from onnx_suite.cases import Case, load_cases

import qcompiler
from qcompiler import ir

FEWEST = {"node": 1700, "simple": 15, "pytorch-operator": 20, "pytorch-converted": 50}
"""How many cases must run: which ones ONNX Runtime can is found by trying, and must not silently become none."""


@pytest.fixture(scope="module")
def runnable() -> dict[str, list[tuple[Case, list]]]:
    """By kind, each case that ONNX Runtime runs as it is, with what the result must equal."""
    found: dict[str, list[tuple[Case, list]]] = {}
    for kind in FEWEST:
        found[kind] = []
        for case in load_cases(kind):
            try:
                original = case.run(case.model)
            except Exception:  # ONNX Runtime's exceptions have no common base; the count below guards this
                continue
            expected = [outputs for _, outputs in case.data_sets]
            # Where ONNX Runtime itself disagrees with the case (a tie in rounding, its own random numbers), its answer
            # to the original model is what must not change.
            found[kind].append((case, expected if case.same(original, expected) else original))
    return found


def wrong(cases: Sequence[tuple[Case, list]], through: Callable[[onnx.ModelProto], onnx.ModelProto]) -> dict[str, str]:
    """By name, what is wrong with each case that does not survive ``through``."""
    faults = {}
    for case, expected in cases:
        try:
            if not case.same(case.run(through(case.model)), expected):
                faults[case.name] = "other outputs"
        except Exception as error:  # whatever went wrong is the finding
            faults[case.name] = f"{type(error).__name__}: {error}"
    return faults


@pytest.mark.parametrize("kind", FEWEST)
def test_enough_cases_run(runnable: dict[str, list], kind: str) -> None:
    assert len(runnable[kind]) >= FEWEST[kind]


@pytest.mark.parametrize("kind", FEWEST)
def test_cases_survive_load_and_save(runnable: dict[str, list], kind: str) -> None:
    assert wrong(runnable[kind], lambda model: ir.to_proto(ir.load(model))) == {}


@pytest.mark.parametrize("kind", FEWEST)
def test_cases_survive_compilation_in_float(runnable: dict[str, list], kind: str) -> None:
    options = qcompiler.Options(timing=False, samples=1)
    assert wrong(runnable[kind], lambda model: qcompiler.compile(model, precision="float", options=options).model) == {}


def test_most_cases_agree_with_onnx(runnable: dict[str, list]) -> None:
    """The judge itself: ONNX Runtime gives what ONNX expects in nearly all cases that it runs."""
    agreeing = [case.same([outputs for _, outputs in case.data_sets], wanted) for case, wanted in runnable["node"]]
    assert sum(agreeing) >= 1680
