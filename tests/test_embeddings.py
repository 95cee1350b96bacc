"""Tables that rows are taken of, an embedding say: in 8 bits for their size, whatever else of the model is."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program
from planned import weights

import qcompiler

EMBEDDED = "(int64[1,6] i) => (float[1,6,16] y) { e = Gather(t, i) y = MatMul(e, w) }"
TABLE = weights(t=(4096, 32), w=(32, 16))


def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"i": random.integers(-500, 500, (1, 6))} for _ in range(6)]


def compiled(text: str, constants: dict[str, np.ndarray], precision: str, **given: object) -> qcompiler.Result:
    options = qcompiler.Options(timing=False)
    graph = program(text, constants, opset=20, ir_version=9)
    return qcompiler.compile(graph, feeds(), precision=precision, options=options, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_a_table_takes_a_quarter_of_its_bytes(precision: str) -> None:
    result = compiled(EMBEDDED, TABLE, precision)
    fates = {node.op: node for node in result.report.nodes}
    assert (fates["Gather"].precision, fates["Gather"].form) == ("int8", "Gather")
    assert len(result.model.SerializeToString()) < 0.29 * TABLE["t"].nbytes  # a scale a row beside the codes
    assert result.report.sqnr > 30.0


def test_the_plan_brings_the_same_bytes_back() -> None:
    first = compiled(EMBEDDED, TABLE, "int8")
    again = compiled(EMBEDDED, TABLE, "int8", plan=first.plan)
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "text, constants, why",
    [
        (EMBEDDED, weights(t=(500, 32), w=(32, 16)), "its weight of 16000 numbers is too small for 8 bits to pay"),
        (
            EMBEDDED.replace("y) {", "y, float s) { a = ReduceSum(i) f = Cast <to = 1> (a) s = Mul(t, f)"),
            TABLE,
            "its weight 't' would be kept in float beside the codes, for others",
        ),
    ],
)
def test_what_stays_in_float(text: str, constants: dict[str, np.ndarray], why: str) -> None:
    report = compiled(text, constants, "int8-dynamic").report
    gather = next(node for node in report.nodes if node.op == "Gather")
    assert gather.precision == "float" and why in gather.reason
