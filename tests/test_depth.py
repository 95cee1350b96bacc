"""Error by depth: which tensors are compared, and that it is their own error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pass_helpers import program
from planned import HERE, feeds, lowered, solved, weights

from qcompiler import depth, ir
from qcompiler.numerics import sqnr
from qcompiler.plan import Plan
from qcompiler.runtime import run, session
from qcompiler.search.sensitivity import with_outputs
from qcompiler.verify import fused

LAYERS = 6
WEIGHTS = weights(**{f"w{i}": (4, 4, 1, 1) for i in range(LAYERS)})


def chain() -> ir.Graph:
    """Convolutions with a Tanh between each two."""
    steps = " ".join(f"c{i} = Conv({f't{i - 1}' if i else 'x'}, w{i}) t{i} = Tanh(c{i})" for i in range(LAYERS))
    graph = program(f"(float[1,4,8,8] x) => (float[1,4,8,8] t{LAYERS - 1}) {{ {steps} }}", WEIGHTS)
    ir.infer_shapes(graph)
    return graph


def test_tensors_stand_in_the_order_of_the_model_with_their_makers() -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    found = depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph), 9.0)
    names = [one.tensor for one in found]
    assert names == [name for i in range(LAYERS) for name in (f"c{i}", f"t{i}") if name in names]
    assert {"c0", f"t{LAYERS - 1}"} <= set(names) and {one.op for one in found} <= {"Conv", "Tanh"}
    assert [one.position for one in found] == sorted(one.position for one in found)
    assert found[-1].position == 1.0 and all(10.0 < one.sqnr < 80.0 for one in found)


def test_it_is_the_error_of_codes_that_the_compiled_model_writes() -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    compiled, (feed,) = lowered(graph, plan), feeds(graph, 1)
    (first, *_) = depth.by_depth(graph, compiled, plan, [feed], 9.0)
    with session(with_outputs(graph, [first.tensor])) as plain:
        (wanted,) = run(plain, feed, [first.tensor])
    codes = f"{first.tensor}_dequantized"
    with session(with_outputs(compiled, [codes]), optimize="none") as own:
        (found,) = run(own, feed, [codes])
    assert first.sqnr == pytest.approx(sqnr(wanted, found), abs=0.5)


def test_looking_does_not_keep_the_runtime_from_fusing() -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    compiled = lowered(graph, plan)
    looked = with_outputs(compiled, [place.found for place in depth._places(graph, compiled, plan)])
    assert fused.optimize(looked).histogram()["QLinearConv"] == fused.optimize(compiled).histogram()["QLinearConv"]


def test_a_coarse_tensor_shows_where_it_is() -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    coarse = {
        site: quant.solved(quant.scale * 16, quant.zero_point, quant.origin) if site.tensor == "c3" else quant
        for site, quant in plan.sites.items()
        if quant.scale is not None and quant.zero_point is not None
    }
    assert any(site.tensor == "c3" for site in coarse)
    before = depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph), 9.0)
    plan = replace(plan, sites=coarse)
    after = depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph), 9.0)
    for one, other in zip(before, after):
        upstream = one.tensor in ("c0", "t0", "c1", "t1", "c2", "t2")
        assert (abs(one.sqnr - other.sqnr) < 0.1) if upstream else (other.sqnr < one.sqnr - 3.0), one


def test_no_more_than_so_many_with_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    every = depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph), 9.0)
    monkeypatch.setattr(depth, "MOST_TENSORS", 3)
    few = depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph), 9.0)
    assert len(few) == 3 and (few[0], few[-1]) == (every[0], every[-1])


def test_one_sample_at_least_and_no_more_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    ran = []
    monkeypatch.setattr(depth, "run", lambda model, feed, names: ran.append(feed) or run(model, feed, names))
    assert depth.by_depth(graph, lowered(graph, plan), plan, feeds(graph, 4), 0.0)
    assert len(ran) == 2  # the float model's run, and the compiled one's


def test_nothing_to_compare() -> None:
    graph = chain()
    plan = solved(graph, target=HERE)
    assert depth.by_depth(graph, lowered(graph, plan), plan, [], 1.0) == []
    (one,) = depth.by_depth(graph, graph, Plan(), feeds(graph), 1.0)
    assert one.tensor == f"t{LAYERS - 1}" and one.sqnr == np.inf  # the output, of a model left as it was
