"""From a small program to its plan and to the graph that the plan makes of it, a stage at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from pass_helpers import feed

from qcompiler import calibrate, ir
from qcompiler.passes.lower import Lower
from qcompiler.passes.lower_dynamic import LowerDynamic
from qcompiler.passes.place import Place
from qcompiler.passes.place_dynamic import PlaceDynamic
from qcompiler.passes.solve import Solve
from qcompiler.pipeline import Pass, PassContext, Pipeline, RowsPass
from qcompiler.plan import Plan, TensorQuant
from qcompiler.runtime import Feed
from qcompiler.target import Target
from qcompiler.target_files import load_target

TARGET = load_target("ort-cpu", "vnni")
HERE = load_target("ort-cpu")
"""Of this machine: for codes that its kernels are to multiply, which without VNNI must not use all eight bits."""


def weights(**shapes: Sequence[int]) -> dict[str, np.ndarray]:
    """Random constants by name."""
    random = np.random.default_rng(7)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def feeds(graph: ir.Graph, count: int = 4, **dims: int) -> list[Feed]:
    return [feed(graph, seed, **dims) for seed in range(count)]


def placed(
    graph: ir.Graph, kept: Mapping[str, str] | None = None, by: Pass | None = None, target: Target = TARGET
) -> Plan:
    plan = Pipeline([by or Place()]).run(graph, PassContext(target, Plan(kept=kept or {}))).plan
    assert plan is not None
    return plan


def observed(graph: ir.Graph, plan: Plan, samples: Sequence[Feed]) -> calibrate.Statistics:
    tensors = ir.all_tensors(graph)
    names = [name for name in plan.tensors() if not ir.is_constant(tensors[name])]
    return calibrate.collect(graph, names, samples)


def solved(
    graph: ir.Graph,
    plan: Plan | None = None,
    samples: Sequence[Feed] = (),
    observer: str = "minmax",
    target: Target = TARGET,
) -> Plan:
    """The plan with its numbers; placed first, and observed on random samples, where none are given."""
    plan = plan or placed(graph, target=target)
    statistics = observed(graph, plan, samples or feeds(graph))
    result = Pipeline([Solve(observer)]).run(graph, PassContext(target, plan, statistics)).plan
    assert result is not None
    return result


def lowered(graph: ir.Graph, plan: Plan, *more: Pass) -> ir.Graph:
    """A copy with the plan written into it, after ``more`` passes."""
    result = ir.clone(graph)
    Pipeline([Lower(), *more]).run(result, PassContext(TARGET, plan))
    return result


def uses(plan: Plan) -> dict[str, list[str]]:
    """Where each tensor is quantized: ``{"x": ["Conv_0:0"]}``."""
    return {name: [str(site) for site in sites] for name, sites in plan.tensors().items()}


def quant_of(plan: Plan, tensor: str) -> TensorQuant:
    """The one representation that the tensor has at all its uses."""
    (quant,) = set(plan.tensors()[tensor].values())
    return quant


def numbers(quant: TensorQuant) -> tuple[Any, Any]:
    assert quant.scale is not None and quant.zero_point is not None
    return quant.scale, quant.zero_point


def lowered_dynamically(graph: ir.Graph, plan: Plan | None = None) -> ir.Graph:
    """A copy with the plan written into it, by default the one without samples."""
    result = ir.clone(graph)
    if plan is None:
        plan = Pipeline([PlaceDynamic(), Solve()]).run(graph, PassContext(HERE)).plan
    Pipeline([Lower(), LowerDynamic()]).run(result, PassContext(HERE, plan))
    return result


def decided(one: RowsPass, graph: ir.Graph, plan: Plan | None = None, samples: int = 16) -> tuple[ir.Graph, Plan]:
    """A copy after the pass, and the plan with what it decided on rows; as a plan that is given has it."""
    result = ir.clone(graph)
    ir.infer_shapes(result)
    rows = None
    if plan is None:
        plan = placed(result)
        rows = calibrate.sample_rows(result, one.wanted(result, plan), feeds(graph, samples), most=one.rows)
    found = Pipeline([one]).run(result, PassContext(TARGET, plan, rows=rows)).plan
    assert found is not None
    return result, found


def branches() -> ir.Graph:
    """An If whose branches both multiply h [2, 32], x negated, to y [2, 8]; the second by way of a hidden layer."""
    bodies = {}
    hidden = [
        helper.make_node("MatMul", ["h", "else_v"], ["else_m"], "else_hidden"),
        helper.make_node("Relu", ["else_m"], ["else_r"], "else_relu"),
    ]
    for name, read, before in (("then", "h", []), ("else", "else_r", hidden)):
        nodes = [*before, helper.make_node("MatMul", [read, f"{name}_w"], [f"{name}_y"], f"{name}_product")]
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, 8])
        made = {f"{name}_{key}": values for key, values in weights(w=(32, 8), v=(32, 32)).items()}
        constants = [numpy_helper.from_array(values, key) for key, values in made.items()]
        bodies[f"{name}_branch"] = helper.make_graph(nodes, name, [], [result], constants)
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["h"], "outer"), helper.make_node("If", ["flag"], ["y"], "choose", **bodies)],
        "bodies",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8])],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
