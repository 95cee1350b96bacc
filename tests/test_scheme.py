"""Schemes: ranges, words, JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.errors import PlanError
from qcompiler.scheme import PerAxis, PerBlock, PerTensor, Scheme

granularities = st.one_of(
    st.just(PerTensor()),
    st.builds(PerAxis, st.integers(-4, 4)),
    st.builds(PerBlock, st.integers(-4, 4), st.sampled_from([16, 32, 128])),
)
dtypes = st.sampled_from(["uint8", "int8", "int32", "uint16", "int16", "uint4", "int4"])
schemes = st.builds(Scheme, dtypes, st.booleans(), granularities, st.one_of(st.none(), st.integers(2, 16)))


@given(schemes)
def test_a_scheme_survives_json(scheme: Scheme) -> None:
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme


@given(schemes)
def test_codes_used_are_codes_held(scheme: Scheme) -> None:
    (low, high), (lowest, highest) = scheme.code_range, scheme.storage_range
    assert lowest <= low < high <= highest
    if scheme.symmetric and lowest < 0:
        assert low == -high


@pytest.mark.parametrize(
    "scheme, codes",
    [
        (Scheme("uint8", False), (0, 255)),
        (Scheme("int8", False), (-128, 127)),
        (Scheme("int8", True), (-127, 127)),
        (Scheme("int8", True, bits=7), (-63, 63)),
        (Scheme("int8", False, bits=7), (-64, 63)),
        (Scheme("uint8", False, bits=7), (0, 127)),
        (Scheme("int4", True), (-7, 7)),
        (Scheme("int8", True, bits=8), (-127, 127)),
    ],
)
def test_code_ranges(scheme: Scheme, codes: tuple[int, int]) -> None:
    assert scheme.code_range == codes


def test_a_scheme_in_words() -> None:
    assert str(Scheme("int8", True, PerAxis(0), 7)) == "int8 (7 bit) symmetric per axis 0"
    assert str(Scheme("uint4", False, PerBlock(1, 32))) == "uint4 asymmetric per blocks of 32 on axis 1"
    assert str(Scheme("uint8", False)) == "uint8 asymmetric per tensor"


@pytest.mark.parametrize(
    "data, said",
    [
        ({"dtype": "int8", "symetric": True}, "unknown scheme field 'symetric'"),
        ({"dtype": "int9", "symmetric": True}, "unknown integer type 'int9'"),
        ({"symmetric": True}, "unknown integer type 'None'"),
        ({"dtype": ["int8"], "symmetric": True}, "unknown integer type"),
        ({"dtype": "int8", "symmetric": True, "axis": "0"}, "scheme field 'axis' is '0', not an integer"),
        ({"dtype": "int8", "symmetric": True, "axis": True}, "scheme field 'axis' is True, not an integer"),
        ({"dtype": "int8", "symmetric": True, "axis": 0, "block": 0}, "scheme field 'block' is 0"),
        ({"dtype": "int8", "symmetric": True, "block": 32}, "scheme field 'block' needs 'axis'"),
        ({"dtype": "int8", "symmetric": True, "bits": 0}, "scheme field 'bits' is 0"),
        ({"dtype": "int8", "symmetric": "yes"}, "scheme field 'symmetric' is 'yes', not true or false"),
        ({"dtype": "int8"}, "scheme field 'symmetric' is None, not true or false"),
    ],
)
def test_what_is_no_scheme(data: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        Scheme.from_json(data)
    assert said in str(caught.value)
