"""Merged modules of all number types against float64 dense algebra, as files hold them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.arrays import Stored, cast, raw
from lorakit.deltas.full import Full
from lorakit.deltas.low_rank import LowRank
from lorakit.deltas.norm import Norm
from lorakit.lowrank.ranks import RankRule
from lorakit.merging.kernel.module import merged
from lorakit.merging.kernel.operands import in_memory, operand
from lorakit.registry import MERGE_METHODS

LINEAR = MERGE_METHODS["linear"]
DTYPES = ("F16", "BF16", "F32", "F64")
shapes = st.sampled_from([(1, 1), (2, 40), (30, 20), (300, 280), (5, 4, 3, 3), (16, 9, 1, 1)])
adapters = st.lists(
    st.tuples(st.integers(1, 7), st.sampled_from(DTYPES), st.floats(-3, 3), st.sampled_from([0.25, 1.0, 8.0])),
    min_size=1,
    max_size=4,
)


def stored(values, dtype):
    data = bytes(raw(cast(values, dtype)))
    return Stored(dtype, tuple(values.shape), lambda: data)


def in_file(shape, rank, dtype, alpha, seed):
    draw = np.random.default_rng(seed)
    down = draw.standard_normal((rank, *shape[1:]))
    up = draw.standard_normal((shape[0], rank, *[1] * (len(shape) - 2)))
    return LowRank(stored(down.astype("f4"), dtype), stored(up.astype("f4"), dtype), alpha)


def dense(delta):
    """In float64, from the very numbers of the file."""
    up, down = (x.float().astype("f8").reshape(x.shape[0], -1) for x in (delta.up, delta.down))
    return up @ down * (delta.alpha / delta.rank)


def join(deltas, weights, rule):
    return merged(LINEAR, [operand(in_memory(delta)) for delta in deltas], weights, {}, rule)


def whole(made, like):
    if made.low is None:
        return np.zeros_like(like)
    return made.low.mapped(lambda x: x.astype("f8")).delta().reshape(like.shape)


@settings(max_examples=80, deadline=None)
@given(shapes, adapters, st.integers(0, 9999))
def test_the_sum_is_exact_whatever_the_types(shape, found, seed):
    deltas = [in_file(shape, rank, dtype, alpha, seed + i) for i, (rank, dtype, _, alpha) in enumerate(found)]
    weights = [weight for _, _, weight, _ in found]
    terms = [w * dense(delta) for w, delta in zip(weights, deltas, strict=True)]
    wanted = sum(terms)
    made = join(deltas, weights, RankRule("full"))
    assert np.linalg.norm(whole(made, wanted) - wanted) <= 3e-6 * max(map(np.linalg.norm, terms)) + 1e-30
    back = join(deltas[::-1], weights[::-1], RankRule("full"))
    assert np.linalg.norm(whole(back, wanted) - whole(made, wanted)) <= 6e-6 * max(map(np.linalg.norm, terms)) + 1e-30


@settings(max_examples=40, deadline=None)
@given(shapes, adapters, st.integers(1, 12), st.integers(0, 9999))
def test_a_rank_gives_the_optimum_and_says_what_it_cost(shape, found, rank, seed):
    deltas = [in_file(shape, r, dtype, alpha, seed + i) for i, (r, dtype, _, alpha) in enumerate(found)]
    weights = [weight for _, _, weight, _ in found]
    wanted = sum(w * dense(delta) for w, delta in zip(weights, deltas, strict=True))
    size = np.linalg.norm(wanted)
    if size < 1e-3:
        return
    made = join(deltas, weights, RankRule("fixed", rank))
    best = np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[rank:]) / size
    error = np.linalg.norm(whole(made, wanted) - wanted) / size
    assert error <= 1.0001 * best + 1e-5
    assert made.error == pytest.approx(error, rel=1e-3, abs=1e-4)
    assert made.low is not None and made.low.rank <= rank


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(1, 6), st.sampled_from(DTYPES), st.floats(0.01, 50), st.integers(0, 9999))
def test_weights_1_and_0_give_the_first_and_a_less_itself_nothing(shape, rank, dtype, weight, seed):
    a, b = in_file(shape, rank, dtype, 2.0, seed), in_file(shape, 3, "F32", 1.0, seed + 1)
    wanted = dense(a)
    assert np.linalg.norm(whole(join([a, b], [1.0, 0.0], None), wanted) - wanted) <= 3e-6 * np.linalg.norm(wanted)
    for rule in (None, RankRule("fixed", 2), RankRule("energy", 0.99), RankRule("auto"), RankRule("budget", 1e9)):
        made = join([a, a], [weight, -weight], rule)
        assert made.low is None and made.found is None


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([(6, 40), (40, 6), (300, 270), (5, 4, 3, 3)]),
    st.integers(1, 5),
    st.floats(-2, 2),
    st.integers(0, 999),
)
def test_dense_deltas_beside_low_rank_ones(shape, rank, weight, seed):
    full = Full(np.random.default_rng(seed).standard_normal(shape).astype("f4"))
    low = in_file(shape, 3, "F16", 2.0, seed)
    wanted = full.diff.reshape(shape[0], -1).astype("f8") + weight * dense(low)
    made = merged(LINEAR, [operand(full), operand(in_memory(low))], [1.0, weight], {}, RankRule("fixed", rank))
    best = np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[rank:])
    assert np.linalg.norm(whole(made, wanted) - wanted) <= 1.0001 * best + 1e-5 * np.linalg.norm(wanted)
    assert made.low.shape == shape


def test_a_vector_is_a_column():
    made = merged(
        LINEAR, [operand(Norm(np.float32([1, 2, 3]))), operand(Norm(np.float32([0, 1, 0])))], [2, -1], {}, None
    )
    np.testing.assert_allclose(made.low.delta(), [[2], [3], [6]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_no_operand(value, dtype):
    bad = np.ones((3, 2), "f4")
    bad[1, 1] = value
    assert in_memory(LowRank(stored(np.ones((2, 4), "f4"), dtype), stored(bad, dtype), 1.0)) is None
