"""The pipeline: what goes wrong in a pass is found there and then, and said with the pass's name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from ir.programs import evaluate, model, tensor

from qcompiler import ir
from qcompiler.errors import ModelError, PassError, QCompilerError
from qcompiler.pipeline import Diagnostic, Pass, PassContext, PassResult, Pipeline, bisect
from qcompiler.plan import Plan

CHAIN = "(float[2] x) => (float[2] y) { a = Relu(x)  b = Add(a, w)  y = Neg(b) }"
ONES = np.ones(2, np.float32)


def chain() -> ir.Graph:
    return ir.load(model(CHAIN, w=ONES))


@dataclass(frozen=True)
class Edit(Pass):
    """A pass out of a function."""

    name: ClassVar[str] = "edit"

    edit: Callable[[ir.Graph], object] = lambda graph: None

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        self.edit(graph)
        return PassResult(rewrites=1)


@dataclass(frozen=True)
class Nothing(Pass):
    name: ClassVar[str] = "nothing"

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        return PassResult()


@dataclass(frozen=True)
class Halve(Pass):
    """Wrong: the numbers are no longer those of the model."""

    name: ClassVar[str] = "halve"

    def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
        weight = tensor(graph, "w")
        weight.values = weight.values / 2
        return PassResult(rewrites=1)


def run(*passes: Pass, graph: ir.Graph | None = None) -> Pipeline:
    pipeline = Pipeline(passes)
    pipeline.run(graph or chain(), PassContext())
    return pipeline


def cycle(graph: ir.Graph) -> None:
    graph.nodes[0].inputs[0] = tensor(graph, "b")


def dangling(graph: ir.Graph) -> None:
    graph.nodes[1].inputs[0] = ir.Variable("ghost")


def dangling_after_removal(graph: ir.Graph) -> None:
    del graph.nodes[0]


def dangling_output(graph: ir.Graph) -> None:
    graph.outputs[0] = ir.Variable("y")


def same_name_for_two_tensors(graph: ir.Graph) -> None:
    tensor(graph, "b").name = "a"


def same_name_for_two_weights(graph: ir.Graph) -> None:
    graph.nodes[0].inputs.append(ir.Constant("w", ONES))


def same_name_for_two_nodes(graph: ir.Graph) -> None:
    graph.nodes[1].name = graph.nodes[0].name


def two_producers(graph: ir.Graph) -> None:
    graph.nodes.append(ir.Node("Exp", "extra", inputs=[graph.inputs[0]], outputs=[tensor(graph, "a")]))


def written_constant(graph: ir.Graph) -> None:
    graph.nodes.append(ir.Node("Exp", "extra", inputs=[graph.inputs[0]], outputs=[tensor(graph, "w")]))


def written_input(graph: ir.Graph) -> None:
    graph.nodes.append(ir.Node("Exp", "extra", inputs=[tensor(graph, "a")], outputs=[graph.inputs[0]]))


def renamed_output(graph: ir.Graph) -> None:
    graph.outputs[0].name = "z"


def lost_output(graph: ir.Graph) -> None:
    graph.outputs.clear()


def written_in_place(graph: ir.Graph) -> None:
    tensor(graph, "w").values[0] = 7


def missing_key(graph: ir.Graph) -> None:
    graph.nodes[0].attrs["no such attribute"]


def assertion(graph: ir.Graph) -> None:
    raise AssertionError("cannot be")


def runtime_error(graph: ir.Graph) -> None:
    raise RuntimeError("library says no")


def endless(graph: ir.Graph) -> None:
    endless(graph)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (cycle, "Relu_0 -> Add_1: the graph has a cycle"),
        (dangling, "node 'Add_1': input 'ghost' is never computed"),
        (dangling_after_removal, "node 'Add_1': input 'a' is never computed"),
        (dangling_output, "output 'y' is never computed"),
        (same_name_for_two_tensors, "two tensors are called 'a'"),
        (same_name_for_two_weights, "two tensors are called 'w'"),
        (same_name_for_two_nodes, "node name 'Relu_0' is used twice"),
        (two_producers, "node 'extra': tensor 'a' is computed twice"),
        (written_constant, "node 'extra': constant 'w' is written"),
        (written_input, "node 'extra': tensor 'x' is computed twice"),
        (renamed_output, "the model's inputs and outputs have changed (x => y became x => z)"),
        (lost_output, "the model's inputs and outputs have changed"),
        (written_in_place, "failed with ValueError: assignment destination is read-only"),
        (missing_key, "failed with KeyError: 'no such attribute'"),
        (assertion, "failed with AssertionError: cannot be"),
        (runtime_error, "failed with RuntimeError: library says no"),
        (endless, "failed with RecursionError"),
    ],
)
def test_a_wrong_pass_is_caught_and_named(wrong: Callable[[ir.Graph], None], said: str) -> None:
    with pytest.raises(PassError) as caught:
        run(Nothing(), Edit(wrong), Nothing())
    assert str(caught.value).startswith("pass edit: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_within_a_body_is_caught() -> None:
    text = """(float[2] x, bool c) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] p) { p = Relu(x) }, else_branch = e () => (float[2] q) { q = Neg(x) }> }"""
    graph = ir.load(model(text))

    def leak(graph: ir.Graph) -> None:
        then, otherwise = ir.subgraphs(graph.nodes[0])
        otherwise.nodes[0].inputs[0] = then.outputs[0]

    with pytest.raises(PassError, match=r"pass edit: node 'Neg_0': input 'p' is never computed"):
        run(Edit(leak), graph=graph)


def test_a_pass_that_says_how_to_leave_it_out() -> None:
    with pytest.raises(PassError, match=r"leave it out with --passes -edit, and report it"):
        run(Edit(missing_key))


def test_a_pass_that_returns_nothing() -> None:
    class Forgetful(Nothing):
        def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
            return None  # type: ignore[return-value]

    with pytest.raises(PassError, match="run returned NoneType, not PassResult"):
        run(Forgetful())


def test_a_pass_without_a_body() -> None:
    with pytest.raises(PassError, match="failed with NotImplementedError"):
        run(Pass())


def test_the_passes_own_errors_keep_their_advice() -> None:
    def refuse(graph: ir.Graph) -> None:
        raise ModelError("is odd", where="node 'n'", why="seen before", fix="change it")

    with pytest.raises(PassError, match=r"^pass edit: node 'n': is odd \(seen before\); change it$") as caught:
        run(Edit(refuse))
    assert isinstance(caught.value.__cause__, ModelError) and isinstance(caught.value, QCompilerError)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, MemoryError])
def test_neither_an_interruption_nor_full_memory_is_a_fault_of_the_pass(reason: type[BaseException]) -> None:
    def interrupted(graph: ir.Graph) -> None:
        raise reason

    with pytest.raises(reason):
        run(Edit(interrupted))


def test_the_passes_before_a_failure_have_their_record() -> None:
    pipeline = Pipeline([Nothing(), Edit(missing_key), Nothing()])
    with pytest.raises(PassError):
        pipeline.run(chain(), PassContext())
    assert [one.name for one in pipeline.runs] == ["nothing"]


def test_plain_graphsurgeon_code_is_a_pass() -> None:
    def triple(graph: gs.Graph) -> None:
        middle = gs.Variable("middle")
        graph.nodes.append(
            gs.Node("Mul", inputs=[graph.nodes[1].outputs[0], gs.Constant("three", ONES * 3)], outputs=[middle])
        )
        graph.nodes[2].inputs[0] = middle

    graph = chain()
    run(Edit(triple), graph=graph)
    assert [node.op for node in graph.nodes] == ["Relu", "Add", "Mul", "Neg"]
    assert evaluate(graph, x=ONES)[0].tolist() == [-6, -6]


def test_times_and_rewrites_are_recorded() -> None:
    pipeline = run(Edit(lambda graph: time.sleep(0.03)), Nothing(), Edit())
    assert [one.name for one in pipeline.runs] == ["edit", "nothing", "edit"]
    assert pipeline.runs[0].seconds >= 0.03 > pipeline.runs[1].seconds >= 0
    assert [one.result.rewrites for one in pipeline.runs] == [1, 0, 1]


def test_remarks_carry_the_name_of_their_pass() -> None:
    class Talker(Nothing):
        name: ClassVar[str] = "talker"

        def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
            return PassResult(diagnostics=(Diagnostic("node 'n'", "left alone", "refused"),))

    remark = run(Talker()).diagnostics[0]
    assert str(remark) == "talker: node 'n': left alone" and remark.severity == "refused"


def test_later_passes_see_the_newest_plan() -> None:
    seen: list[Plan | None] = []

    class Decide(Nothing):
        def run(self, graph: ir.Graph, ctx: PassContext) -> PassResult:
            seen.append(ctx.plan)
            return PassResult(plan=Plan())

    ctx = Pipeline([Decide(), Nothing(), Decide()]).run(chain(), PassContext())
    assert seen[0] is None and isinstance(seen[1], Plan) and isinstance(ctx.plan, Plan)


def test_the_hook_sees_each_sound_graph() -> None:
    seen: list[tuple[str, int]] = []
    pipeline = Pipeline([Nothing(), Edit(dangling)], after=lambda one, graph: seen.append((one.name, len(graph.nodes))))
    with pytest.raises(PassError):
        pipeline.run(chain(), PassContext())
    assert seen == [("nothing", 3)]


def right(graph: ir.Graph) -> bool:
    return evaluate(graph, x=ONES)[0].tolist() == [-2, -2]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_bisecting_finds_the_pass_that_changes_the_numbers(place: int, count: int) -> None:
    passes: list[Pass] = [Nothing() for _ in range(count)]
    wrong = Halve()
    passes.insert(min(place, count), wrong)
    graph = chain()
    assert bisect(passes, graph, PassContext(), right) is wrong
    assert right(graph)


def test_bisecting_a_right_pipeline_finds_nothing() -> None:
    assert bisect([Nothing(), Nothing()], chain(), PassContext(), right) is None


def test_bisecting_takes_few_probes() -> None:
    probes = 0

    def counted(graph: ir.Graph) -> bool:
        nonlocal probes
        probes += 1
        return right(graph)

    bisect([*(Nothing() for _ in range(31)), Halve()], chain(), PassContext(), counted)
    assert probes <= 6
