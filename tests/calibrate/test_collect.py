"""Collecting counts what the tensors held, at every depth, with and without the native library."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from calibrate import graphs

from qcompiler import ir
from qcompiler.calibrate import Collector, TensorStatistics, collect
from qcompiler.errors import DataError, DependencyError, StatisticsError

Feed = dict[str, np.ndarray]


def feed(*values: float) -> Feed:
    return {"x": np.array(values, np.float32)}


def of(*values: float) -> TensorStatistics:
    return TensorStatistics.of(np.array(values, np.float32))


def test_a_chain(path: str) -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(rows, 3)).astype(np.float32)} for rows in (1, 7, 2)]
    before = ir.to_proto(graph := graphs.chain()).SerializeToString()
    seen = collect(graph, ["x", "square"], feeds, threads=1)
    x = np.concatenate([f["x"] for f in feeds])
    assert seen.tensors == {"x": TensorStatistics.of(x), "square": TensorStatistics.of(x * x)}
    assert seen.samples == 3
    assert ir.to_proto(graph).SerializeToString() == before


def test_both_branches_of_if(path: str) -> None:
    seen = collect(graphs.branches(), ["doubled", "lowered", "x"], [feed(1, 2), feed(-3), feed(5)]).tensors
    assert seen["doubled"] == of(2, 4, 10)
    assert seen["lowered"] == of(-4)


def test_a_branch_never_taken_is_empty(path: str) -> None:
    seen = collect(graphs.branches(), ["doubled", "lowered"], [feed(1)]).tensors
    assert seen["lowered"] == TensorStatistics.empty()


def test_every_iteration_of_loop(path: str) -> None:
    seen = collect(graphs.loop(), ["value", "next", "last"], [feed(1, -1), feed(3)]).tensors
    assert seen["value"] == of(1, -1, 2, -2, 4, -4, 3, 6, 12)
    assert seen["next"] == of(2, -2, 4, -4, 8, -8, 6, 12, 24)
    assert seen["last"] == of(8, -8, 24)


def test_loops_that_grow_need_the_native_library(path: str) -> None:
    graph = graphs.loop("Concat", axis=0)
    if path == "native":
        assert collect(graph, ["value"], [feed(3)]).tensors["value"] == of(3, 3, 3, 3, 3, 3, 3)
    else:
        with pytest.raises(DependencyError, match=r"^tensor 'value': tensors in loops that change their size can be"):
            collect(graph, ["value"], [feed(3)])


def test_bodies_in_bodies(path: str) -> None:
    inner = """y = If (positive) <
            then_branch = a () => (float[N] z) {
                z = If (large) <
                    then_branch = c () => (float[N] tripled) { tripled = Mul(x, three) },
                    else_branch = d () => (float[N] same) { same = Identity(x) }
                >
            },
            else_branch = b () => (float[N] negated) { negated = Neg(x) }
        >"""
    graph = graphs.graph(
        f"g (float[N] x) => (float[M] y) {{ total = ReduceSum <keepdims = 0> (x) "
        f"positive = Greater(total, zero) large = Greater(total, ten) {inner} }}",
        zero=np.float32(0),
        ten=np.float32(10),
        three=np.float32(3),
    )
    seen = collect(graph, ["tripled", "same", "negated"], [feed(1), feed(20), feed(-2), feed(30)]).tensors
    assert seen == {"tripled": of(60, 90), "same": of(1), "negated": of(2)}


def test_every_step_of_scan(path: str) -> None:
    seen = collect(graphs.scan(), ["row", "total"], [{"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}]).tensors
    assert seen["row"] == of(1, 2, 3, 4, 5, 6)
    assert seen["total"] == of(1, 2, 3, 5, 7, 9)


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_floats_count_as_float32(path: str, kind: str) -> None:
    graph = graphs.graph(
        f"g ({'float' if kind == 'bfloat16' else kind}[N] x) => (float[N] y)"
        f"{{ z = Cast <to = {dict(float16=10, double=11, bfloat16=16)[kind]}> (x) y = Cast <to = 1> (z) }}"
    )
    x = np.array([0.5, -2.0, 3.0], {"float16": np.float16, "double": np.float64, "bfloat16": np.float32}[kind])
    assert collect(graph, ["z"], [{"x": x}]).tensors["z"] == of(0.5, -2, 3)


def test_what_is_not_finite_is_counted_with_its_first_sample(path: str) -> None:
    graph = graphs.graph("g (float[N] x) => (float[N] y) { y = Log(x) }")
    seen = collect(graph, ["x", "y"], [feed(1, 1), feed(0, 2), feed(-1, 0)]).tensors
    assert (seen["y"].nan, seen["y"].negative_infinity, seen["y"].positive_infinity) == (1, 2, 0)
    assert seen["y"].first_bad_sample == 1
    assert seen["y"].finite == 3 and seen["y"].smallest == 0
    assert seen["x"].first_bad_sample is None


def test_samples_from_a_generator_are_run_once(path: str) -> None:
    graph = graphs.graph("g (float[N] x) => (float[N] y) { y = Log(x) }")
    seen = collect(graph, ["y"], (feed(value) for value in (1, 0))).tensors["y"]
    assert seen.bad == 1


def test_progress_is_reported() -> None:
    calls: list[tuple[int, int | None]] = []
    collect(graphs.chain(), ["square"], [{"x": np.ones((1, 3), np.float32)}] * 2, on_sample=lambda *c: calls.append(c))
    assert calls == [(1, 2), (2, 2)]


def test_nothing_to_observe(path: str) -> None:
    assert collect(graphs.chain(), [], [{"x": np.ones((1, 3), np.float32)}]).tensors == {}


def test_a_collector_can_be_read_at_any_time(path: str) -> None:
    with Collector(graphs.branches(), ["doubled"]) as collector:
        collector.observe(feed(1))
        first = collector.statistics()
        collector.observe(feed(2))
        assert first.tensors["doubled"] == of(2) and first.samples == 1
        assert collector.statistics().tensors["doubled"] == of(2, 4)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("squares", "tensor 'squares': is not in the model; did you mean 'square'?"),
        ("total", "tensor 'total': is int64 (only floating-point tensors are observed)"),
        ("w", "tensor 'w': is a constant (its values need no observing)"),
    ],
)
def test_tensors_that_cannot_be_observed(tensor: str, message: str) -> None:
    graph = graphs.graph(
        "g (float[N] x) => (float[N] y, int64[1] total) { square = Mul(x, w) y = Sqrt(square) total = Shape(y) }",
        w=np.ones(1, np.float32),
    )
    with pytest.raises(StatisticsError) as caught:
        collect(graph, [tensor], [feed(1)])
    assert str(caught.value) == message.replace("'?", "'")


def test_a_failing_sample_is_named(path: str) -> None:
    graph = graphs.graph("g (float[N] x) => (float[N] y) { y = Add(x, w) }", w=np.ones(3, np.float32))
    with pytest.raises(DataError, match=r"^sample 1 fails \(.*\); repair it or leave it out$") as caught:
        collect(graph, ["y"], [feed(1, 2, 3), feed(1, 2)])
    assert "\n" not in str(caught.value)


def test_no_samples(path: str) -> None:
    with pytest.raises(DataError, match="there are no samples"):
        collect(graphs.chain(), ["x"], [])


@pytest.mark.slow
def test_memory_does_not_grow_with_samples(path: str) -> None:
    program = f"""
import resource, numpy as np
from qcompiler import ir, native
from qcompiler.calibrate import collect
from onnx import parser
native.available = lambda available=native.available: available() and {path == "native"}
text = "g (float[N] x) => (float[N] y) {{ a = Mul(x, x) b = Exp(x) y = Add(a, b) }}"
graph = ir.load(parser.parse_model('<ir_version: 9, opset_import: ["": 17]> ' + text))
random = np.random.default_rng(0)
def feeds(count):
    return ({{"x": random.normal(size=250_000).astype(np.float32)}} for _ in range(count))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
collect(graph, ["x", "a", "b", "y"], feeds(4)); few = peak()
collect(graph, ["x", "a", "b", "y"], feeds(150)); many = peak()
print((many - few) / 1024)
"""
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(grown) < 8, "150 samples hold 4 MB of activations each"
