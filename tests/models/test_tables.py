"""Tables on real models: as true as the chains they stand for, and what they add to the time of compiling."""

from __future__ import annotations

import pytest

import qcompiler
from models import recipe
from qcompiler import native, tables

MAKING = ("fuse-tables", "fuse-channel-scales", "tables-channels-last")
pytestmark = [pytest.mark.fetched, pytest.mark.skipif(not native.available(), reason="no native library")]


@pytest.mark.parametrize("name", ["ppocr4-rec", "ppocr4-det", "yolov8n", "minilm-l6", "mobilenet-v2"])
def test_tables_are_no_further_from_float_than_what_they_stand_for(name: str) -> None:
    one = recipe(name)
    model, feeds = str(one.model()), list(one.calibration(8))
    fused = qcompiler.compile(model, feeds, options=qcompiler.Options(timing=False, ops="native"))
    left_out = qcompiler.Options(timing=False, ops="native", passes=("-fuse-tables", "-fuse-channel-scales"))
    unfused = qcompiler.compile(model, feeds, plan=fused.plan, options=left_out)
    assert unfused.report.operators.keys().isdisjoint({tables.OPERATOR})
    # Where float32 rounds to the other side of a half, a code differs by a step; what that does is chance.
    assert fused.report.sqnr >= unfused.report.sqnr - 0.5
    seconds = sum(run.seconds for run in fused.report.passes if run.name in MAKING)
    assert seconds < 0.1 * sum(stage.seconds for stage in fused.report.stages)
