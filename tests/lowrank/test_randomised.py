import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.lowrank.certified import SpectrumRequest
from lorakit.lowrank.dense import DenseDelta
from lorakit.lowrank.krylov import Space, orthonormal
from lorakit.lowrank.outside import PROBES, least_length, outside
from lorakit.lowrank.randomised import SHARE, leading
from lorakit.lowrank.solve import triplets
from tests.support.matrices import fine_tuned, with_values


def solved(delta, wanted, seed=0):
    return leading(DenseDelta(delta), delta.shape, wanted, seed)


def check(delta, found, rank):
    """What is found is as good as it is said to be, by float64's full decomposition."""
    wide = delta.astype("f8")
    true_sums = (np.linalg.svd(wide, compute_uv=False) ** 2).cumsum()
    best, total = float(true_sums[rank - 1]), float(true_sums[-1])
    assert (np.asarray(found.best) >= true_sums[: len(found.best)] * (1 - 1e-6)).all()
    residual = float(((wide - (found.u * found.s).astype("f8") @ found.vh) ** 2).sum())
    held = float((found.s.astype("f8") ** 2).sum())
    assert found.best[rank - 1] >= best * (1 - 1e-6)  # the bound is above what is possible
    assert found.of_optimum(rank) <= held / best * (1 + 1e-6)  # and so the proof claims no more than is so
    assert found.of_optimum(rank) >= SHARE * (1 - 1e-5)
    assert held >= SHARE * best * (1 - 1e-5)
    assert found.total - held == pytest.approx(residual, rel=1e-3, abs=1e-5 * total)
    true = residual**0.5 - max(0.0, total - best) ** 0.5
    assert true / total**0.5 <= found.excess(rank) + 1e-5


@pytest.mark.parametrize("shape", [(320, 320), (320, 2880), (1500, 400)])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_found_is_proven_and_the_proof_is_true(shape, seed):
    delta = fine_tuned(*shape, seed=seed)
    found = solved(delta, SpectrumRequest(32), seed)
    assert found is not None and found.excess(32) < 2e-3
    check(delta, found, 32)


falls = st.one_of(
    st.tuples(st.just("power"), st.floats(0.2, 3)),
    st.tuples(st.just("exponential"), st.floats(0.01, 1)),
    st.tuples(st.just("step"), st.floats(0.001, 0.99)),
)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(90, 180),
    st.integers(90, 180),
    st.integers(1, 8),
    falls,
    st.floats(0, 0.5),
    st.integers(0, 999),
    st.integers(-6, 3),
)
def test_no_spectrum_makes_the_certificate_too_small(out, into, rank, fall, noise, seed, power):
    kind, by = fall
    i = np.arange(min(out, into, 60))
    values = {"power": (i + 1.0) ** -by, "exponential": np.exp(-by * i), "step": np.where(i < rank + 3, 1.0, by)}[kind]
    draw = np.random.default_rng(seed)
    delta = with_values(out, into, values, seed).astype("f8")
    rest = draw.standard_normal((out, into))
    delta = ((delta + rest * (noise * np.linalg.norm(delta) / np.linalg.norm(rest))) * 10.0**power).astype("f4")
    found = triplets(
        DenseDelta(delta), delta.shape, SpectrumRequest(rank), exact=False, seed=seed
    )  # or by the Gram matrix
    check(delta, found, rank)


def test_low_rank_is_found_exactly():
    delta = with_values(400, 600, [3.0, 2.0, 1.0, 0.5])
    found = solved(delta, SpectrumRequest(8))
    np.testing.assert_allclose((found.u * found.s) @ found.vh, delta, rtol=0, atol=1e-6)
    assert found.excess(4) < 1e-3


@pytest.mark.parametrize("share", [0.5, 0.8, 0.89])
def test_it_grows_until_the_share_is_held(share):
    delta = fine_tuned(600, 800)
    found = solved(delta, SpectrumRequest(600, share=share))
    values = (np.linalg.svd(delta.astype("f8"), compute_uv=False) ** 2).cumsum()
    least = 1 + int((values < share * values[-1]).sum())
    assert found is None or least <= len(found.s) <= least + 1


def test_a_floor_is_seen_from_above_and_below():
    assert len(solved(with_values(400, 400, [5.0] * 10 + [1e-3] * 300), SpectrumRequest(400, floor=0.1)).s) == 10


def test_the_same_seed_gives_the_same_bits():
    delta = fine_tuned(320, 320)
    a, b = (solved(delta, SpectrumRequest(16), 5) for _ in range(2))
    assert np.array_equal(a.u, b.u) and np.array_equal(a.vh, b.vh) and a.best == b.best


def test_it_hands_over_what_it_cannot_prove():
    flat = np.random.default_rng(0).standard_normal((400, 400)).astype("f4")
    assert solved(flat, SpectrumRequest(32)) is None  # no value stands out
    assert solved(flat, SpectrumRequest(300)) is None  # more work than a whole decomposition


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 200), st.integers(2, 20), st.integers(0, 40), st.floats(0, 4), st.integers(0, 99))
def test_the_bound_outside_a_space_holds(size, width, alike, fall, seed):
    values = np.concatenate([np.ones(alike), (np.arange(size - min(alike, size)) + 1.0) ** -fall])[:size]
    x = DenseDelta(with_values(size, size + 30, np.sort(values)[::-1], seed))
    draw = np.random.default_rng(seed)
    space = Space(x, width, draw)
    probes = draw.standard_normal((size, PROBES), np.float32)
    space.grow(width, probes)
    away = np.eye(size) - space.basis.astype("f8") @ space.basis.T
    true = np.linalg.norm(away @ x.x.astype("f8"), 2) ** 2
    limits = list(outside(space, probes, space.probed, 0.1, 4))
    assert len(limits) == 3 and min(limits) >= true * (1 - 1e-5)


def test_probes_are_seldom_shorter():
    lengths = np.linalg.norm(np.random.default_rng(0).standard_normal((200_000, PROBES)), axis=1)
    assert least_length(PROBES) < lengths.min()
    assert least_length(2) == pytest.approx(
        (-2 * np.log1p(-1e-10)) ** 0.5, rel=1e-6
    )  # chi-square with 2 is exponential


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(0, 10), st.integers(1, 10), st.floats(0, 6), st.integers(0, 99))
def test_bases_are_orthonormal_whatever_they_are_of(columns, others, rank, fall, seed):
    draw = np.random.default_rng(seed)
    beside = np.linalg.qr(draw.standard_normal((50, others)))[0].astype("f4")
    y = (
        draw.standard_normal((50, rank))
        @ draw.standard_normal((rank, columns))
        * 10.0 ** -np.linspace(0, fall, columns)
    )
    if others:
        y += 100 * beside @ draw.standard_normal((others, columns))
    q = orthonormal(y.astype("f4"), beside)
    both = np.concatenate([beside, q], 1)
    assert q.shape[1] <= min(columns, rank + others)
    np.testing.assert_allclose(both.T @ both, np.eye(both.shape[1]), atol=3e-5)
