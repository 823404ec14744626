import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.lowrank.overlap import cosine, likeness, mean


def factors(*terms, out=4, into=5):
    """(up, down) of value * e_i e_j' for each (value, i, j)."""
    up, down = np.zeros((out, len(terms)), "f4"), np.zeros((len(terms), into), "f4")
    for k, (value, i, j) in enumerate(terms):
        up[i, k], down[k, j] = value, 1
    return up, down


def test_one_inside_the_other():
    found = likeness(factors((3, 0, 0)), factors((4, 0, 0), (3, 1, 1)))
    assert found.product == pytest.approx(12) and found.norms == pytest.approx((3, 5))
    assert found.cosine == pytest.approx(12 / 15)
    assert (found.outputs, found.inputs) == pytest.approx((1, 1))  # the smaller space lies in the larger
    assert found.by_chance == (2 / 4, 2 / 5)


def test_an_angle_of_60_degrees():
    a = np.array([[1.0], [0]]), np.array([[2.0, 0, 0]])
    b = np.array([[0.5], [0.75**0.5]]), np.array([[7.0, 0, 0]])
    found = likeness(a, b)
    assert found.cosine == pytest.approx(0.5)
    assert (found.outputs, found.inputs) == pytest.approx((0.25, 1))  # cos² of 60 degrees, and of 0


def test_same_places_for_different_things():
    found = likeness(factors((1, 0, 0), (1, 1, 1)), factors((1, 0, 1), (1, 1, 0)))
    assert found.cosine == pytest.approx(0, abs=1e-7) and (found.outputs, found.inputs) == pytest.approx((1, 1))


def test_opposites_and_nothing():
    assert likeness(factors((2, 0, 0)), factors((-5, 0, 0))).cosine == pytest.approx(-1)
    nothing = likeness(factors((0, 0, 0)), factors((1, 0, 0)))
    assert (nothing.cosine, nothing.outputs, nothing.inputs) == (0, 0, 0)


def test_a_factor_that_repeats_itself_counts_once():
    up, down = factors((1, 0, 0))
    twice = np.concatenate([up, up], 1), np.concatenate([down, down])
    found = likeness(twice, factors((1, 0, 0), (1, 1, 1)))
    assert (found.outputs, found.inputs) == pytest.approx((1, 1)) and found.norms[0] == pytest.approx(2)


def test_modules_together_count_by_their_norms():
    same, apart = likeness(factors((3, 0, 0)), factors((3, 0, 0))), likeness(factors((1, 0, 0)), factors((1, 1, 1)))
    assert cosine([same, apart]) == pytest.approx(9 / 10)  # (9 + 0) / (sqrt(9 + 1) sqrt(9 + 1))
    assert mean([same, apart], "outputs") == pytest.approx(9 / 10)  # (1 * 9 + 0 * 1) / (9 + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
def test_it_is_what_the_dense_deltas_say(out, into, r, s, seed):
    draw = np.random.default_rng(seed)
    a, b = ((draw.standard_normal((out, k)).astype("f4"), draw.standard_normal((k, into)).astype("f4")) for k in (r, s))
    x, y = (up.astype("f8") @ down for up, down in (a, b))
    found = likeness(a, b)
    expected = float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.cosine == pytest.approx(expected, abs=1e-5)
    qx, qy = (np.linalg.svd(m)[0][:, : np.linalg.matrix_rank(m, 1e-5)] for m in (x, y))
    angles = np.linalg.svd(qx.T @ qy, compute_uv=False)
    assert found.outputs == pytest.approx(float((angles**2).mean()), abs=1e-4)
