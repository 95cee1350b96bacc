from __future__ import annotations

import pytest

from qcompiler.errors import VerificationError
from qcompiler.verify.tensorrt import SPLIT, Engine
from qcompiler.verify.tensorrt_log import Layer, read


def tensors(*types: str) -> str:
    listed = ", ".join(f"{{ Name: t, Dimensions: [1,64], Datatype: {one}, Format: x }}" for one in types)
    return f"[ {listed}]"


def line(
    name: str, kind: str, inputs: str = "Int8", constants: tuple[str, ...] = ("Int8", "Float"), *nodes: str
) -> str:
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {tensors(*inputs.split())}, Constants: {tensors(*constants)}, "
        f"Outputs: {tensors('Float')}, TacticName: a, b, StreamId: 0, Metadata: {metadata}"
    )


def log(*lines: str) -> list[str]:
    return ["Total Weights Memory: 1 bytes", "Layers:\n" + "\n".join(lines) + "\n\nI/O Tensors:\n Name: x"]


def test_a_layer_has_its_kind_its_types_and_its_nodes() -> None:
    (layer,) = read(log(line("a+b_myl0_1", "gemm", "Int8", ("Int8", "Float"), "/a/MatMul", "/b/MatMul")), "1.7")
    assert layer == Layer(
        "a+b_myl0_1", "gemm", ("Int8",), ("Int8", "Float"), ("Float",), ("/a/MatMul", "/b/MatMul")
    )
    assert layer.heavy and layer.coded == "Int8" and not layer.attention


def test_a_product_with_a_weight_in_float_is_not_in_8_bits() -> None:
    (layer,) = read(log(line("__myl_CastMulFc_myl0_2", "runtime_fusion", "Int8 Float", ())), "1.7")
    assert layer.heavy and layer.coded == "" and layer.type == "Float"


def test_four_bit_weights_may_stand_alone() -> None:
    (layer,) = read(log(line("__myl_CastFc_myl0_2", "runtime_fusion", "Half", ("Int4", "Half"))), "1.7")
    assert layer.heavy and layer.coded == "Int4"


def test_fp4_and_its_scales() -> None:
    (layer,) = read(log(line("a_myl0_2", "gemm", "FP4E2M1 FP8", ("FP4E2M1", "Float", "FP8"))), "1.7")
    assert layer.coded == "FP4E2M1"
    (layer,) = read(log(line("__myl_Dyna_myl0_0", "kgen", "FP8 FP8UE8M0", ())), "1.7")
    assert not layer.heavy


def test_attention_is_told_by_its_kernel() -> None:
    (layer,) = read(log(line("_gemm_mha_v2_myl0_4", "kgen", "Int8 Int8 Int8", ())), "1.7")
    assert layer.attention and layer.heavy and layer.coded == "Int8"


UNKNOWN = {
    "no layers": (["nothing of the kind"], "lists no layers"),
    "an empty list": (["Layers:\n\nI/O Tensors:"], "is empty"),
    "another field": (log("Name: a, Kind: gemm, Inputs: [], Outputs: []"), "has no LayerType"),
    "another type": (log(line("a", "gemm", "Int9")), "no known type"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_format_is_said_to_be_one(name: str) -> None:
    messages, words = UNKNOWN[name]
    with pytest.raises(VerificationError, match=rf"tensorrt-rtx 9\.9 is of an unknown format .*{words}"):
        read(messages, "9.9")


def test_fates_are_told_by_the_layers_that_hold_a_node() -> None:
    layers = read(
        log(
            line("c_myl0_1", "correlation", "Int8", ("Int8", "Float"), "conv", "conv_DequantizeLinear"),
            line("__myl_CastMulFc_myl0_2", "runtime_fusion", "Int8 Float", (), "mixed"),
            line("__myl_CastMul_myl0_3", "kgen", "Int8", ("Int8", "Float"), "mixed"),
            line("b_myl0_4", "gemm", "Int8 Int8", (), "score"),
        ),
        "1.7",
    )
    engine = Engine("sm89", "1.7", layers, 1000, 0.1, 1)
    fates = engine.fates(["conv", "mixed", "score", "gone"], attention={"score"})
    assert [fate.fused for fate in fates.values()] == [True, False, False, True]
    assert fates["conv"].form == "correlation Int8"
    assert fates["mixed"].why == "its layer reads Int8, Float"
    assert fates["score"].why == SPLIT
    assert engine.histogram() == {"correlation Int8": 1, "gemm Int8": 1, "kgen Int8": 1, "runtime_fusion Float": 1}
