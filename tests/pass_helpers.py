"""Small programs for tests of passes: build one, run a pass through the pipeline, compare what both compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from qcompiler import ir, runtime
from qcompiler.pipeline import Diagnostic, Pass, PassContext, Pipeline


def program(text: str, constants: Mapping[str, Any] | None = None, opset: int = 17, ir_version: int = 8) -> ir.Graph:
    """A graph from ONNX's text syntax, ``(float[2] x) => (float[2] y) { y = Relu(x) }``, and its weights by name."""
    body = text.strip()
    imports = f'"": {opset}, "custom": 1' + (', "com.microsoft": 1' if "com.microsoft" in body else "")
    model = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> agraph {body}")
    for name, values in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return ir.load(model)


def with_body(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[Any]], outputs: Sequence[str], opset: int = 17
) -> ir.Graph:
    """A graph from protobuf nodes, for what the text syntax has no way to say, such as bodies. All is float."""
    graph = helper.make_graph(
        nodes,
        "agraph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def run_pass(one: Pass, graph: ir.Graph) -> tuple[ir.Graph, int, list[Diagnostic]]:
    """A clone of the graph after the pass, with the rewrites and the diagnostics; dead nodes are taken out."""
    result = ir.clone(graph)
    pipeline = Pipeline([one])
    pipeline.run(result, PassContext())
    ir.remove_dead(result)
    return result, sum(run.result.rewrites for run in pipeline.runs), pipeline.diagnostics


def refusals(diagnostics: Sequence[Diagnostic]) -> list[str]:
    return [f"{d.where}: {d.message}" for d in diagnostics if d.severity == "refused"]


def ops(graph: ir.Graph) -> list[str]:
    """Operator types at every depth, outer before inner."""
    return [node.op for _, node in ir.all_nodes(graph)]


def feed(graph: ir.Graph, seed: int = 0, **dims: int) -> runtime.Feed:
    """Random values for every input; ``dims`` gives symbolic dimensions their sizes (2 otherwise)."""
    random = np.random.default_rng(seed)
    made = {}
    for tensor in graph.inputs:
        shape = [d if isinstance(d, int) else dims.get(str(d), 2) for d in tensor.shape or []]
        kind = np.dtype(tensor.dtype)
        if kind.kind == "f":
            made[tensor.name] = random.normal(size=shape).astype(kind)
        elif kind.kind == "b":
            made[tensor.name] = random.integers(0, 2, shape).astype(bool)
        else:
            made[tensor.name] = random.integers(0, 3, shape).astype(kind)
    return made


def outputs(graph: ir.Graph, values: runtime.Feed) -> dict[str, np.ndarray]:
    with runtime.session(graph, optimize="none") as session:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, runtime.run(session, values)))


def assert_same(before: ir.Graph, after: ir.Graph, *, rtol: float = 0.0, atol: float = 0.0, **dims: int) -> None:
    """Both graphs have the same outputs, bit for bit unless a tolerance is given, on random feeds."""
    for seed in range(2):
        values = feed(before, seed, **dims)
        expected, found = outputs(before, values), outputs(after, values)
        assert list(expected) == list(found)
        for name, value in expected.items():
            assert value.dtype == found[name].dtype and value.shape == found[name].shape, name
            if rtol or atol:
                np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)
            else:
                assert value.tobytes() == found[name].tobytes(), name
