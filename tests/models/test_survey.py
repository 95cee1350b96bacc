"""The list of surveyed models is well formed; one of them is fetched."""

import re

import onnx
import pytest

from models.survey import surveyed


def test_list_is_well_formed() -> None:
    listed = surveyed()
    assert len(listed) >= 60
    for key in ("name", "sha256"):
        values = [getattr(one, key) for one in listed]
        assert len(set(values)) == len(values)
    for one in listed:
        assert re.fullmatch(r"[0-9a-f]{64}", one.sha256) and re.fullmatch(r"[0-9a-f]{64}", one.package.sha256)
        assert one.member.endswith(".onnx")


@pytest.mark.fetched
def test_overridden_inputs_exist() -> None:
    one = next(one for one in surveyed() if one.name == "swift-f0:model")
    inputs = {value.name for value in onnx.load(one.model()).graph.input}
    assert {*one.shapes, *one.values, *one.highest} <= inputs
