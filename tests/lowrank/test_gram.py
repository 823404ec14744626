import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.lowrank.certified import SpectrumRequest, bounds
from lorakit.lowrank.dense import DenseDelta
from lorakit.lowrank.gram import by_gram
from tests.support.matrices import fine_tuned, optimum, with_values


def solved(delta, wanted):
    return by_gram(DenseDelta(delta), delta.shape, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.integers(-4, 4))
def test_it_is_the_optimum(out, into, rank, seed, power):
    delta = (np.random.default_rng(seed).standard_normal((out, into)) * 10.0**power).astype("f4")
    found = solved(delta, SpectrumRequest(rank))
    k = min(rank, out, into)
    assert len(found.s) == k
    wide = delta.astype("f8")
    held = (wide**2).sum() - ((wide - (found.u * found.s).astype("f8") @ found.vh) ** 2).sum()
    assert held == pytest.approx(optimum(delta, k), rel=1e-5)
    assert found.best[k - 1] >= optimum(delta, k) * (1 - 1e-6)


def test_the_certificate_is_above_the_true_excess_and_close_to_it():
    delta = fine_tuned(300, 500)
    found = solved(delta, SpectrumRequest(32))
    whole = float((delta.astype("f8") ** 2).sum())
    true = (1 - optimum(delta, 32) / whole) ** 0.5
    mine = float(np.linalg.norm(((found.u * found.s) @ found.vh - delta).astype("f8"))) / whole**0.5
    assert mine - true - 1e-6 <= found.excess(32) <= 1e-4
    assert found.slack >= found.excess(32)


def test_a_share_takes_the_least_rank():
    delta = with_values(60, 80, [3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    ranks = [len(solved(delta, SpectrumRequest(60, share=share)).s) for share in (0.5, 0.64, 0.9, 0.95)]
    assert ranks == [1, 1, 2, 3]


def test_a_floor_takes_what_is_above_it():
    found = solved(with_values(60, 80, [3.0, 2.0, 1.0, 0.1, 0.05]), SpectrumRequest(60, floor=0.5))
    assert len(found.s) == 3 and found.floor == 0.5


def test_small_values_are_as_good_as_large_ones():
    values = np.logspace(0, -4, 20)
    np.testing.assert_allclose(
        solved(with_values(200, 150, values), SpectrumRequest(20)).s, values, rtol=1e-2, atol=1e-7
    )


def test_nothing_has_no_triplets():
    found = solved(np.zeros((4, 6), "f4"), SpectrumRequest(2))
    assert len(found.s) == 0 and found.kept(1) == 1 and found.excess(1) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 999), st.floats(0, 3))
def test_bounds_hold_for_any_basis(size, width, seed, scale):
    draw = np.random.default_rng(seed)
    half = draw.standard_normal((size, size)) * np.logspace(0, -scale, size)
    whole = half @ half.T
    basis = np.linalg.qr(draw.standard_normal((size, min(width, size))))[0]
    theta, turn = np.linalg.eigh(basis.T @ whole @ basis)
    theta, turn = theta[::-1], turn[:, ::-1]
    rest = (whole @ basis - basis @ (basis.T @ whole @ basis)) @ turn
    away = np.eye(size) - basis @ basis.T
    outside = float(np.linalg.norm(away @ whole @ away, 2))
    true = np.linalg.eigvalsh(whole)[::-1].cumsum()
    for k in range(1, len(theta) + 1):
        assert (bounds(theta, rest.T @ rest, outside, k) >= true[:k] * (1 - 1e-9)).all()
