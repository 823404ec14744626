"""One module merged: exact sums, the optimum at a rank, and what cancels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.ranks import RankRule
from lorakit.lowrank.sums import decompose, of_dense
from lorakit.merging.kernel.module import merged
from lorakit.registry import MERGE_METHODS

LINEAR = MERGE_METHODS["linear"]


def low(shape, rank, seed, alpha=1.0):
    draw = np.random.default_rng(seed)
    down = draw.standard_normal((rank, *shape[1:]), "f4")
    return LowRank(down, draw.standard_normal((shape[0], rank, *[1] * (len(shape) - 2)), "f4"), alpha)


def wide(delta):
    return delta.mapped(lambda x: x.astype("f8")).delta()


def flat(x):
    return x.reshape(len(x), -1)


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


shapes = st.sampled_from([(1, 1), (5, 3), (20, 30), (40, 9), (6, 4, 3, 3)])
terms = st.lists(
    st.tuples(st.integers(1, 6), st.floats(-2, 2), st.sampled_from([0.5, 1.0, 7.0])), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(shapes, terms, st.integers(0, 999), st.sampled_from([RankRule("full"), None, RankRule("energy", 1.0)]))
def test_the_sum_is_that_of_the_products(shape, found, seed, rule):
    deltas = [low(shape, rank, seed + i, alpha) for i, (rank, _, alpha) in enumerate(found)]
    weights = [weight for _, weight, _ in found]
    made = merged(LINEAR, deltas, weights, {}, rule)
    wanted = sum(w * wide(d) for w, d in zip(weights, deltas, strict=True))
    largest = max(abs(w) * np.linalg.norm(wide(d)) for w, d in zip(weights, deltas, strict=True))
    found = wide(made.low) if made.low is not None else np.zeros(shape)
    assert np.linalg.norm(found - wanted) <= 2e-6 * largest + 1e-30


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 6), st.integers(1, 9), st.integers(0, 999))
def test_a_rank_is_the_optimum_and_its_error_is_stated(shape, most, rank, seed):
    deltas = [low(shape, 4, seed), low(shape, 3, seed + 1)]
    made = merged(LINEAR, deltas, [1.0, -0.5], {}, RankRule("fixed", min(most, rank)))
    whole = flat(wide(deltas[0]) - 0.5 * wide(deltas[1]))
    values = np.linalg.svd(whole, compute_uv=False)
    best = float((values[min(most, rank) :] ** 2).sum() / (values**2).sum()) ** 0.5
    error = relative(flat(wide(made.low)), whole)
    assert error <= best * 1.0001 + 2e-6 and made.error == pytest.approx(error, abs=3e-6, rel=1e-4)


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.3, -0.3), (0.0, 0.0)])
@pytest.mark.parametrize(
    "rule", [RankRule("full"), RankRule("fixed", 2), RankRule("energy", 0.9), RankRule("auto"), RankRule("budget", 1e6)]
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
    np.testing.assert_allclose(made.low.delta(), 1e-3 * b.delta(), rtol=1e-4, atol=1e-6)


def test_an_adapter_beside_itself_keeps_its_rank_but_with_cat():
    a = low((20, 30), 4, 1)
    assert merged(LINEAR, [a, a], [1.0, 1.0], {}, None).low.rank == 4
    assert merged(MERGE_METHODS["cat"], [a, a], [1.0, 1.0], {}, None).low.rank == 8


def test_a_strongly_cancelling_difference_is_cut_in_float64():
    a, small = low((60, 50), 4, 1), low((60, 50), 4, 2)
    near = LowRank(
        np.concatenate([a.down, small.down]), np.concatenate([a.up, np.float32(1e-4) * small.up], 1), 2.0
    )  # scale 1/4, as a has it
    made = merged(LINEAR, [near, a], [1.0, -1.0], {}, RankRule("fixed", 4))
    wanted = 1e-4 * wide(small)
    assert relative(wide(made.low), wanted) < 1e-3


def test_a_linear_layer_and_a_point_convolution_are_the_same_weight():
    a, b = low((6, 4), 2, 1), low((6, 4, 1, 1), 2, 2)
    made = merged(LINEAR, [a, b], [1.0, 1.0], {}, None)
    assert made.low.shape == (6, 4, 1, 1)
    np.testing.assert_allclose(made.low.delta()[:, :, 0, 0], a.delta() + b.delta()[:, :, 0, 0], rtol=1e-5, atol=1e-5)


def test_a_dense_method_gets_the_sum_of_the_ranks_by_default():
    a, b = low((80, 90), 4, 1), low((80, 90), 3, 2)
    made = merged(MERGE_METHODS["ties"], [a, b], [1.0, 1.0], {}, None)
    assert made.low.rank == 7 and 0 < made.error < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 8), st.integers(0, 99))
def test_the_triplets_of_a_dense_delta_are_the_optimum(out, fan_in, most, seed):
    dense = np.random.default_rng(seed).standard_normal((out, fan_in), "f4")
    found = of_dense(dense, (out, fan_in), most)
    k = min(most, out, fan_in)
    values = np.linalg.svd(dense.astype("f8"), compute_uv=False)
    np.testing.assert_allclose(found.s, values[:k], rtol=1e-3, atol=1e-4)
    best = float(np.linalg.norm(values[k:]) / np.linalg.norm(values))
    error = relative(found.cut(k).delta(), dense)
    assert error <= best * 1.001 + 1e-5 and found.error(k) == pytest.approx(error, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.floats(-4, 4), st.integers(0, 99))
def test_triplets_of_factors_are_theirs_however_bad_the_factors(out, fan_in, rank, power, seed):
    draw = np.random.default_rng(seed)
    scales = (10.0 ** np.linspace(0, power, rank)).astype("f4")
    up, down = (
        draw.standard_normal((out, rank), "f4") * scales,
        draw.standard_normal((rank, fan_in), "f4") / scales[:, None],
    )
    found = decompose(up, down, (out, fan_in))
    wanted = up.astype("f8") @ down.astype("f8")
    assert relative((found.u.astype("f8") * found.s) @ found.vh.astype("f8"), wanted) < 2e-6
