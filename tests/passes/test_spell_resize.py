from __future__ import annotations

import numpy as np
import pytest
from pass_helpers import feed, outputs, program, run_pass

from qcompiler import ir
from qcompiler.passes.spell_resize import SpellResize

CONSTANTS = {
    "s": np.float32(0.03), "z": np.uint8(120), "t": np.float32(0.02), "none": np.zeros(0, np.float32),
    "twice": np.array([1, 1, 2, 2], np.float32), "odd": np.array([1, 1, 3, 4], np.float32),
    "high": np.array([1, 1, 2, 1], np.float32), "vast": np.array([1, 1, 1e9, 1], np.float32),
    "endless": np.array([1, 1, np.inf, 1], np.float32),
    "part": np.array([1, 1, 1.5, 2], np.float32),
    "channels": np.array([1, 2, 2, 2], np.float32), "large": np.array([2, 3, 10, 8]), "small": np.array([2, 3, 2, 2]),
}  # fmt: skip
ASYMMETRIC = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


BEHIND = "y = DequantizeLinear(k, s, z)"


def resized(resize: str, shape: str = "2,3,5,4", step: str = "s", behind: str = BEHIND) -> ir.Graph:
    graph = program(
        f"""(float[{shape}] x) => (float y) {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        r = {resize} k = QuantizeLinear(r, {step}, z) {behind} }}""",
        CONSTANTS,
    )
    ir.infer_shapes(graph)
    return graph


@pytest.mark.parametrize("shape", ["2,3,5,4", "n,3,5,4", "n,3,h,w"])
@pytest.mark.parametrize(
    "resize",
    [
        f"Resize <{ASYMMETRIC}> (d, none, twice)",
        f"Resize <{ASYMMETRIC}> (d, none, odd)",
        f"Resize <{ASYMMETRIC}> (d, none, high)",
        "Resize(d, none, twice)",
        "Resize(d, none, odd)",
        'Resize <nearest_mode = "round_prefer_ceil"> (d, none, odd)',
    ],
)
def test_it_computes_the_same(shape: str, resize: str) -> None:
    before = resized(resize, shape)
    after, rewrites, _ = run_pass(SpellResize(), before)
    assert rewrites == 1 and "Resize" not in {node.op for node in after.nodes}
    given = feed(before, n=2, h=5, w=3)
    np.testing.assert_array_equal(outputs(after, given)["y"], outputs(before, given)["y"])


def test_an_empty_batch() -> None:
    after, rewrites, _ = run_pass(SpellResize(), resized("Resize(d, none, twice)", "n,3,5,4"))
    assert rewrites == 1
    assert outputs(after, {"x": np.zeros((0, 3, 5, 4), np.float32)})["y"].shape == (0, 3, 10, 8)


def test_sizes() -> None:
    before = resized(f"Resize <{ASYMMETRIC}> (d, none, none, large)")
    after, rewrites, _ = run_pass(SpellResize(), before)
    assert rewrites == 1
    given = feed(before)
    np.testing.assert_array_equal(outputs(after, given)["y"], outputs(before, given)["y"])


@pytest.mark.parametrize(
    "changed",
    [
        {"resize": f"Resize <{ASYMMETRIC}> (d, none, part)"},
        {"resize": f"Resize <{ASYMMETRIC}> (d, none, channels)"},
        {"resize": f"Resize <{ASYMMETRIC}> (d, none, vast)"},
        {"resize": f"Resize <{ASYMMETRIC}> (d, none, endless)"},
        {"resize": f"Resize <{ASYMMETRIC}> (d, none, none, small)"},
        {"resize": 'Resize <mode = "linear"> (d, none, twice)'},
        {"resize": 'Resize <nearest_mode = "ceil"> (d, none, twice)'},
        {"resize": 'Resize <coordinate_transformation_mode = "align_corners"> (d, none, twice)'},
        {"resize": "Resize(d, none, twice)", "step": "t", "behind": "y = DequantizeLinear(k, t, z)"},
        {"resize": "Resize(d, none, twice)", "behind": "f = DequantizeLinear(k, s, z) y = Add(f, r)"},
        {"resize": "Resize(x, none, twice)"},
    ],
    ids=str,
)
def test_what_is_left_alone(changed: dict[str, str]) -> None:
    assert run_pass(SpellResize(), resized(**changed))[1] == 0
