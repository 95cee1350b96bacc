"""Small models and samples, made on the spot, and a way to run a command on them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def fails(self, code: int, *words: str) -> None:
        """One line on standard error that holds the words, no traceback, and the exit code."""
        assert self.code == code, self
        assert self.err.startswith("qcompiler: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        assert "Traceback" not in self.err + self.out
        for word in words:
            assert word in self.err, self.err


def invoke(*arguments: object) -> Outcome:
    """The command in this process."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as done:
            code = done.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def spawn(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "qcompiler", *(str(argument) for argument in arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options  # type: ignore[call-overload]
    )


def run(*arguments: object, **options: object) -> Outcome:
    process = spawn(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def convolutions() -> onnx.ModelProto:
    """x [n, 3, 16, 16] through Conv, BatchNormalization, Relu, Conv, pooling and MatMul to y [n, 4]."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> onnx.TensorProto:
        return numpy_helper.from_array((scale * random.normal(size=shape) + shift).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"], "norm"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        helper.make_node("Tanh", ["c2"], ["t"], "tanh"),
        helper.make_node("GlobalAveragePool", ["t"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "classify"),
    ]
    weights = [
        weight("w1", 8, 3, 3, 3), weight("b1", 8), weight("w2", 8, 8, 3, 3, scale=0.1), weight("w3", 8, 4),
        weight("s", 8, scale=0.1, shift=1), weight("b", 8), weight("m", 8), weight("v", 8, scale=0.1, shift=2),
    ]  # fmt: skip
    return _model(nodes, {"x": ["n", 3, 16, 16]}, {"y": ["n", 4]}, weights)


def matrices() -> onnx.ModelProto:
    """x [n, 16] through two layers to y [n, 3]."""
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], "first"),
        helper.make_node("Relu", ["m1"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "second"),
    ]
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w1", (16, 32)), ("w2", (32, 3)))
    ]
    return _model(nodes, {"x": ["n", 16]}, {"y": ["n", 3]}, weights)


def branches() -> onnx.ModelProto:
    """x [1, 16] through one of two layers, as a flag says, to y [1, 8]."""
    random = np.random.default_rng(2)
    bodies = {}
    for name in ("then", "else"):
        weight = numpy_helper.from_array(random.normal(size=(16, 8)).astype(np.float32), f"{name}_w")
        node = helper.make_node("MatMul", ["x", weight.name], [f"{name}_y"], f"{name}_layer")
        output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 8])
        bodies[f"{name}_branch"] = helper.make_graph([node], name, [], [output], [weight])
    choose = helper.make_node("If", ["flag"], ["y"], "choose", **bodies)
    model = _model([choose], {"x": [1, 16]}, {"y": [1, 8]}, [])
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    return model


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, to see that nothing was touched or left behind."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
