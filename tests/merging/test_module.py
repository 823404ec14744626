"""One module merged: exact sums, the optimum at a rank, and what cancels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.ranks import Rule
from lorakit.lowrank.sums import decompose, of_dense
from lorakit.merging._module import merged
from lorakit.registry import MERGE_METHODS

LINEAR = MERGE_METHODS["linear"]


def low(shape, rank, seed, alpha=1.0):
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *shape[1:], generator=draw)
    return LowRank(down, torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=draw), alpha)


def wide(delta):
    return delta.mapped(lambda x: x.double()).delta()


shapes = st.sampled_from([(1, 1), (5, 3), (20, 30), (40, 9), (6, 4, 3, 3)])
terms = st.lists(
    st.tuples(st.integers(1, 6), st.floats(-2, 2), st.sampled_from([0.5, 1.0, 7.0])), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(shapes, terms, st.integers(0, 999), st.sampled_from([Rule("full"), None, Rule("energy", 1.0)]))
def test_the_sum_is_that_of_the_products(shape, found, seed, rule):
    deltas = [low(shape, rank, seed + i, alpha) for i, (rank, _, alpha) in enumerate(found)]
    weights = [weight for _, weight, _ in found]
    made = merged(LINEAR, deltas, weights, {}, rule)
    wanted = sum(w * wide(d) for w, d in zip(weights, deltas, strict=True))
    largest = max(abs(w) * float(wide(d).norm()) for w, d in zip(weights, deltas, strict=True))
    found = wide(made.low) if made.low is not None else torch.zeros(shape).double()
    assert float((found - wanted).norm()) <= 2e-6 * largest + 1e-30


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 6), st.integers(1, 9), st.integers(0, 999))
def test_a_rank_is_the_optimum_and_its_error_is_stated(shape, most, rank, seed):
    deltas = [low(shape, 4, seed), low(shape, 3, seed + 1)]
    made = merged(LINEAR, deltas, [1.0, -0.5], {}, Rule("fixed", min(most, rank)))
    whole = (wide(deltas[0]) - 0.5 * wide(deltas[1])).flatten(1)
    values = torch.linalg.svdvals(whole)
    best = float((values[min(most, rank) :].square().sum() / values.square().sum()).sqrt())
    error = float((wide(made.low).flatten(1) - whole).norm() / whole.norm())
    assert error <= best * 1.0001 + 2e-6 and made.error == pytest.approx(error, abs=3e-6, rel=1e-4)


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.3, -0.3), (0.0, 0.0)])
@pytest.mark.parametrize(
    "rule", [Rule("full"), Rule("fixed", 2), Rule("energy", 0.9), Rule("auto"), Rule("budget", 1e6)]
)
@pytest.mark.parametrize("method", ["linear", "cat", "ties"])
def test_what_cancels_is_nothing(method, rule, weights):
    a = low((20, 30), 4, 1)
    assert merged(MERGE_METHODS[method], [a, a], weights, {}, rule).low is None


def test_rounding_of_the_weights_does_not_keep_what_cancels():
    a, b = low((20, 30), 4, 1), low((20, 30), 2, 2)
    assert merged(LINEAR, [a, a, a], [0.1, 0.2, -0.3], {}, None).low is None
    made = merged(LINEAR, [a, a, a, b], [0.1, 0.2, -0.3, 1e-3], {}, None)
    assert made.low.rank == 2
    torch.testing.assert_close(made.low.delta(), 1e-3 * b.delta(), rtol=1e-4, atol=1e-6)


def test_an_adapter_beside_itself_keeps_its_rank_but_with_cat():
    a = low((20, 30), 4, 1)
    assert merged(LINEAR, [a, a], [1.0, 1.0], {}, None).low.rank == 4
    assert merged(MERGE_METHODS["cat"], [a, a], [1.0, 1.0], {}, None).low.rank == 8


def test_a_strongly_cancelling_difference_is_cut_in_float64():
    a, small = low((60, 50), 4, 1), low((60, 50), 4, 2)
    near = LowRank(
        torch.cat([a.down, small.down]), torch.cat([a.up, 1e-4 * small.up], 1), 2.0
    )  # scale 1/4, as a has it
    made = merged(LINEAR, [near, a], [1.0, -1.0], {}, Rule("fixed", 4))
    wanted = 1e-4 * wide(small)
    assert float((wide(made.low) - wanted).norm() / wanted.norm()) < 1e-3


def test_a_linear_layer_and_a_point_convolution_are_the_same_weight():
    a, b = low((6, 4), 2, 1), low((6, 4, 1, 1), 2, 2)
    made = merged(LINEAR, [a, b], [1.0, 1.0], {}, None)
    assert made.low.shape == (6, 4, 1, 1)
    torch.testing.assert_close(made.low.delta()[:, :, 0, 0], a.delta() + b.delta()[:, :, 0, 0])


def test_a_dense_method_gets_the_sum_of_the_ranks_by_default():
    a, b = low((80, 90), 4, 1), low((80, 90), 3, 2)
    made = merged(MERGE_METHODS["ties"], [a, b], [1.0, 1.0], {}, None)
    assert made.low.rank == 7 and 0 < made.error < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 8), st.integers(0, 99))
def test_the_triplets_of_a_dense_delta_are_the_optimum(out, fan_in, most, seed):
    dense = torch.randn(out, fan_in, generator=torch.Generator().manual_seed(seed))
    found = of_dense(dense, (out, fan_in), most)
    k = min(most, out, fan_in)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(dense)[:k], rtol=1e-3, atol=1e-4)
    best = float(torch.linalg.svdvals(dense.double())[k:].norm() / dense.norm())
    error = float((found.cut(k).delta() - dense).norm() / dense.norm())
    assert error <= best * 1.001 + 1e-5 and found.error(k) == pytest.approx(error, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.floats(-4, 4), st.integers(0, 99))
def test_triplets_of_factors_are_theirs_however_bad_the_factors(out, fan_in, rank, power, seed):
    draw = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, rank, generator=draw), torch.randn(rank, fan_in, generator=draw)
    scales = 10.0 ** torch.linspace(0, power, rank)
    found = decompose(up * scales, down / scales[:, None], (out, fan_in))
    wanted = (up.double() * scales) @ (down.double() / scales[:, None].double())
    error = float(((found.u.double() * found.s) @ found.vh.double() - wanted).norm() / wanted.norm())
    assert error < 2e-6
