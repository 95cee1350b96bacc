"""Weights that use more bits than a CPU without VNNI has room for are found, whoever made the model."""

from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import program

from qcompiler import ir
from qcompiler.target_files import load_target
from qcompiler.verify.overflow import overflowing

QDQ = """(uint8[1,32] x) => (float y) {
    a = DequantizeLinear(x, s, z) b = DequantizeLinear(w, s) y = MatMul(a, b)
}"""
INTEGERS = "(uint8[1,32] x) => (int32 y) { y = MatMulInteger(x, w, z) }"
FLOATS = "(float[1,32] x) => (float y) { b = DequantizeLinear(w, s) y = MatMul(x, b) }"


def model(text: str, most: int) -> ir.Graph:
    codes = np.random.default_rng(0).integers(-most, most + 1, (32, 8)).astype(np.int8)
    codes[0:2, 0] = most
    return program(text, {"w": codes, "s": np.float32(0.1), "z": np.uint8(3)})


@pytest.mark.parametrize("text", [QDQ, INTEGERS])
def test_only_without_vnni_and_only_large_codes(text: str) -> None:
    (name,) = (node.name for node in model(text, 127).nodes if node.op.startswith("MatMul"))
    assert overflowing(model(text, 127), load_target("ort-cpu", "avx2")) == [name]
    assert overflowing(model(text, 64), load_target("ort-cpu", "avx2")) == []
    assert overflowing(model(text, 127), load_target("ort-cpu", "vnni")) == []


def test_what_is_multiplied_in_float_has_room() -> None:
    assert overflowing(model(FLOATS, 127), load_target("ort-cpu", "avx2")) == []
