"""Small models whose weights fit four bits."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

WORDS, WIDTH, HIDDEN = 96, 64, 128


def language_model(tied: bool = True, words: int = WORDS, width: int = WIDTH, hidden: int = HIDDEN) -> ModelProto:
    """ids [batch, sequence] to logits [batch, sequence, words]: "embed", "up" with its bias "add", "down" and "head",
    whose weight is the embedding's transpose, computed by a Transpose, if it is ``tied``."""
    random = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    constants = {"E": normal(words, width), "A": normal(width, hidden), "B": normal(hidden, width)}
    constants["bias"] = normal(hidden)
    head = [helper.make_node("Transpose", ["E"], ["W"], "transpose", perm=[1, 0])]
    if not tied:
        constants["W"], head = normal(width, words), []
    nodes = [
        helper.make_node("Gather", ["E", "ids"], ["x"], "embed"),
        helper.make_node("MatMul", ["x", "A"], ["h"], "up"),
        helper.make_node("Add", ["h", "bias"], ["b"], "add"),
        helper.make_node("Relu", ["b"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "B"], ["d"], "down"),
        helper.make_node("Add", ["d", "x"], ["s"], "join"),
        *head,
        helper.make_node("MatMul", ["s", "W"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "language",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", words])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def texts(count: int = 8, length: int = 24, words: int = WORDS) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [{"ids": random.integers(0, words, (1, length))} for _ in range(count)]
