"""The ways to round weights to four bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from four_bit_models import language_model, texts

from qcompiler import calibrate, ir, numerics
from qcompiler.errors import PassError
from qcompiler.four_bits import Codes
from qcompiler.passes import clip_weights, half_quadratic
from qcompiler.passes._weights import Weight, weights
from qcompiler.passes.clip_weights import ClipWeights
from qcompiler.passes.compensate_weights import CompensateWeights
from qcompiler.passes.half_quadratic import HalfQuadratic
from qcompiler.passes.nearest_weights import NearestWeights
from qcompiler.passes.place import Place
from qcompiler.passes.tie_transposed import TieTransposed
from qcompiler.pipeline import Pass, PassContext, Pipeline
from qcompiler.plan import Plan, Site, TensorQuant
from qcompiler.runtime import run, session
from qcompiler.scheme import PerBlock, Scheme
from qcompiler.target import Target
from qcompiler.target_files import load_target

TARGET = load_target("ort-cpu", "vnni").at("int4")


def blocks(seed: int = 0) -> np.ndarray:
    """[outputs, blocks, block], with a few outliers and a block of zeros."""
    random = np.random.default_rng(seed)
    values = random.standard_t(4, size=(24, 6, 32)).astype(np.float32)
    values[3, 2] = 0.0
    return values


def placed(graph: ir.Graph, target: Target = TARGET) -> Plan:
    ctx = Pipeline([TieTransposed(), Place("int4")]).run(graph, PassContext(target, Plan()))
    assert ctx.plan is not None
    return ctx.plan


def rounded(graph: ir.Graph, plan: Plan, one: Pass, **more: object) -> tuple[Plan, list[str]]:
    result = one.run(graph, PassContext(TARGET, plan, **more))
    assert result.plan is not None
    return result.plan, [str(d) for d in result.diagnostics]


def model(tied: bool = True) -> ir.Graph:
    graph = ir.load(language_model(tied))
    for node in list(graph.nodes):
        if node.op == "Transpose":  # as fold-constants leaves it
            product = next(other for other in graph.nodes if other.name == "head")
            product.inputs[1] = ir.Constant("W", np.ascontiguousarray(node.inputs[0].values.T))
            ir.detach(node)
            graph.nodes.remove(node)
    ir.infer_shapes(graph)
    return graph


def error(values: np.ndarray, plan: Plan, site: Site) -> float:
    quant = plan.sites[site]
    codes = plan.codes(site.tensor, values, quant)
    return float(np.sum((numerics.dequantize(codes, quant.scale, quant.zero_point, quant.scheme) - values) ** 2))


def test_the_farthest_value_takes_the_lowest_code() -> None:
    graph = model()
    plan, _ = rounded(graph, placed(graph), NearestWeights())
    quant = plan.sites[Site("A", "up", 1)]
    values = ir.all_tensors(graph)["A"].values
    codes = plan.codes("A", values, quant)
    farthest = np.abs(values).reshape(-1, 32, values.shape[1]).argmax(axis=1)
    reached = np.take_along_axis(codes.reshape(-1, 32, values.shape[1]), farthest[:, None], 1)
    assert np.all(reached == -8) and (quant.scale < 0).any() and (quant.scale > 0).any()


def test_each_way_is_better_than_the_one_before() -> None:
    graph = model()
    plan, values = placed(graph), ir.all_tensors(graph)["A"].values
    site = Site("A", "up", 1)
    nearest, clipped = (error(values, rounded(graph, plan, one)[0], site) for one in (NearestWeights(), ClipWeights()))
    offset = rounded(graph, placed(graph, TARGET.with_weights(zero_points=True)), HalfQuadratic())[0]
    assert error(values, offset, site) < nearest and clipped < 0.95 * nearest


def test_searched_scales_are_no_worse_than_any_that_was_tried() -> None:
    values = blocks()
    scale = clip_weights.best_scales(values)
    codes = np.clip(np.rint(values / scale[..., None]), -8, 7)
    found = np.sum((codes * scale[..., None] - values) ** 2, axis=2)
    for ratio in (1.0, 0.9, 0.8, 0.7):
        plain = np.maximum(np.abs(values).max(axis=2), 1e-9)[..., None] * np.float32(ratio / 7)
        other = np.sum((np.clip(np.rint(values / plain), -8, 7) * plain - values) ** 2, axis=2)
        assert np.all(found <= other * (1 + 1e-5))
    assert scale[3, 2] == 1.0 and np.all(np.isfinite(scale))


def test_important_inputs_are_rounded_finer() -> None:
    values, importance = blocks(), np.ones((6, 32), np.float32)
    importance[:, :8] = 100.0
    errors = []
    for weighting in (None, importance):
        scale = clip_weights.best_scales(values, weighting)[..., None]
        wrong = (np.clip(np.rint(values / scale), -8, 7) * scale - values) ** 2
        errors.append(float(np.sum(wrong[..., :8])))
    assert errors[1] < errors[0]


def test_searched_zero_points_are_no_worse_than_none_and_good_for_values_on_one_side() -> None:
    for values, share in ((blocks(), 1.0), (np.abs(blocks()), 0.4)):
        scale, zero = clip_weights.best_ranges(values)
        assert (scale > 0).all() and zero.min() >= 0 and zero.max() <= 15
        codes = np.clip(np.rint(values / scale[..., None]), -zero[..., None], 15 - zero[..., None])
        symmetric = clip_weights.best_scales(values)[..., None]
        other = np.clip(np.rint(values / symmetric), -8, 7) * symmetric
        assert np.sum((codes * scale[..., None] - values) ** 2) < share * np.sum((other - values) ** 2)
        assert (codes[3, 2] == 0).all() and scale[3, 2] == 1.0


def test_half_quadratic_moves_zero_points() -> None:
    values = np.abs(blocks())  # all on one side of zero
    scale, zero = half_quadratic.HalfQuadratic().solved(values)
    assert zero.min() >= 0 and zero.max() <= 15 and np.median(zero) <= 1
    codes = np.clip(np.rint(values / scale[..., None] + zero[..., None]), 0, 15) - zero[..., None]
    symmetric = clip_weights.best_scales(values)[..., None]
    other = np.clip(np.rint(values / symmetric), -8, 7) * symmetric
    assert np.sum((codes * scale[..., None] - values) ** 2) < 0.6 * np.sum((other - values) ** 2)


def test_half_quadratic_wants_zero_points() -> None:
    graph = model()
    with pytest.raises(PassError, match=r"weight 'A'.*moves zero points.*hqq"):
        rounded(graph, placed(graph), HalfQuadratic())


def compensated(
    graph: ir.Graph, one: CompensateWeights, moments: dict[str, calibrate.Moments] | None = None
) -> tuple[Plan, list[str]]:
    plan = placed(graph)
    found = calibrate.second_moments(graph, one.wanted(graph, plan), texts(16)) if moments is None else moments
    return rounded(graph, plan, one, moments=found)


def test_other_texts_see_less_noise() -> None:
    graph = model(tied=False)
    clipped, _ = rounded(graph, placed(graph), ClipWeights())
    plan, remarks = compensated(graph, CompensateWeights())
    noise = []
    for one in (clipped, plan):
        only = replace(one, sites={site: quant for site, quant in one.sites.items() if site.node != "embed"})
        coded = ir.clone(graph)
        from qcompiler.passes.lower import Lower

        coded.opset = 21
        Pipeline([Lower()]).run(coded, PassContext(TARGET, only))
        with session(graph) as exact, session(coded) as own:
            pairs = [(run(exact, feed)[0], run(own, feed)[0]) for feed in texts(8, 40)]
        noise.append(sum(float(np.sum((a - b) ** 2)) for a, b in pairs))
    assert noise[1] < 0.8 * noise[0]
    assert any("E: no product reads it" in remark for remark in remarks)
    assert any("A: rounded with the others in mind" in remark for remark in remarks)


def test_zero_points_make_less_noise() -> None:
    graph = model(tied=False)
    one, asymmetric = CompensateWeights(), TARGET.with_weights(zero_points=True)
    moments = calibrate.second_moments(graph, one.wanted(graph, placed(graph)), texts(16))
    noise = []
    for target in (TARGET, asymmetric):
        plan, _ = rounded(graph, placed(graph, target), one, moments=moments)
        quant, values = plan.sites[Site("A", "up", 1)], ir.all_tensors(graph)["A"].values
        exact = numerics.dequantize(plan.codes("A", values, quant), quant.scale, quant.zero_point, quant.scheme)
        wrong = (exact - values).T
        noise.append(float(np.sum((wrong @ moments["A"].held_out[0][0]) * wrong)))
    assert plan.sites[Site("A", "up", 1)].zero_point.std() > 0
    assert noise[1] < noise[0]


def test_a_tied_weight_is_rounded_once_for_both() -> None:
    graph = model()
    plan = placed(graph)
    assert len(weights(graph, plan)) == 3
    plan, _ = compensated(graph, CompensateWeights())
    table, head = plan.sites[Site("E", "embed", 0)], plan.sites[Site("W", "head", 1)]
    assert np.array_equal(table.scale, head.scale.T)
    assert np.array_equal(plan.four_bit_rounding["E"], plan.four_bit_rounding["W"].T)


def test_square_weights_are_not_turned_over() -> None:
    graph = model()
    one = CompensateWeights()
    todo = weights(graph, placed(graph))
    square = next(weight for weight in todo if weight.name == "A")
    values = np.ascontiguousarray(square.values[:64])
    assert values.shape == (64, 64)
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 64)).astype(np.float32).cumsum(axis=1)
    moment = (rows.T @ rows / 500)[None]
    found = one.rounded(Weight(values, 32, square.scheme, square.sites), calibrate.Moments((moment,), (moment,)))
    assert found.change is not None
    steps = np.repeat(found.scale, 32, axis=1)
    codes = np.clip(np.rint(values / steps), -8, 7) + found.change
    plain = clip_weights.clipped(Weight(values, 32, square.scheme, square.sites))[0]
    nearest = np.clip(np.rint(values / np.repeat(plain, 32, axis=1)), -8, 7) * np.repeat(plain, 32, axis=1)
    ours, other = values - codes * steps, values - nearest
    assert np.sum((ours @ moment[0]) * ours) < 0.5 * np.sum((other @ moment[0]) * other)


def test_what_rounding_before_a_weight_has_done_is_taken_back() -> None:
    """Inputs come a fifth too small: larger weights make up for it, on samples that were held out too."""
    random = np.random.default_rng(1)
    values = random.normal(size=(48, 64)).astype(np.float32)
    exact = [random.normal(size=(400, 64)).astype(np.float32).cumsum(axis=1) for _ in range(2)]
    square = [(x.T @ x / 400)[None] for x in exact]
    moment, off = ([np.float32(factor) * part for part in square] for factor in (0.64, 0.16))
    drift = calibrate.Drift((off[0],), (off[1],), (np.float32(0.04) * square[1],))
    weight = Weight(values, 32, Scheme("uint4", False, PerBlock(1, 32)), [Site("A", "up", 1)])
    noise = []
    for known in (None, drift):
        found = CompensateWeights().rounded(weight, calibrate.Moments((moment[0],), (moment[1],), 0.5, known))
        assert found.change is not None
        zero = np.repeat(found.zero_point, 32, axis=1)
        steps = np.repeat(found.scale, 32, axis=1)
        codes = np.clip(np.rint(values / steps) + zero, 0, 15) + found.change - zero
        noise.append(float(np.sum((exact[1] @ values.T - 0.8 * exact[1] @ (codes * steps).T) ** 2)))
    assert noise[1] < 0.5 * noise[0]


def test_codes_are_alike_from_parts_and_from_the_plan() -> None:
    """Also where a weight that was cut off is moved back."""
    random = np.random.default_rng(0)
    values = random.normal(size=(64, 64)).astype(np.float32)
    scheme = Scheme("int4", True, PerBlock(1, 32))
    scale = np.full((64, 2), 0.1, np.float32)  # so that many are cut off
    quant = TensorQuant(scheme).solved(scale, np.zeros((64, 2), np.int64), "weights")
    change = random.integers(-3, 4, (64, 64)).astype(np.int8)
    codes = Codes(values, quant, change)
    wanted = Plan(four_bit_rounding={"w": change}).codes("w", values, quant)
    np.testing.assert_array_equal(codes.load().astype(np.int8), wanted.astype(np.int8))
    np.testing.assert_allclose(codes.dequantized(), wanted.astype(np.float32) * np.float32(0.1), rtol=1e-6)


def test_moments_that_cannot_be_factored_raise_the_damping() -> None:
    graph = model()
    plan = placed(graph)
    readers = CompensateWeights().wanted(graph, plan)
    moments = calibrate.second_moments(graph, readers, texts(16))

    def no_moment(part: np.ndarray) -> np.ndarray:
        """More moment between any two than in each: no rows have that."""
        return np.broadcast_to(2 - np.eye(part.shape[1], dtype=np.float32), part.shape)

    broken = {
        name: calibrate.Moments(tuple(no_moment(part) for part in one.fitted), one.held_out)
        for name, one in moments.items()
    }
    plan, remarks = compensated(graph, CompensateWeights(), broken)
    assert any("damping raised to 0.5" in remark for remark in remarks)
    assert any("rounded by itself" in remark for remark in remarks)
    clipped, _ = rounded(graph, placed(graph), ClipWeights())
    assert not plan.four_bit_rounding and plan.sites.keys() == clipped.sites.keys()


@pytest.mark.parametrize("one", [NearestWeights(), ClipWeights()])
def test_values_that_are_not_finite_leave_scales_that_are_not(one: Pass) -> None:
    graph = model()
    values = ir.all_tensors(graph)["A"].values.copy()
    values[5, 7] = np.inf
    ir.all_tensors(graph)["A"].values = values
    plan, _ = rounded(graph, placed(graph), one)
    assert not np.isfinite(plan.sites[Site("A", "up", 1)].scale).all()
    assert np.isfinite(plan.sites[Site("B", "down", 1)].scale).all()
